"""Training of D-FINE: distributions over edges, and the losses that sharpen them."""
