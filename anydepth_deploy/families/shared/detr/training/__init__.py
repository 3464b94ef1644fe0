"""Training of AnyDepth-DETR: matching, denoising, losses and one step of self-distillation."""
