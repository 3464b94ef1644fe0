"""Checks of a model repository, ours or any other, without a server."""
