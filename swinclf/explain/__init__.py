"""Looking into a network: what it costs, where it looks, and pictures of both."""
