"""The use-cases, on domain types, whatever carries them: request in, outcome out."""
