"""How far an answer can be trusted: temperature, rejection and out-of-distribution scores."""
