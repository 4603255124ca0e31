"""From words to what a job takes: each field of its dataclasses has an option, and each option reaches its field."""

import inspect
from dataclasses import fields
from pathlib import Path

import kronnx
import pytest
from kronnx.tools.commands.arguments import budget_of, parse, taken
from kronnx.tools.job.budget import Budget, Limit
from kronnx.tools.job.machine import Machine
from kronnx.tools.job.sources import Sources

SOURCES = {
    "--input": "x=float32[batch,3]",
    "--example-inputs": "examples.npz",
    "--data": "data.npz",
    "--eval-data": "evaluation.npz",
    "--labels": "labels.npy",
    "--train-labels": "train_labels.npy",
    "--calibration": "17",
    "--head": "logits=categorical",
    "--judge": "boxes",
    "--seed": "3",
}
MACHINE = {
    "--target": "cuda",
    "--threads": "2",
    "--batch": "8",
    "--cache-dir": "cache",
    "--memory-limit": "4G",
}


def words(options: dict[str, str]) -> list[str]:
    return ["m.keras", *(word for pair in options.items() for word in pair)]


def test_every_option_reaches_the_field_of_its_name():
    assert taken(Sources, parse(words(SOURCES))) == Sources(
        model=Path("m.keras"),
        inputs=["x=float32[batch,3]"],
        example_inputs="examples.npz",
        data="data.npz",
        eval_data="evaluation.npz",
        labels="labels.npy",
        train_labels="train_labels.npy",
        calibration=17,
        heads={"logits": "categorical"},
        judge=("boxes",),
        seed=3,
    )
    machine = Machine("cuda", 2, 8, Path("cache"), 4_000_000_000, fresh=True)
    assert taken(Machine, parse([*words(MACHINE), "--fresh"])) == machine


def test_the_budget_is_what_was_asked_for():
    options = parse(["m.onnx", "--max-drop", "rel=0.05", "--speedup", "1.5", "--size", "0.5", "--macs", "0.25"])
    assert budget_of(options) == Budget(Limit("rel", 0.05), 1.5, 0.5, 0.25)


def test_what_a_command_has_no_option_for_is_as_by_default():
    options = parse(["convert", "m.keras"])
    assert taken(Machine, options) == Machine()
    assert taken(Sources, options) == Sources(Path("m.keras"), inputs=[], heads={})


def test_without_options_a_job_is_what_it_is_in_python():
    options = parse(["m.onnx"])
    assert taken(Machine, options) == Machine()
    assert taken(Sources, options) == Sources(Path("m.onnx"), inputs=[], heads={})
    assert budget_of(options) == Budget()


@pytest.mark.parametrize("kind", [Sources, Machine, Budget])
def test_every_field_has_an_option_and_a_keyword_in_python(kind):
    names = {field.name for field in fields(kind)}
    assert names <= vars(parse(["m.onnx"])).keys()
    assert names - {"model"} <= inspect.signature(kronnx.optimize).parameters.keys()
