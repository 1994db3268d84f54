"""The server of `swinclf serve`: an HTTP API and a page, with limits, around one model."""
