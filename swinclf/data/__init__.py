"""Folders and images: what is on disk, how it is read, split and turned into arrays."""
