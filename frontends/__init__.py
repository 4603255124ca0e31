"""From other formats and frameworks to ONNX."""
