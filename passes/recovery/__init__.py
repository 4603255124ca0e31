"""Recovery: a short retraining of a compressed model towards the outputs of the original, on the ONNX graph itself."""
