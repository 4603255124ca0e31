"""What a model goes through before and after the passes, and its signature, which must not change."""

from .loading import load
from .normalize import normalize, normalize_with_notes
from .saving import save
from .signature import Port, signature
from .weights import check_weights, clone

__all__ = ["Port", "check_weights", "clone", "load", "normalize", "normalize_with_notes", "save", "signature"]
