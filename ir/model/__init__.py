"""What a model is: files and their checks, weights, names and shapes, and the signature, which must not change."""

from .loading import adopted, load
from .saving import save
from .signature import Port, signature
from .weights import check_weights, clone

__all__ = ["Port", "adopted", "check_weights", "clone", "load", "save", "signature"]
