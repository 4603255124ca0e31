"""Small models, as text of the ONNX parser, for the tests of `runtime`."""

from collections.abc import Callable

import onnx_ir
import pytest
from onnx import parser

HEADER = '<ir_version: 10, opset_import: ["": 18{domains}]>\n'


def _parsed(text: str, domains: str = "") -> onnx_ir.Model:
    return onnx_ir.from_proto(parser.parse_model(HEADER.format(domains=domains) + text))


@pytest.fixture
def parsed() -> Callable[..., onnx_ir.Model]:
    """Text of a graph -> model at opset 18."""
    return _parsed


@pytest.fixture
def relu() -> onnx_ir.Model:
    return _parsed("g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")
