"""Inference: a run or an exported file computes a stream of images, in order, in bounded memory."""
