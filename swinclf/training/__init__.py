"""Training: on what, at which rates, in one loop, with a state that can be taken up again."""
