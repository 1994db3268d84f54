"""The steps of a training, one per file, each from values to values."""
