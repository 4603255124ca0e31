"""Pipelines as text: `svd{rank=0.5 layers=encoder.*},prune` in, passes out, and back."""

import dataclasses
import re
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ...ir.errors import PluginError, UsageError
from ...ir.plugins import answering
from ...passes.planning.stages import Stage
from ...passes.registry import available
from .nearest_names import did_you_mean

STAGE = re.compile(r"\s*([\w.-]+)\s*(?:\{([^{}]*)\})?\s*(?:,|$)")
OPTION = re.compile(r"\s*([\w-]+)\s*=\s*(\S+)")


def parse(text: str) -> tuple[Stage, ...]:
    """The stages of a pipeline, in order; options are the fields of the stage, separated by spaces.

    Raises UsageError for what can't be read, and for unknown passes, options and values, with the nearest that exists;
    PluginError for a pass of another package that can't be used.
    """
    known = available()
    stages, at = [], 0
    while at < len(text):
        match = STAGE.match(text, at)
        if match is None:
            raise UsageError(
                f"can't read the pipeline {text!r} from {text[at:]!r} on; write it like svd{{rank=0.5}},prune"
            )
        if match[1] in known.broken:
            raise PluginError(known.broken[match[1]])
        stages.append(_pass(match[1], match[2] or "", known.working))
        at = match.end()
    if not stages:
        raise UsageError("the pipeline is empty; write it like svd,prune")
    return tuple(stages)


def text_of(stages: tuple[Stage, ...]) -> str:
    """The pipeline that `parse` would read as `stages`, options that differ from their defaults only."""
    return ",".join(_stage_text(stage) for stage in stages)


def _stage_text(stage: Stage) -> str:
    fields = dataclasses.fields(stage) if dataclasses.is_dataclass(stage) else ()
    given = [(f.name, getattr(stage, f.name)) for f in fields if getattr(stage, f.name) != f.default]
    options = " ".join(f"{name}={value}" for name, value in given)
    return f"{stage.name}{{{options}}}" if options else stage.name


def _pass(name: str, options: str, known: Mapping[str, type[Stage]]) -> Stage:
    if name not in known:
        raise UsageError(f"no pass {name!r}{did_you_mean(name, known)}")
    kind = known[name]
    with answering(kind, "pass", "its options"):
        return kind(**_given(name, options, kind))


def _given(name: str, options: str, kind: type[Stage]) -> dict[str, Any]:
    given, at = {}, 0
    hints = get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    while options[at:].strip():
        match = OPTION.match(options, at)
        if match is None:
            raise UsageError(
                f"{name}{{{options}}}: can't read {options[at:].strip()!r}; options look like rank=0.5 layers=encoder.*"
            )
        if match[1] not in names:
            raise UsageError(f"{name}: no option {match[1]!r}{did_you_mean(match[1], names)}")
        if match[1] in given:
            raise UsageError(f"{name}{{{options}}}: the option {match[1]!r} is given twice")
        given[match[1]] = _value(name, match[1], match[2], hints[match[1]])
        at = match.end()
    return given


def _value(name: str, option: str, text: str, hint: Any) -> Any:
    """`text` as the type of the option; for a union such as `float | None`, its first arm."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(a for a in get_args(hint) if a is not types.NoneType)
    if get_origin(hint) is Literal:
        return _one_of(name, option, text, get_args(hint))
    kind = hint
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UsageError(f"{name}{{{option}={text}}}: true or false is needed")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError as e:
        spaces = "; options are parted by spaces" if "," in text else ""
        raise UsageError(f"{name}{{{option}={text}}}: a value of type {kind.__name__} is needed{spaces}") from e


def _one_of(name: str, option: str, text: str, choices: tuple[Any, ...]) -> Any:
    known = {str(choice): choice for choice in choices}
    if text not in known:
        raise UsageError(f"{name}{{{option}={text}}}: one of {', '.join(known)} is needed")
    return known[text]
