"""Measuring: how long a depth takes, compared fairly."""
