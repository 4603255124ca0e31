"""What `--list-passes` and `--version` print."""

import dataclasses
import inspect
from collections.abc import Mapping

from ..ir.errors import InputError


def passes_text(passes: Mapping[str, type]) -> str:
    """Each pass with the first sentence of its docstring, then its options: name, type, default."""
    return "\n".join(line for name in sorted(passes) for line in _lines(name, passes[name]))


def _lines(name: str, kind: type) -> list[str]:
    options = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    shown = [(f"    {option.name}={_default(option)}", _type(option)) for option in options]
    width = max((len(left) for left, _ in shown), default=0)
    return [f"{name:<10}{_first_sentence(kind)}", *(f"{left:<{width}}  {right}" for left, right in shown)]


def _first_sentence(kind: type) -> str:
    text = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
    return text.split(". ")[0].rstrip(".")


def _default(option: dataclasses.Field) -> str:
    if option.default_factory is not dataclasses.MISSING:
        return str(option.default_factory())
    return "" if option.default is dataclasses.MISSING else str(option.default)


def _type(option: dataclasses.Field) -> str:
    return option.type if isinstance(option.type, str) else inspect.formatannotation(option.type)


def versions_text() -> str:
    """Packages with their versions, then the providers that ran a small model just now."""
    from ..runtime.environment import versions

    return "\n".join(f"{name:<16}{version}" for name, version in [*versions().items(), ("providers", _providers())])


def _providers() -> str:
    from ..runtime.environment import working_providers

    try:
        return ", ".join(working_providers()) or "none works here"
    except InputError as e:
        return f"none: {e}"
