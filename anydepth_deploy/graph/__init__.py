"""From torch stages to ONNX: export pieces, fold them, assemble gated and static graphs."""
