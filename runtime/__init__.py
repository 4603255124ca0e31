"""What a graph does: sessions, data, comparison and timing; the only importer of ONNX Runtime."""
