"""Training of AnyDepth-YOLO: assignment, losses and one step of self-distillation."""
