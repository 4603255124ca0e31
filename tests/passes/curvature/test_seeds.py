"""How many vectors each sample gets, and what they are: their second moment is the Fisher information of the head."""

import networks
import numpy as np
import pytest
from kronnx.ir.output_heads import Head
from kronnx.passes.curvature import Curvature
from kronnx.passes.curvature.seeds import Seeds, unit
from kronnx.passes.curvature.survey import Survey, survey
from kronnx.passes.curvature.vectors import draws, vectors

CLASSES = Head("y", "categorical", "logits")
VALUES = Head("z", "gaussian", "values")
SEEDS = Seeds({"y": "y.draw", "z": "z.draw"}, {"y": "y.scale", "z": "z.scale"}, {"z": "z.square"})


def found(*shapes: tuple[int, ...], samples: int = 2, head: str = "y", scale: float = 1.0) -> Survey:
    return Survey(tuple({head: shape} for shape in shapes), {head: scale}, (samples,) * len(shapes))


@pytest.mark.parametrize(
    ("positions", "wanted", "given"), [(1, 8, 8), (3, 8, 3), (4, 8, 2), (5, 8, 2), (8, 8, 1), (100, 8, 1), (7, 15, 3)]
)
def test_draws_over_positions_are_at_least_as_many_as_are_wanted_and_no_more_than_it_takes(
    positions: int, wanted: int, given: int
) -> None:
    """A position is a draw of its own: 8 draws over 3 positions take 3 vectors, for 2 would be 6."""
    survey_ = found((2, positions, 50))
    assert draws(Curvature(wanted, exact_classes=0), [CLASSES], survey_) == given
    assert given * positions >= wanted > (given - 1) * positions


def test_few_classes_are_taken_in_turn_and_many_at_random() -> None:
    settings = Curvature(8, exact_classes=10)
    assert draws(settings, [CLASSES], found((2, 10))) == 10
    assert draws(settings, [CLASSES], found((2, 11))) == 8
    assert draws(settings, [VALUES], found((2, 5), head="z")) == 8


def test_all_classes_in_turn_have_the_identity_as_their_second_moment() -> None:
    survey_, settings = found((2, 4)), Curvature(8, exact_classes=10)
    drawn = [vectors(settings, [CLASSES], SEEDS, survey_, 0, k)["y.draw"] for k in range(4)]
    np.testing.assert_allclose(np.einsum("dni,dnj->nij", drawn, drawn) / 4, np.stack([np.eye(4)] * 2), atol=1e-12)


def test_random_vectors_are_signs_that_differ_from_draw_to_draw_and_come_again() -> None:
    survey_, settings = found((3, 5, 40), samples=3), Curvature(8, exact_classes=0)
    first, again, other = (vectors(settings, [CLASSES], SEEDS, survey_, 0, k)["y.draw"] for k in (0, 0, 1))
    assert set(np.unique(first)) == {-1.0, 1.0}
    np.testing.assert_array_equal(first, again)
    assert 0.3 < np.mean(first == other) < 0.7  # 600 signs
    assert abs(first.mean()) < 0.2


def test_the_loss_of_a_categorical_head_is_the_mean_over_positions_and_of_a_gaussian_one_the_sum() -> None:
    settings = Curvature(8)
    assert vectors(settings, [CLASSES], SEEDS, found((2, 9, 5)), 0, 0)["y.scale"] == pytest.approx(1 / 3)
    gaussian = found((2, 9, 5), head="z", scale=0.5)
    assert vectors(settings, [VALUES], SEEDS, gaussian, 0, 0)["z.scale"] == pytest.approx(0.5)


def test_heads_of_values_beside_classes_count_relative_to_their_mean_square() -> None:
    weights, nodes = "<float[3,4] a, float[3,2] b>", "{ y = MatMul(x, a) z = MatMul(x, b) }"
    model = networks.build(f"(float[N,3] x) => (float[N,4] y, float[N,2] z) {weights} {nodes}")
    feeds = [networks.draw(model, 5, seed) for seed in (0, 1)]
    survey_ = survey(model, [CLASSES, VALUES], feeds, networks.execute)
    squares = np.concatenate([(networks.run(model, feed)["z"] ** 2).sum(axis=1) for feed in feeds])
    assert survey_.scales["y"] == 1
    assert survey_.scales["z"] == pytest.approx(1 / np.sqrt(squares.mean()), rel=1e-6)
    assert survey_.samples == 10


@pytest.mark.parametrize(("total", "wanted"), [(50.0, 0.2), (0.0, 0.0), (np.inf, np.nan), (np.nan, np.nan)])
def test_a_gaussian_head_alone_is_measured_in_its_own_mean_square(total: float, wanted: float) -> None:
    np.testing.assert_allclose(unit([VALUES], [(SEEDS, {"z.square": np.array(total)})], 10), wanted)
    assert unit([CLASSES, VALUES], [(SEEDS, {"z.square": np.array(total)})], 10) == 1
