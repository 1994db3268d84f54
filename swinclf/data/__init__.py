"""Reading of image datasets: folder scan, decoding, splits, transforms and batches."""
