"""Proof: graphs against their checkpoint, engines against their graphs."""
