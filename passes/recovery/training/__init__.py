"""Training in one ONNX graph: the step, what it minimises, and the loop around it."""
