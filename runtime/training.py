"""Training in ONNX Runtime: a step graph and its state in; the state stays on the device, and each step reads it and
writes the next one without a copy through Python."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..ir.errors import DataError
from .messages import Source, running
from .sessions import Session, Target


class Training:
    """A graph that maps a state to the next one. `state` gives the first by input name, `updates` maps an input to the
    output that is its next value; a state without an update stays as it is until it is written. States in `in_place`
    share the memory of their update; all others have a second one, and the two change places at every step.
    """

    def __init__(
        self,
        model: Source,
        state: Mapping[str, np.ndarray],
        updates: Mapping[str, str],
        in_place: Iterable[str] = (),
        target: Target | None = None,
    ) -> None:
        self._session = Session(model, target, planned=False, fused=False)
        self._results = [name for name in self._session.output_names if name not in set(updates.values())]
        shared = frozenset(in_place)
        first = {name: self._value(array) for name, array in state.items()}
        second = {n: self._value(state[n]) if n in updates and n not in shared else v for n, v in first.items()}
        self._sides = [first, second]
        self._bindings = [self._bound(one, other, updates) for one, other in ((first, second), (second, first))]

    def step(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs that are no state, after one step on one feed of all other inputs. Their shapes may not depend on
        the feed's.

        Raises DataError for names that don't fit; InputError if an operator fails.
        """
        self._check(feeds)
        binding = self._bindings[0]
        with running(self._session.runtime, feeds, self._session.given):
            for name, array in feeds.items():
                binding.bind_cpu_input(name, np.asarray(array, order="C"))
            self._session.handle.run_with_iobinding(binding)
        self._bindings.reverse()
        self._sides.reverse()
        found = binding.get_outputs()[: len(self._results)]
        return {name: value.numpy() for name, value in zip(self._results, found, strict=True)}

    def read(self, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """Copies of the state as it is: all of it, or what `names` says."""
        current = self._sides[0]
        return {name: np.array(current[name].numpy()) for name in (current if names is None else names)}

    def write(self, state: Mapping[str, np.ndarray]) -> None:
        """Sets parts of the state; shapes and types are those that were."""
        for name, array in state.items():
            self._sides[0][name].update_inplace(np.asarray(array, order="C"))

    def _value(self, array: np.ndarray) -> Any:
        """Memory on the device that holds a copy of `array`, and isn't numpy's."""
        kind, device = self._session.runtime.OrtValue, self._session.target.provider
        value = kind.ortvalue_from_shape_and_type(array.shape, array.dtype, device, 0)
        value.update_inplace(np.asarray(array, order="C"))
        return value

    def _bound(self, reads: Mapping[str, Any], writes: Mapping[str, Any], updates: Mapping[str, str]) -> Any:
        binding = self._session.handle.io_binding()
        for name, value in reads.items():
            binding.bind_ortvalue_input(name, value)
        for name in self._results:
            binding.bind_output(name, "cpu")
        for name, output in updates.items():
            binding.bind_ortvalue_output(output, writes[name])
        return binding

    def _check(self, feeds: Mapping[str, np.ndarray]) -> None:
        wanted = self._session.input_shapes.keys() - self._sides[0].keys()
        if wanted != feeds.keys():
            raise DataError(f"a step reads {sorted(wanted)}, and was given {sorted(feeds)}")
