"""What a machine has: hardware, runtimes, packages, and what of this package works with them."""
