"""A decoder graph as an ONNX model."""
