"""The server: shells around the endpoints."""
