"""What is known of one state of a model, each thing computed once, when it is first asked for."""

from dataclasses import dataclass, field
from functools import cached_property

import onnx_ir

from .channels.group_book import GroupBook
from .channels.groups import Group, Groups
from .layer_book import LayerBook
from .layers import Layer, Layers
from .name_index import NameIndex
from .touched import Touched


@dataclass
class _Books:
    """What all states of one model that follow each other share: it is brought up to date when it is asked."""

    layers: LayerBook
    groups: GroupBook | None = None
    names: NameIndex | None = None


@dataclass(frozen=True)
class Analyses:
    """The analyses of `model`. A rewrite makes new ones, which find anew only what it touched; those of before keep
    what they were asked for, and nothing else."""

    model: onnx_ir.Model
    _books: list[_Books] = field(default_factory=list, repr=False, compare=False)

    def renewed(self, touched: Touched) -> "Analyses":
        """What is known once a rewrite has touched so much of the graph."""
        for books in self._books:
            changes = books.layers.renew(touched)
            if books.names is not None:
                books.names.renew(touched)
            if books.groups is not None:
                books.groups.note(changes)
        return Analyses(self.model, self._books)

    @cached_property
    def layers(self) -> Layers:
        return self._known.layers.layers()

    @cached_property
    def groups(self) -> Groups:
        return self._grouped.groups(self.layers)

    def layer(self, name: str) -> Layer:
        """The layer of this name, without a look at all others. Raises KeyError if there is none."""
        return self._known.layers.by_name[name]

    def find(self, name: str) -> Layer | None:
        """The layer of this name, or None if there is none."""
        return self._known.layers.by_name.get(name)

    def group(self, name: str) -> Group | None:
        """The group of this name, without a look at all others; None if there is none."""
        return self._grouped.by_name(name)

    @property
    def names(self) -> NameIndex:
        """The nodes and values by name."""
        books = self._known
        if books.names is None:
            books.names = NameIndex(self.model)
        return books.names

    @property
    def _known(self) -> _Books:
        if not self._books:
            self._books.append(_Books(LayerBook(self.model)))
        return self._books[0]

    @property
    def _grouped(self) -> GroupBook:
        books = self._known
        if books.groups is None:
            books.groups = GroupBook(self.model, books.layers)
        return books.groups
