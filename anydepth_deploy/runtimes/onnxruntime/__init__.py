"""ONNX Runtime on CPUs, with CUDA, and with its TensorRT provider."""
