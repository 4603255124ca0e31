"""What a graph is: models, layers, forms, groups, cost, derivatives, and the one writer."""
