"""certserve."""
