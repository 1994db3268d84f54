"""Deployable files: one format a file, and the proof that they answer as the run does."""
