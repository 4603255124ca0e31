"""Names out of a model, printed: what a terminal would obey is written out, and what people write stays."""

import json
from dataclasses import dataclass, field

import pytest
from kronnx.tools.report.visible_text import visible, visible_json, visible_record


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("a\u202eb\u2066", "a\\u202eb\\u2066"),
        ("over\rwritten\x7f\x08", "over\\rwritten\\x7f\\x08"),
        ("\u2028\udc80\U000e0041", "\\u2028\\udc80\\U000e0041"),
    ],
)
def test_what_a_terminal_obeys_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_what_people_write_stays() -> None:
    text = "größe/α 層 😀 {x} µs\n\tnext"
    assert visible(text) == text


@dataclass(frozen=True)
class Inner:
    name: str


@dataclass(frozen=True)
class Outer:
    inner: tuple[Inner, ...]
    heads: dict[str, str] = field(default_factory=dict)
    size: int = 3


def test_a_record_is_visible_to_its_depth_and_on_one_line() -> None:
    made = visible_record(Outer((Inner("a\nb\x1b"),), {"\x1b": "kl"}))
    assert made == Outer((Inner("a\\nb\\x1b"),), {"\\x1b": "kl"})


def test_json_means_the_same_and_holds_nothing_unseen() -> None:
    names = ["\x1b\x9b\u202e\udc80", "\U000e0041", "größe"]
    text = visible_json(json.dumps(names, ensure_ascii=False, indent=1))
    assert json.loads(text) == names
    assert "größe" in text
    assert text.replace("\n", "").isprintable()
