"""Checks of a dataset: duplicates, label issues, class balance and image faults."""
