"""What is timed: artifacts of a bundle, or a checkpoint on torch."""
