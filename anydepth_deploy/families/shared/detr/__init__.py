"""What the real-time DETRs have in common."""
