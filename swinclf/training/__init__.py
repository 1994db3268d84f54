"""Training: what is trained on, by which rates, in one loop, with a state that can be saved and taken up again."""
