"""Text of strangers made fit to be printed: names in a model can hold what a terminal obeys or reorders."""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar

UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of Unicode: controls, marks of direction and the like, halves of characters, separators of lines."""
LAYOUT = "\n\t"


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


T = TypeVar("T", bound=_Dataclass)


def visible(text: str, kept: str = LAYOUT) -> str:
    """`text` with what can't be seen written out, as `\\x1b` or `\\u202e`, but for the characters `kept`."""
    return "".join(_written(sign) if _is_unseen(sign) and sign not in kept else sign for sign in text)


def visible_record(record: T) -> T:
    """The record with all texts in it, however deep, made visible, each on one line."""
    return replace(record, **{field.name: _visible_value(getattr(record, field.name)) for field in fields(record)})


def visible_json(text: str) -> str:
    """The same JSON, with escapes of its own for all that can't be seen."""
    return "".join(json.dumps(sign)[1:-1] if _is_unseen(sign) and sign not in LAYOUT else sign for sign in text)


def _is_unseen(sign: str) -> bool:
    return not sign.isprintable() and unicodedata.category(sign) in UNSEEN


def _written(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


def _visible_value(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value, kept="")
    if isinstance(value, tuple):
        return tuple(map(_visible_value, value))
    if isinstance(value, Mapping):
        return {_visible_value(key): _visible_value(item) for key, item in value.items()}
    return visible_record(value) if is_dataclass(value) and not isinstance(value, type) else value
