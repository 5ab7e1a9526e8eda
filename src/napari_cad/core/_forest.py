"""Compiled loops over forests of merges: they need no memory but flat arrays of small numbers.

What each of them computes is said by its caller in `napari_cad.core.merge_tree`; plain Python that
does the same stands beside the tests. Fragments and merges are 32-bit numbers throughout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Ids = npt.NDArray[np.integer[Any]]
    U32 = npt.NDArray[np.uint32]
    I64 = npt.NDArray[np.int64]


@numba.njit(cache=True, nogil=True)
def unite(
    a: Ids, b: Ids, order: I64, n_edges: int, size: npt.NDArray[np.integer[Any]]
) -> tuple[U32, U32, U32, I64, I64, npt.NDArray[np.bool_]]:
    """Join regions by `n_edges` edges; `order` is empty for the order of the edges themselves.

    `size` becomes that of the regions, at their roots.
    """
    n = len(size)
    most = min(n_edges, n)
    root = np.arange(n).astype(np.uint32)
    smallest = root.copy()
    child = np.empty(most, np.uint32)
    parent = np.empty(most, np.uint32)
    name = np.empty(most, np.uint32)
    edge = np.empty(most, np.int64)
    smaller = np.empty(most, np.int64)
    swapped = np.empty(most, np.bool_)
    made = 0
    for place in range(n_edges):
        at = order[place] if len(order) else place
        i, j = np.int64(a[at]), np.int64(b[at])
        while root[i] != i:  # these paths may be shortened, only the forest's may not
            root[i] = root[root[i]]
            i = np.int64(root[i])
        while root[j] != j:
            root[j] = root[root[j]]
            j = np.int64(root[j])
        if i == j:
            continue
        swap = size[i] >= size[j]
        if not swap:
            i, j = j, i
        root[j] = i
        smaller[made] = size[j]
        size[i] += size[j]
        smallest[i] = min(smallest[i], smallest[j])
        child[made], parent[made], name[made] = j, i, smallest[i]
        edge[made], swapped[made] = at, swap
        made += 1
    return child[:made], parent[:made], name[:made], edge[:made], smaller[:made], swapped[:made]


@numba.njit(cache=True, nogil=True)
def by_parent(child: Ids, parent: Ids, name: Ids, n_nodes: int) -> tuple[U32, U32, U32, U32, U32]:
    """Columns of a tree: above and merge_of by node, first by node, merge and name by parent."""
    n = len(child)
    above = np.arange(n_nodes).astype(np.uint32)
    merge_of = np.full(n_nodes, n, np.uint32)
    first = np.zeros(n_nodes + 1, np.uint32)
    for k in range(n):
        above[child[k]] = parent[k]
        merge_of[child[k]] = k
        first[parent[k] + 1] += 1
    for i in range(n_nodes):
        first[i + 1] += first[i]
    merge = np.empty(n, np.uint32)
    names = np.empty(n, np.uint32)
    place = first[:-1].copy()
    for k in range(n):
        at = place[parent[k]]
        merge[at], names[at] = k, name[k]
        place[parent[k]] = at + 1
    return above, merge_of, first, merge, names


@numba.njit(cache=True, nogil=True)
def grown(above: U32, merge_of: U32, first: U32, merge: U32, sizes: Ids) -> I64:
    """Sum of sizes of the region that each merge makes, in the order of parents, then of time."""
    n = len(merge)
    child = np.empty(n, np.uint32)
    for node in range(len(above)):
        if merge_of[node] < n:
            child[merge_of[node]] = node
    total = sizes.astype(np.int64)
    result = np.empty(n, np.int64)
    place = first[:-1].copy()
    for k in range(n):
        parent = above[child[k]]
        total[parent] += total[child[k]]
        result[place[parent]] = total[parent]
        place[parent] += 1
    return result


@numba.njit(cache=True, nogil=True)
def last_merges(
    nodes: Ids, n: int, above: U32, merge_of: U32, first: U32, merge: U32
) -> tuple[I64, I64]:
    """Root of each node after `n` merges, and where the last merge into it stands; −1 = none."""
    roots = np.empty(len(nodes), np.int64)
    places = np.empty(len(nodes), np.int64)
    for i in range(len(nodes)):
        node = np.int64(nodes[i])
        while merge_of[node] < n:
            node = np.int64(above[node])
        low, high = np.int64(first[node]), np.int64(first[node + 1])
        begin = low
        while low < high:
            middle = (low + high) // 2
            if merge[middle] < n:
                low = middle + 1
            else:
                high = middle
        roots[i] = node
        places[i] = low - 1 if low > begin else -1
    return roots, places


@numba.njit(cache=True, nogil=True)
def lut(n: int, above: U32, merge_of: U32) -> U32:
    """Smallest node of the region of every node after `n` merges."""
    result = np.zeros(len(above), np.uint32)
    for node in range(1, len(above)):
        at = np.int64(node)
        # in rising order: whatever is smaller has been named, and a root that is larger has its
        # name from the first of its region that came by
        while merge_of[at] < n:
            at = np.int64(above[at])
            if at < node:
                break
        if result[at] == 0:
            result[at] = node
        result[node] = result[at]
    return result


@numba.njit(cache=True, nogil=True)
def joining_merges(u: Ids, v: Ids, above: U32, merge_of: U32, n_merges: int) -> I64:
    """Merge that brings two nodes together: −1 for one node, `n_merges` if none does."""
    result = np.empty(len(u), np.int64)
    for i in range(len(u)):
        a, b = np.int64(u[i]), np.int64(v[i])
        last = np.int64(-1)
        # the later of two nodes' next merges contains the earlier one; so climb with the earlier
        # one until both stand at one place: the last merge climbed brought them together
        while a != b:
            if merge_of[a] > merge_of[b]:
                a, b = b, a
            last = np.int64(merge_of[a])
            if last == n_merges:
                break
            a = np.int64(above[a])
        result[i] = last
    return result


@numba.njit(cache=True, nogil=True)
def region_sizes(n: int, merge_of: U32, first: U32, merge: U32, total: I64, sizes: Ids) -> I64:
    """Sizes of the regions after `n` merges, in no order; `total` is what `grown` gave."""
    n_regions = 0
    for node in range(1, len(merge_of)):
        n_regions += merge_of[node] >= n
    result = np.empty(n_regions, np.int64)
    at = 0
    for node in range(1, len(merge_of)):
        if merge_of[node] < n:
            continue
        low, high = np.int64(first[node]), np.int64(first[node + 1])
        begin = low
        while low < high:
            middle = (low + high) // 2
            if merge[middle] < n:
                low = middle + 1
            else:
                high = middle
        result[at] = total[low - 1] if low > begin else sizes[node]
        at += 1
    return result
