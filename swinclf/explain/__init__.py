"""Explanation of a network: complexity, attention, saliency, and figures of them."""
