"""Merging by a quantile of the maximum affinities, as waterz does it, in 41 bytes per edge.

waterz keeps a histogram of 256 bins, 1 kB, for every edge from the start. But an edge starts with
one number in it, and merging edges only ever adds their numbers together: all histograms of a graph
never hold more numbers than there were edges. Here they are lists of (bin, count), so a graph of
10⁸ edges takes what a graph of 3·10⁶ takes there.

Merging may stop at a score. What is left is a graph of regions whose edges have histograms of
several numbers, from which merging can begin just as well: `ContractedEdges`.

The order of merging is that of waterz, tie by tie, and so is the history, entry for entry:

- Edges start in the order of (u, v), u < v. The queue has one first-in-first-out line per bin of
  the score, and the lowest line that is not empty comes first.
- An edge that has changed since it was scored is *stale*: when its turn comes it is scored again
  and goes to the end of a line.
- Merging u and v moves the edges of v to u. Of two edges that then join the same two regions the
  one with the lower score stays, in case of a tie the one that came from v, with both histograms,
  and becomes stale.

The reference is waterz itself (Funke et al., TPAMI 2019), and the test compares the two.

Everything is in flat arrays of 32-bit numbers; `NOTHING` ends a list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    U8 = npt.NDArray[np.uint8]
    U32 = npt.NDArray[np.uint32]
    F32 = npt.NDArray[np.float32]

LEVELS = 256
NOTHING = 0xFFFFFFFF

#: Flags of an edge.
_STALE, _DELETED = 1, 2


class QuantileGraph(NamedTuple):
    """Edges with their histograms, in the order of (u, v).

    Attributes
    ----------
    u, v : ndarray, shape (n,), uint32
        u < v, from 1 on, each pair once.
    first_entry : ndarray, shape (n,), uint32
        Where the histogram of each edge begins.
    next_entry : ndarray, shape (n entries,), uint32
        Where it goes on, in the order of levels.
    level : ndarray, shape (n entries,), uint8
    number : ndarray, shape (n entries,), uint32
        How many have that level.
    """

    u: U32
    v: U32
    first_entry: U32
    next_entry: U32
    level: U8
    number: U32

    @classmethod
    def of_edges(cls, u: U32, v: U32, level: U8) -> QuantileGraph:
        """Begin with one number per edge; `u` and `v` will be overwritten by merging."""
        n = len(u)
        return cls(
            u, v, np.arange(n, dtype=np.uint32), np.full(n, NOTHING, np.uint32), level,
            np.ones(n, np.uint32),
        )  # fmt: skip


def merge_history(u: U32, v: U32, affinity: F32, percent: int) -> Iterator[tuple[U32, U32, F32]]:
    """Merge everything that touches.

    Parameters
    ----------
    u, v : ndarray, shape (n,), uint32
        Edges between different ids from 1 on, each pair once, in any order.
    affinity : ndarray, shape (n,), float32
        Their maximum affinities, in [0, 1].
    percent : int
        The quantile: 50 is the median. From 0 to 99.

    Yields
    ------
    tuple of ndarray
        Once: a, b and score of every merge, a < b the smallest fragments of the two regions.
    """
    low, high = np.minimum(u, v), np.maximum(u, v)
    names = None
    if int(high.max(initial=0)) > 2 * len(high):  # tables are as long as the highest id
        names = np.unique(np.concatenate([low, high]))
        low, high = (np.searchsorted(names, ids).astype(np.uint32) for ids in (low, high))
    order = np.lexsort((high, low))
    graph = QuantileGraph.of_edges(low[order], high[order], levels_of(affinity[order]))
    a, b, level = merge(graph, int(high.max(initial=0)), percent)[0]
    if names is not None:
        a, b = names[a], names[b]
    yield a, b, scores_of(level)


def levels_of(affinity: npt.NDArray[np.floating[Any]]) -> U8:
    """Bin of each affinity in [0, 1]."""
    return np.clip((affinity * LEVELS).astype(np.int64), 0, LEVELS - 1).astype(np.uint8)


def scores_of(level: U8) -> F32:
    """Score of merges at some levels."""
    return (1 - (level + 0.5) / LEVELS).astype(np.float32)


def merge(
    graph: QuantileGraph, n_nodes: int, percent: int, below: float = 1.0
) -> tuple[tuple[U32, U32, U8], npt.NDArray[np.bool_]]:
    """Merge what touches, up to some score.

    Parameters
    ----------
    graph : QuantileGraph
        Becomes that of the regions: an edge that is left joins the two smallest fragments of its
        regions.
    n_nodes : int
        Highest id.
    percent : int
        The quantile.
    below : float
        Edges of this score and higher are left; 1 leaves none.

    Returns
    -------
    merges : tuple of ndarray
        a, b and level of each.
    left : ndarray, shape (n,), bool
        Edges that there still are.
    """
    a, b, level, flags = _merge(*graph, n_nodes, percent, n_lines(below))
    return (a, b, level), (flags & _DELETED) == 0


def n_lines(below: float) -> int:
    """Count the levels whose score is below some score."""
    return min(LEVELS, max(0, int(np.ceil(LEVELS * below - 0.5))))


class ContractedEdges(NamedTuple):
    """Edges between regions with whole histograms, in any order.

    Attributes
    ----------
    u, v : ndarray, shape (n,), uint32
        Smallest fragments of two regions, each pair once.
    n_entries : ndarray, shape (n,), uint32
        Of the histogram of each edge.
    level : ndarray, shape (n entries,), uint8
        Edge by edge, rising.
    number : ndarray, shape (n entries,), uint32
    """

    u: U32
    v: U32
    n_entries: U32
    level: U8
    number: U32

    @classmethod
    def left_of(cls, graph: QuantileGraph, left: npt.NDArray[np.bool_]) -> ContractedEdges:
        """Take what merging has left of a graph."""
        return cls(*_contract(*graph, left))

    @classmethod
    def of_parallel(cls, u: U32, v: U32, level: U8) -> ContractedEdges:
        """Unite edges that lead between the same two regions: their histograms add."""
        order = np.lexsort((level, v, u))
        u, v, level = u[order], v[order], level[order]
        new_edge = np.ones(len(u), np.bool_)
        new_edge[1:] = (u[1:] != u[:-1]) | (v[1:] != v[:-1])
        new_entry = new_edge.copy()
        new_entry[1:] |= level[1:] != level[:-1]
        entries = np.flatnonzero(new_entry)
        count = np.diff(entries, append=len(u)).astype(np.uint32)
        edges = np.flatnonzero(new_edge)
        n_entries = np.diff(np.searchsorted(entries, edges), append=len(entries))
        return cls(u[edges], v[edges], n_entries.astype(np.uint32), level[entries], count)

    @classmethod
    def concatenate(cls, parts: list[ContractedEdges]) -> ContractedEdges:
        """Put parts of a graph that have no edge in common behind one another."""
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def graph(self) -> QuantileGraph:
        """Give what merging begins with."""
        order = np.lexsort((self.v, self.u))
        begin = np.cumsum(self.n_entries, dtype=np.int64) - self.n_entries
        first, following, entry = _link(order, begin, self.n_entries)
        return QuantileGraph(
            self.u[order], self.v[order], first, following, self.level[entry], self.number[entry]
        )


@numba.njit(cache=True, nogil=True)
def _contract(
    u: U32,
    v: U32,
    first_entry: U32,
    next_entry: U32,
    levels: U8,
    count: U32,
    left: npt.NDArray[np.bool_],
) -> tuple[U32, U32, U32, U8, U32]:
    n_edges = n_entries = 0
    for e in range(len(u)):
        if left[e]:
            n_edges += 1
            at = first_entry[e]
            while at != NOTHING:
                n_entries += 1
                at = next_entry[at]
    low = np.empty(n_edges, np.uint32)
    high = np.empty(n_edges, np.uint32)
    length = np.zeros(n_edges, np.uint32)
    level_of = np.empty(n_entries, np.uint8)
    count_of = np.empty(n_entries, np.uint32)
    edge = entry = 0
    for e in range(len(u)):
        if not left[e]:
            continue
        low[edge], high[edge] = u[e], v[e]
        at = first_entry[e]
        while at != NOTHING:
            level_of[entry], count_of[entry] = levels[at], count[at]
            length[edge] += 1
            entry += 1
            at = next_entry[at]
        edge += 1
    return low, high, length, level_of, count_of


@numba.njit(cache=True, nogil=True)
def _link(
    order: npt.NDArray[np.int64], begin: npt.NDArray[np.int64], n_entries: U32
) -> tuple[U32, U32, npt.NDArray[np.int64]]:
    """Link the entries of edges in another order; gives first, next, and where each entry was."""
    total = np.int64(0)
    for edge in range(len(order)):
        total += n_entries[edge]
    first = np.empty(len(order), np.uint32)
    following = np.empty(total, np.uint32)
    entry = np.empty(total, np.int64)
    at = 0
    for edge in range(len(order)):
        old = order[edge]
        first[edge] = at
        for i in range(n_entries[old]):
            entry[at] = begin[old] + i
            following[at] = at + 1
            at += 1
        following[at - 1] = NOTHING
    return first, following, entry


@numba.njit(cache=True, nogil=True)
def _merge(
    u: U32,
    v: U32,
    first_entry: U32,
    next_entry: U32,
    levels: U8,
    count: U32,
    n_nodes: int,
    percent: int,
    stop: int,
) -> tuple[U32, U32, U8, U8]:
    """Merge sorted edges while scores, counted in levels from 0, are below `stop`."""
    n_edges = len(u)
    score = np.empty(n_edges, np.uint8)  # LEVELS − 1 − the level it was last scored with
    flags = np.zeros(n_edges, np.uint8)

    # The queue: a first-in-first-out line per score; an edge stands in one of them at most.
    front = np.full(LEVELS, NOTHING, np.uint32)
    back = np.full(LEVELS, NOTHING, np.uint32)
    behind = np.empty(n_edges, np.uint32)

    # The edges of a node: a list of ends; end 2e lay at u of edge e in the beginning, 2e + 1 at v.
    first_end = np.full(n_nodes + 1, NOTHING, np.uint32)
    last_end = np.full(n_nodes + 1, NOTHING, np.uint32)
    next_end = np.full(2 * n_edges, NOTHING, np.uint32)

    # From a pair of nodes to its edge: open addressing, the keys are u and v themselves.
    table = np.full(n_edges + n_edges // 2 + 4, NOTHING, np.uint32)

    for e in range(n_edges):
        level = _quantile(first_entry[e], next_entry, count, levels, percent)
        score[e] = LEVELS - 1 - level
        _enqueue(e, score[e], front, back, behind)
        _append(2 * e, u[e], first_end, last_end, next_end)
        _append(2 * e + 1, v[e], first_end, last_end, next_end)
        _insert(e, table, u, v)

    merged_a = np.empty(n_nodes, np.uint32)
    merged_b = np.empty(n_nodes, np.uint32)
    merged_level = np.empty(n_nodes, np.uint8)
    n_merged = 0
    lowest = 0
    while True:
        while lowest < stop and front[lowest] == NOTHING:
            lowest += 1
        if lowest >= stop:
            break
        edge = front[lowest]
        front[lowest] = behind[edge]
        if flags[edge] & _DELETED:
            continue
        if flags[edge] & _STALE:
            flags[edge] &= ~_STALE & 0xFF
            level = _quantile(first_entry[edge], next_entry, count, levels, percent)
            score[edge] = LEVELS - 1 - level
            _enqueue(edge, score[edge], front, back, behind)
            lowest = min(lowest, int(score[edge]))
            continue

        a, b = u[edge], v[edge]
        merged_a[n_merged] = a
        merged_b[n_merged] = b
        merged_level[n_merged] = LEVELS - 1 - score[edge]
        n_merged += 1
        flags[edge] |= _DELETED
        _remove(edge, table, u, v)

        end = first_end[b]
        first_end[b] = last_end[b] = NOTHING
        while end != NOTHING:
            following = next_end[end]
            moving = end // 2
            if not flags[moving] & _DELETED:
                neighbour = v[moving] if u[moving] == b else u[moving]
                _remove(moving, table, u, v)
                u[moving], v[moving] = min(a, neighbour), max(a, neighbour)
                rival = _find(u[moving], v[moving], table, u, v)
                if rival != NOTHING and score[moving] > score[rival]:
                    first_entry[rival] = _add(
                        first_entry[moving], first_entry[rival], next_entry, count, levels
                    )
                    flags[moving] |= _DELETED
                    flags[rival] |= _STALE
                else:
                    if rival != NOTHING:
                        first_entry[moving] = _add(
                            first_entry[rival], first_entry[moving], next_entry, count, levels
                        )
                        _remove(rival, table, u, v)
                        flags[rival] |= _DELETED
                        flags[moving] |= _STALE
                    _insert(moving, table, u, v)
                    _append(end, a, first_end, last_end, next_end)
            end = following
    return merged_a[:n_merged], merged_b[:n_merged], merged_level[:n_merged], flags


# ------------------------------------------------------------------------- the queue


@numba.njit(cache=True)
def _enqueue(edge: int, line: int, front: U32, back: U32, behind: U32) -> None:
    behind[edge] = NOTHING
    if front[line] == NOTHING:
        front[line] = edge
    else:
        behind[back[line]] = edge
    back[line] = edge


# ------------------------------------------------------------------------- the edges of a node


@numba.njit(cache=True)
def _append(end: int, node: int, first_end: U32, last_end: U32, next_end: U32) -> None:
    next_end[end] = NOTHING
    if first_end[node] == NOTHING:
        first_end[node] = end
    else:
        next_end[last_end[node]] = end
    last_end[node] = end


# ------------------------------------------------------------------------- from pair to edge


@numba.njit(cache=True)
def _home(low: int, high: int, size: int) -> np.int64:
    """Slot in which a pair wants to be; the finaliser of SplitMix64 spreads neighbouring ids."""
    key = (np.uint64(low) << np.uint64(32)) | np.uint64(high)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    key = (key ^ (key >> np.uint64(31))) >> np.uint64(32)
    return np.int64((key * np.uint64(size)) >> np.uint64(32))  # tables have fewer than 2³² slots


@numba.njit(cache=True)
def _after(slot: np.int64, size: int) -> np.int64:
    return np.int64(0) if slot + 1 == size else slot + 1


@numba.njit(cache=True)
def _steps(start: np.int64, stop: np.int64, size: int) -> np.int64:
    """How many slots it is from one to another, around the end of the table."""
    return stop - start if stop >= start else stop - start + size


@numba.njit(cache=True)
def _insert(edge: int, table: U32, u: U32, v: U32) -> None:
    slot = _home(u[edge], v[edge], len(table))
    while table[slot] != NOTHING:
        slot = _after(slot, len(table))
    table[slot] = edge


@numba.njit(cache=True)
def _find(low: int, high: int, table: U32, u: U32, v: U32) -> int:
    """Edge between two nodes, or NOTHING."""
    slot = _home(low, high, len(table))
    while table[slot] != NOTHING:
        edge = table[slot]
        if u[edge] == low and v[edge] == high:
            return int(edge)
        slot = _after(slot, len(table))
    return NOTHING


@numba.njit(cache=True)
def _remove(edge: int, table: U32, u: U32, v: U32) -> None:
    """Take an edge out, and move those behind it up, so that no search ends too early."""
    size = len(table)
    hole = _home(u[edge], v[edge], size)
    while table[hole] != edge:
        hole = _after(hole, size)
    slot = hole
    while True:
        slot = _after(slot, size)
        if table[slot] == NOTHING:
            break
        home = _home(u[table[slot]], v[table[slot]], size)
        if _steps(home, slot, size) >= _steps(hole, slot, size):
            table[hole] = table[slot]
            hole = slot
    table[hole] = NOTHING


# ------------------------------------------------------------------------- histograms


@numba.njit(cache=True)
def _add(one: int, other: int, next_entry: U32, count: U32, levels: U8) -> int:
    """Join two histograms, both in the order of their levels; returns the first entry."""
    first = last = NOTHING
    while one != NOTHING or other != NOTHING:
        if other == NOTHING or (one != NOTHING and levels[one] < levels[other]):
            entry = one
            one = next_entry[one]
        else:
            entry = other
            other = next_entry[other]
            if one != NOTHING and levels[one] == levels[entry]:
                count[entry] += count[one]
                one = next_entry[one]
        if last == NOTHING:
            first = entry
        else:
            next_entry[last] = entry
        last = entry
    next_entry[last] = NOTHING
    return first


@numba.njit(cache=True)
def _quantile(entry: int, next_entry: U32, count: U32, levels: U8, percent: int) -> int:
    """Level of the entry with the number ⌊percent · n / 100⌋ + 1 from below, as in waterz."""
    total = 0
    at = entry
    while at != NOTHING:
        total += count[at]
        at = next_entry[at]
    left = percent * total // 100 + 1
    while True:
        left -= count[entry]
        if left <= 0:
            return int(levels[entry])
        entry = next_entry[entry]
