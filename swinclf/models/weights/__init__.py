"""Weight files: found, identified, read, and fitted to a network."""
