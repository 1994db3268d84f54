"""Weight files: located, identified, read, and adapted to a network."""
