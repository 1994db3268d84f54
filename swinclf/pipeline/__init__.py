"""What happens in a training, step by step: each file a step, each step from values to values."""
