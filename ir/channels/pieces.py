"""The places in a graph that change together when channels of a group are removed."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Producer:
    """A layer that makes the channels: `rows` [channels, m] of its output axis."""

    layer: str
    rows: np.ndarray


@dataclass(frozen=True, eq=False)
class Consumer:
    """A layer that reads the channels linearly: `columns` [channels, k] of the `in` axis of its W."""

    layer: str
    columns: np.ndarray


@dataclass(frozen=True, eq=False)
class Carrier:
    """A depthwise convolution that hands each channel on: `rows` [channels, m] of its output axis, its attribute
    `group` being one for each channel that it reads."""

    layer: str
    rows: np.ndarray
    multiplier: int


@dataclass(frozen=True, eq=False)
class Sliced:
    """A constant that a node reads as its input number `input`: positions `index` [channels, m] of `axis` go with the
    channels."""

    node: str
    input: int
    axis: int
    index: np.ndarray


@dataclass(frozen=True, eq=False)
class Extent:
    """A whole number among the constants of a node (a size in Reshape or Split, a bound in Slice) that counts
    channels.

    Element `position` of input number `input` is `value` now, and falls by `sign` for each of `index` [channels, m]
    that goes. `whole` holds all elements of a Split's sizes, for one that has none written.
    """

    node: str
    input: int
    position: int
    value: int
    sign: int
    index: np.ndarray
    whole: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Resized:
    """A value whose `axis` shrinks by one for each of `index` [channels, m] that goes."""

    value: str
    axis: int
    index: np.ndarray
