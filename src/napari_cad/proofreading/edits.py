"""Edits: what a person does, made of small changes each of which has an inverse.

A *change* is a plain value: applying it and then its inverse leaves the decisions as they were.
An *edit* is what the person did, one step of the history and one line of the log: the changes it
came down to, and enough about it to be read by people. The log holds the outcome, not the
command: replaying it runs no minimum cut and no watershed, and so can neither be slow nor differ.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from napari_cad.proofreading.decisions import Note
from napari_cad.proofreading.patch import FragmentPatch

if TYPE_CHECKING:
    from napari_cad.proofreading.decisions import Answer, Decisions
    from napari_cad.proofreading.graph import Ids

_NOTHING = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Change(ABC):
    """One reversible change of the decisions.

    Attributes
    ----------
    reverse : bool
        Whether it is taken back rather than made: cut edges are restored, links dissolved, and so
        on.
    key : str
        Its name in the log.
    """

    key: ClassVar[str]
    reverse: bool = field(default=False, kw_only=True)

    def apply(self, decisions: Decisions) -> None:
        """Change the decisions."""
        (self._undo if self.reverse else self._do)(decisions)

    def inverse(self) -> Self:
        """Make the change that takes this one back."""
        return replace(self, reverse=not self.reverse)

    def touched(self, decisions: Decisions) -> Ids:
        """Fragments whose segments may differ, asked once the change is applied."""
        del decisions
        return _NOTHING

    def to_json(self) -> list[Any]:
        """As it stands in the log: its name, with a minus where it is taken back, and its data."""
        return [f"-{self.key}" if self.reverse else self.key, self._data()]

    @abstractmethod
    def _do(self, decisions: Decisions) -> None: ...

    @abstractmethod
    def _undo(self, decisions: Decisions) -> None: ...

    @abstractmethod
    def _data(self) -> Any: ...

    @classmethod
    @abstractmethod
    def _from_data(cls, data: Any) -> Self: ...


def change_from_json(value: list[Any]) -> Change:
    """Read what `Change.to_json` wrote."""
    name, data = value
    if name[0] == "-":
        return _KINDS[name[1:]]._from_data(data).inverse()
    return _KINDS[name]._from_data(data)


@dataclass(frozen=True)
class CutEdges(Change):
    """Edges stop holding their two fragments together, at any threshold."""

    key: ClassVar[str] = "cut"
    edges: tuple[int, ...]

    def touched(self, decisions: Decisions) -> Ids:
        """Both ends of the edges."""
        edges = list(self.edges)
        return np.concatenate([decisions.graph.u[edges], decisions.graph.v[edges]])

    def _do(self, decisions: Decisions) -> None:
        decisions.cut[list(self.edges)] = True

    def _undo(self, decisions: Decisions) -> None:
        decisions.cut[list(self.edges)] = False

    def _data(self) -> Any:
        return self.edges

    @classmethod
    def _from_data(cls, data: Any) -> Self:
        return cls(tuple(data))


@dataclass(frozen=True)
class LinkFragments(Change):
    """Pairs (u, v), u < v, of fragments belong together, at any threshold."""

    key: ClassVar[str] = "link"
    pairs: tuple[tuple[int, int], ...]

    def touched(self, decisions: Decisions) -> Ids:
        """All fragments of the pairs."""
        del decisions
        return np.array(self.pairs, np.int64).ravel()

    def _do(self, decisions: Decisions) -> None:
        decisions.links.update(dict.fromkeys(self.pairs))

    def _undo(self, decisions: Decisions) -> None:
        for pair in self.pairs:
            del decisions.links[pair]

    def _data(self) -> Any:
        return self.pairs

    @classmethod
    def _from_data(cls, data: Any) -> Self:
        return cls(tuple((u, v) for u, v in data))


@dataclass(frozen=True)
class LockSegment(Change):
    """A segment stays exactly as it is: threshold, merges and cuts pass it by."""

    key: ClassVar[str] = "lock"
    segment: int
    fragments: tuple[int, ...]

    def touched(self, decisions: Decisions) -> Ids:
        """List the fragments and, when they are set free, those that they are connected to."""
        fragments = np.array(self.fragments, np.int64)
        if not self.reverse:
            return fragments
        graph = decisions.graph
        edges = graph.edges_around(fragments)
        edges = edges[decisions.connects(edges)]
        links = decisions.link_array()
        links = links[np.isin(links, fragments).any(axis=1)]
        return np.concatenate([fragments, graph.u[edges], graph.v[edges], links.ravel()])

    def _do(self, decisions: Decisions) -> None:
        decisions.locks[self.segment] = self.fragments
        decisions.lock[list(self.fragments)] = self.segment

    def _undo(self, decisions: Decisions) -> None:
        del decisions.locks[self.segment]
        decisions.lock[list(self.fragments)] = 0

    def _data(self) -> Any:
        return [self.segment, self.fragments]

    @classmethod
    def _from_data(cls, data: Any) -> Self:
        return cls(data[0], tuple(data[1]))


@dataclass(frozen=True)
class SetThreshold(Change):
    """The agglomeration threshold moves. Its effect is not local: see `Partition.from_scratch`."""

    key: ClassVar[str] = "threshold"
    old: float
    new: float

    def _do(self, decisions: Decisions) -> None:
        decisions.threshold = self.new

    def _undo(self, decisions: Decisions) -> None:
        decisions.threshold = self.old

    def _data(self) -> Any:
        return [self.old, self.new]

    @classmethod
    def _from_data(cls, data: Any) -> Self:
        return cls(*data)


@dataclass(frozen=True)
class Rename(Change):
    """Fragments exchange names and change rank, see `Decisions.name`.

    Attributes
    ----------
    fragments : tuple of int
    old, new : tuple of (int, int)
        Name and rank of each of them, before and after.
    """

    key: ClassVar[str] = "name"
    fragments: tuple[int, ...]
    old: tuple[tuple[int, int], ...]
    new: tuple[tuple[int, int], ...]

    def touched(self, decisions: Decisions) -> Ids:
        """List the fragments."""
        del decisions
        return np.array(self.fragments, np.int64)

    def _do(self, decisions: Decisions) -> None:
        self._set(decisions, self.new)

    def _undo(self, decisions: Decisions) -> None:
        self._set(decisions, self.old)

    def _set(self, decisions: Decisions, values: tuple[tuple[int, int], ...]) -> None:
        for fragment, (name, rank) in zip(self.fragments, values, strict=True):
            decisions.name[fragment] = name
            decisions.rank[fragment] = rank

    def _data(self) -> Any:
        return [self.fragments, self.old, self.new]

    @classmethod
    def _from_data(cls, data: Any) -> Self:
        fragments, old, new = data
        return cls(tuple(fragments), tuple((n, r) for n, r in old), tuple((n, r) for n, r in new))


@dataclass(frozen=True)
class ApplyPatch(Change):
    """Fragments give way to others that lie in their voxels."""

    key: ClassVar[str] = "patch"
    patch: FragmentPatch

    def touched(self, decisions: Decisions) -> Ids:
        """List the fragments that go and those that come."""
        del decisions
        return np.array([*self.patch.removed, *self.patch.fragments], np.int64)

    def _do(self, decisions: Decisions) -> None:
        self._set_alive(decisions, patched=True)
        decisions.patches.append(self.patch)

    def _undo(self, decisions: Decisions) -> None:
        self._set_alive(decisions, patched=False)
        decisions.patches.remove(self.patch)

    def _set_alive(self, decisions: Decisions, *, patched: bool) -> None:
        decisions.graph.alive[list(self.patch.removed)] = not patched
        decisions.graph.alive[list(self.patch.fragments)] = patched

    def _data(self) -> Any:
        return self.patch.to_json()

    @classmethod
    def _from_data(cls, data: Any) -> Self:
        return cls(FragmentPatch.from_json(data))


@dataclass(frozen=True)
class AddNote(Change):
    """A note is written."""

    key: ClassVar[str] = "note"
    note: Note

    def _do(self, decisions: Decisions) -> None:
        decisions.notes[self.note.number] = self.note

    def _undo(self, decisions: Decisions) -> None:
        del decisions.notes[self.note.number]

    def _data(self) -> Any:
        return {name: value for name, value in asdict(self.note).items() if value is not None}

    @classmethod
    def _from_data(cls, data: Any) -> Self:
        position = data.pop("position", None)
        return cls(Note(**data, position=None if position is None else tuple(position)))


@dataclass(frozen=True)
class GiveAnswer(Change):
    """A question of the queue, whether an edge joins what belongs together, is answered."""

    key: ClassVar[str] = "answer"
    edge: int
    old: Answer | None
    new: Answer

    def _do(self, decisions: Decisions) -> None:
        decisions.answers[self.edge] = self.new

    def _undo(self, decisions: Decisions) -> None:
        if self.old is None:
            del decisions.answers[self.edge]
        else:
            decisions.answers[self.edge] = self.old

    def _data(self) -> Any:
        return [self.edge, self.old, self.new]

    @classmethod
    def _from_data(cls, data: Any) -> Self:
        return cls(*data)


_KINDS: dict[str, type[Change]] = {
    kind.key: kind
    for kind in (
        CutEdges, LinkFragments, LockSegment, SetThreshold, Rename, ApplyPatch, AddNote, GiveAnswer
    )
}  # fmt: skip


@dataclass(frozen=True)
class Edit:
    """One step of the history.

    Attributes
    ----------
    id : int
        Counts from 1 in the order of making, over all branches of the history.
    parent : int
        The edit it was made after; 0 = the beginning.
    kind : str
        What the person did: "merge", "cut", "detach", "isolate", "lock", "unlock", "threshold",
        "note", "remove note", "relabel", "accept", "reject", "later".
    changes : tuple of Change
        What it came down to, in this order.
    before, after : tuple of int
        Ids of the segments that it made something else of, and of what they became; empty where
        no segment changed, and for the threshold, which changes too many to list.
    details : dict
        What else a reader of the log may want to know: seeds, contacts, a note's text. JSON-able.
    time : str
        UTC, ISO 8601.
    user : str
    """

    id: int
    parent: int
    kind: str
    changes: tuple[Change, ...]
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    time: str = ""
    user: str = ""

    def inverse(self) -> tuple[Change, ...]:
        """List the changes that take it back."""
        return tuple(change.inverse() for change in reversed(self.changes))

    def describe(self) -> str:
        """One line for a list of edits, such as "merge: 4, 9 → 4"."""
        if self.kind == "threshold":
            return f"threshold: {self.details['old']:.3f} → {self.details['new']:.3f}"
        if "text" in self.details:
            return f"{self.kind}: {self.details['text']}"
        if not self.before and not self.after:
            return self.kind
        before, after = (", ".join(map(str, ids)) for ids in (self.before, self.after))
        return f"{self.kind}: {before} → {after}" if before != after else f"{self.kind}: {before}"

    def to_json(self) -> dict[str, Any]:
        """As it stands in the log."""
        return {
            "edit": self.id,
            "parent": self.parent,
            "kind": self.kind,
            "time": self.time,
            "user": self.user,
            "before": self.before,
            "after": self.after,
            "details": self.details,
            "changes": [change.to_json() for change in self.changes],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Edit:
        """Read what `to_json` wrote."""
        return cls(
            data["edit"],
            data["parent"],
            data["kind"],
            tuple(change_from_json(change) for change in data["changes"]),
            tuple(data["before"]),
            tuple(data["after"]),
            data["details"],
            data["time"],
            data["user"],
        )
