"""From the graphs of a bundle to engines of TensorRT and TensorRT-RTX."""
