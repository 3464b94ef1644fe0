"""From the operators of torch (ATen) to those of ONNX: one function for each, in rooms by kind."""
