"""What stands around a classifier beside smoothing. None of it is a guarantee."""
