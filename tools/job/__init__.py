"""The jobs behind the commands: a model in; a compressed, lowered or measured one out."""
