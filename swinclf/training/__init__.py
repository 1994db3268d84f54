"""Training: batches, defaults, objective, optimizer, the loop, and resumable checkpoints."""
