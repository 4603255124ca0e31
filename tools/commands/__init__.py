"""The command line: arguments in; a model, a table and an exit code out."""
