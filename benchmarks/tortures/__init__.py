"""The parts of torture.py: a module each."""
