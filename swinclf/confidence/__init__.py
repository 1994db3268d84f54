"""The confidence of predictions: calibration, rejection and out-of-distribution scores."""
