"""The checkpoint itself, executed by torch."""
