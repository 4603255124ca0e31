"""What a graph does: sessions, data, comparison, timing. Nothing else in Kronnx imports onnxruntime."""
