"""Training of the base classifiers that the packaged zoo carries."""
