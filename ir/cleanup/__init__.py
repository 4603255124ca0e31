"""From a model as it was written to the one form that analyses read, by rules that change no result."""
