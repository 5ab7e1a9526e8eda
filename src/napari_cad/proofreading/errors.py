"""What can go wrong while proofreading, with what a person needs to decide what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from napari_cad.core.errors import NapariCadError, StoreMismatchError

ConflictKind = Literal["locked", "linked", "cut"]


@dataclass(frozen=True)
class Conflict:
    """An edit, or a move of the threshold, goes against what the person decided before.

    Attributes
    ----------
    kind : {"locked", "linked", "cut"}
        A locked segment would change; fragments that were merged by hand would come apart;
        fragments that were cut apart would come together.
    segments : tuple of int
        Ids of the segments in question.
    edits : tuple of int
        Ids of the earlier edits that said otherwise, the latest first.
    message : str
        For the person.
    """

    kind: ConflictKind
    segments: tuple[int, ...]
    edits: tuple[int, ...]
    message: str


class ProofreadingError(NapariCadError, ValueError):
    """An edit cannot be made as it was asked for."""


class ConflictError(ProofreadingError):
    """An edit goes against earlier decisions, and nothing was done.

    Attributes
    ----------
    conflicts : tuple of Conflict
        Each of them.
    forceable : bool
        Whether the same call with `force=True` gives the new decision precedence over the old
        ones. A viewer asks the person. Never true for locked segments: unlock them first.
    """

    def __init__(self, conflicts: tuple[Conflict, ...]) -> None:
        super().__init__("; ".join(conflict.message for conflict in conflicts))
        self.conflicts = conflicts
        self.forceable = all(conflict.kind != "locked" for conflict in conflicts)


class StalePlanError(ProofreadingError):
    """An edit was planned before the latest one and no longer fits: plan it again."""


class SessionError(NapariCadError, OSError):
    """The folder of a session cannot be read or written."""


class ReadOnlyError(SessionError, PermissionError):
    """Another process edits this session, or it was opened for reading."""


class SessionMismatchError(SessionError, StoreMismatchError):
    """The store is not the one that the session was begun on.

    Attributes
    ----------
    expected, found : dict
        Signature of the store when the session began, and now.
    """

    def __init__(self, message: str, expected: dict[str, object], found: dict[str, object]) -> None:
        super().__init__(message)
        self.expected = expected
        self.found = found
