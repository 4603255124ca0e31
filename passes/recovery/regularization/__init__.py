"""What is trained in beside the outputs: sparsity, gates, dropout."""
