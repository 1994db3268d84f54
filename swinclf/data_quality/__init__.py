"""What is wrong with a dataset: one pass over its files, and what follows from it."""
