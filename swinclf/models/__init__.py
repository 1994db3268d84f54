"""Networks: their shapes, their weights and their cost. Knows nothing of image files, runs or the command line."""
