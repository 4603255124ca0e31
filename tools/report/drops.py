"""What a drop of the outputs is counted in: names, units and the default limits of the metrics."""

from .quantities import percent_of

KL, RELATIVE, ACCURACY = "kl", "rel", "acc"
DEFAULTS = {KL: 0.01, RELATIVE: 0.01}
NAMES = {KL: "mean KL", RELATIVE: "relative error", ACCURACY: "accuracy lost"}


def drop(metric: str, value: float) -> str:
    """'0.0087 nats', '0.83 %' or '0.4 points': mean KL, the relative error (1 is 100 %), accuracy lost."""
    if metric == RELATIVE:
        return percent_of(value)
    shown = f"{value:.3g}"
    return f"{shown} nats" if metric != ACCURACY else f"{shown} point{'' if shown == '1' else 's'}"


def drop_of(metric: str, value: float) -> str:
    """The drop inside a sentence: 'a mean KL of 0.0087 nats'."""
    return f"{drop(metric, value)} of accuracy" if metric == ACCURACY else f"a {NAMES[metric]} of {drop(metric, value)}"
