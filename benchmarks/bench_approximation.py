"""What it costs to agglomerate a region graph in parts: VOI against truth and the exact result.

    python benchmarks/bench_approximation.py RUN.zarr TRUTH.tif [--sections 0 40]
        [--parts 5 10 20] [--scores 0.1 0.2 0.3 0.4 0.5]

For parts of so many sections and every conservative score: the VOI over thresholds against truth
(lowest, and at 0.5), the VOI between the approximate and the exact segmentation at 0.3, 0.5 and
0.7, and how many edges and histogram entries the graph of the regions has left.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from napari_cad.core._agglomeration_child import exact_history, history_by_parts
from napari_cad.core.agglomeration import MERGE_FUNCTIONS
from napari_cad.core.evaluation import store_contingency
from napari_cad.core.merge_tree import MergeTree
from napari_cad.core.metrics import ContingencyTable, Scores, threshold_curve
from napari_cad.core.readers import open_volume
from napari_cad.core.store import SegmentationStore

_THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(4, 17))
_COMPARED = (0.3, 0.5, 0.7)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("truth")
    parser.add_argument("--sections", type=int, nargs=2)
    parser.add_argument("--parts", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--scores", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.4, 0.5])
    options = parser.parse_args()
    store = SegmentationStore.open(options.run)
    truth = open_volume(options.truth)
    if options.sections:
        truth = truth.crop(tuple(options.sections), (0, truth.shape[1]), (0, truth.shape[2]))
    table, sizes = store_contingency(store, truth), np.asarray(store.fragment_sizes())
    function, n = MERGE_FUNCTIONS["median"], store.n_fragments
    began = time.perf_counter()
    exact = MergeTree.from_history(n, exact_history(store, function))
    print(f"{int(store.counts('edges').sum()):,} edges, {n:,} fragments")
    print("sections  score   edges left  VOI best (at)        VOI 0.5       against exact", end="")
    print(" at " + ", ".join(f"{t:g}" for t in _COMPARED) + "    seconds")
    report("exact", "", 1.0, exact, table, None, sizes, time.perf_counter() - began)
    for size in options.parts:
        for score in options.scores:
            began = time.perf_counter()
            parts = list(range(0, store.n_sections, size))
            history, left = history_by_parts(store, function, parts, score)
            tree = MergeTree.from_history(n, history)
            share = left / int(store.counts("edges").sum())
            seconds = time.perf_counter() - began
            report(size, score, share, tree, table, exact, sizes, seconds)


def report(
    size: object,
    score: object,
    share: float,
    tree: MergeTree,
    table: ContingencyTable,
    exact: MergeTree | None,
    sizes: np.ndarray,
    seconds: float,
) -> None:
    """Print a line."""
    scores = threshold_curve(table, tree.lut, _THRESHOLDS)
    best = int(np.argmin([s.voi for s in scores]))
    at = scores[_THRESHOLDS.index(0.5)]
    against = [] if exact is None else [between(exact, tree, t, sizes) for t in _COMPARED]
    print(
        f"{size!s:8}  {score!s:5}  {share:9.1%}   "
        f"{scores[best].voi:.4f} ({_THRESHOLDS[best]:.2f})  "
        f"{at.voi:.4f} = {at.voi_split:.4f} + {at.voi_merge:.4f}  "
        + "  ".join(f"{s.voi_split:.4f} + {s.voi_merge:.4f}" for s in against)
        + f"  {seconds:.1f}",
        flush=True,
    )


def between(exact: MergeTree, tree: MergeTree, threshold: float, sizes: np.ndarray) -> Scores:
    """VOI of an approximate segmentation against the exact one."""
    fragments = np.arange(1, len(sizes))
    truth, ours = exact.lut(threshold)[1:].astype(np.int64), tree.lut(threshold)
    return Scores.of(ContingencyTable(truth, fragments, sizes[1:]).relabelled(ours))


if __name__ == "__main__":
    main()
