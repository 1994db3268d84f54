"""Networks: names, construction, freezing, weights, inference. Reads no image files."""
