"""How weights move: optimizers as ONNX graphs, and what gradients go through before."""
