"""Answers: from a run or an exported file, for a stream of images, in order, in bounded memory."""
