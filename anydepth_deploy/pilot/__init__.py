"""Depth on autopilot: a session whose calls keep to a target."""
