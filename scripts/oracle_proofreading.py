"""Proofread a store by an oracle that knows the truth, and count how fast the result gets better.

The oracle answers the questions of the uncertain-edge queue one after the other: «yes» where the
two sides, as a person sees them, lie mostly in the same neurite, «no» where they do not. Where a
«no» is about an edge inside a segment it cuts as a person would: it places a seed on either side of
the contact, looks at the preview, and adds a seed where the largest piece is on the wrong side, a
few times. A cut that would then still put more of the two neurites on the wrong side than no cut at
all it does not make, and postpones the question. Questions that the queue does not ask stay
unanswered.

The same with the same questions in random order, several times, is what the queue has to beat. An
answer counts as an edit, whether or not it changes anything: the person has looked.

    python scripts/oracle_proofreading.py run.zarr --truth labels.tif --first-section 80

`--json FILE` keeps the curves.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_cad.core.metrics import Scores, volume_contingency
from napari_cad.core.readers import open_volume
from napari_cad.core.store import SegmentationStore
from napari_cad.proofreading import questions
from napari_cad.proofreading.errors import ConflictError
from napari_cad.proofreading.queue import BAND, Question, UncertaintyQueue
from napari_cad.proofreading.session import ProofreadingSession
from napari_cad.proofreading.source import ProofreadingSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_cad.proofreading.cut import CutPreview

#: Seeds that are added to a cut before it is made as it is.
MAX_CORRECTIONS = 6


@dataclass(frozen=True)
class Point:
    """Scores after a number of answers; `changes` of them changed a segment."""

    answers: int
    changes: int
    seeds: int
    voi_split: float
    voi_merge: float

    @property
    def voi(self) -> float:
        """Sum of both, in bits."""
        return self.voi_split + self.voi_merge


class Oracle:
    """Knows which neurite every fragment belongs to, and answers by that alone."""

    def __init__(self, session: ProofreadingSession, truth: np.ndarray, fragments: np.ndarray):
        self.session = session
        self._truth = truth
        self._table = volume_contingency(truth, fragments)
        self.n_seeds = 0
        self._neurite = np.zeros(0, np.int64)
        self._sizes = np.zeros(0, np.int64)
        self._look()

    def scores(self) -> Scores:
        """How good the segmentation is now."""
        return Scores.of(self._table.relabelled(self.session.lut))

    def answer(self, question: Question) -> bool:
        """Answer one question; whether any segment changed."""
        before = self.session.lut.copy()
        sides = questions.sides(self.session, question.edge)
        a, b = (self._neurite_of(side) for side in sides)
        try:
            if a == 0 or b == 0:  # nobody has labelled this
                questions.postpone(self.session, question.edge)
            elif a == b:
                questions.accept(self.session, question.edge)
            elif not question.joined:
                questions.reject(self.session, question.edge)
            else:
                self._cut(question, (a, b), sides)
        except ConflictError:
            questions.postpone(self.session, question.edge)
        return not np.array_equal(before, self.session.lut)

    def _cut(
        self, question: Question, neurites: tuple[int, int], sides: tuple[np.ndarray, np.ndarray]
    ) -> None:
        """Cut between two neurites, with seeds at the contact and where the preview is wrong."""
        session = self.session
        red, blue = (
            [self._nearest(side[self._neurite[side] == neurite], question.position)]
            for side, neurite in zip(sides, neurites, strict=True)
        )
        preview = session.preview_cut(red, blue)
        for _ in range(MAX_CORRECTIONS):
            wrong = [
                (int(self._sizes[f]), int(f), seeds)
                for side, neurite, seeds in (
                    (preview.red, neurites[1], blue),
                    (preview.blue, neurites[0], red),
                )
                for f in side[self._neurite[side] == neurite]
            ]
            if not wrong:
                break
            _, fragment, seeds = max(wrong, key=lambda item: item[:2])
            seeds.append(fragment)
            preview = session.preview_cut(red, blue)
        self.n_seeds += len(red) + len(blue)
        if self._harms(preview, neurites):
            questions.postpone(session, question.edge)
        else:
            questions.reject_by(session, question.edge, preview)

    def _harms(self, preview: CutPreview, neurites: tuple[int, int]) -> bool:
        """Whether more voxels of two neurites are on the wrong side of a cut than without it.

        Without it, the smaller one of them is wholly on the wrong side: in the other's segment.
        """
        inside = np.array(
            [
                [self._sizes[side[self._neurite[side] == neurite]].sum() for neurite in neurites]
                for side in (preview.red, preview.blue)
            ]
        )
        return bool(inside[0, 1] + inside[1, 0] > inside.sum(axis=0).min())

    def _neurite_of(self, side: np.ndarray) -> int:
        """Find the neurite that most of some fragments lies in, 0 if none of it is labelled."""
        voxels = np.bincount(self._neurite[side], weights=self._sizes[side])
        voxels[0] = 0
        return int(voxels.argmax())

    def _nearest(self, fragments: np.ndarray, position: tuple[float, float, float]) -> int:
        centres = self.session.voxels.centres(fragments)
        scale = np.array(self.session.source.voxel_size)
        distance = (((centres - position) * scale) ** 2).sum(axis=1)
        return int(fragments[distance.argmin()])

    def _look(self) -> None:
        """Find the neurite that most of each fragment lies in, 0 where none is labelled."""
        n = self.session.graph.n_fragments
        table = self._table
        fragment = table.segmentation.astype(np.int64)
        order = np.lexsort((table.count, fragment))
        last = np.ones(len(order), np.bool_)
        last[:-1] = fragment[order][1:] != fragment[order][:-1]
        self._neurite = np.zeros(n + 1, np.int64)
        self._neurite[fragment[order][last]] = table.truth[order][last].astype(np.int64)
        self._sizes = np.asarray(self.session.graph.size)


def proofread(
    source: ProofreadingSource,
    truth: np.ndarray,
    fragments: np.ndarray,
    n_answers: int,
    choose: Callable[[UncertaintyQueue], Question | None],
    **queue_options: object,
) -> list[Point]:
    """Answer up to `n_answers` questions in the order in which `choose` takes them."""
    session = ProofreadingSession(source, user="oracle")
    oracle = Oracle(session, truth, fragments)
    queue = UncertaintyQueue(session, **queue_options)
    scores = oracle.scores()
    points = [Point(0, 0, 0, scores.voi_split, scores.voi_merge)]
    changes = 0
    for i in range(1, n_answers + 1):
        question = choose(queue)
        if question is None:
            break
        changed = oracle.answer(question)
        changes += changed
        if changed:
            scores = oracle.scores()
        points.append(Point(i, changes, oracle.n_seeds, scores.voi_split, scores.voi_merge))
    return points


def ranked(queue: UncertaintyQueue) -> Question | None:
    """Take the question that the queue puts first."""
    first = queue.ranked(1)
    return first[0] if first and not first[0].postponed else None


def shuffled(seed: int) -> Callable[[UncertaintyQueue], Question | None]:
    """Take any of the same questions."""
    rng = np.random.default_rng(seed)

    def choose(queue: UncertaintyQueue) -> Question | None:
        return queue.any(rng)

    return choose


def answers_needed(points: list[Point], voi: float) -> int | None:
    """Answers after which the VOI is no higher than `voi` for the first time."""
    return next((point.answers for point in points if point.voi <= voi), None)


def main() -> int:
    """Run both orders and print the curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--truth", type=Path, required=True, help="volume of labels, 0 = ignored")
    parser.add_argument("--first-section", type=int, default=0, help="of the store, in the truth")
    parser.add_argument("--threshold", type=float, help="by default the store's")
    parser.add_argument("--answers", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3, help="of the random order")
    parser.add_argument("--band", type=float, default=BAND)
    parser.add_argument("--min-size", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    store = SegmentationStore.open(arguments.store)
    source = ProofreadingSource.from_store(store, threshold=arguments.threshold)
    first = arguments.first_section
    truth = open_volume(arguments.truth)
    labels = np.stack([truth.section(first + z) for z in range(store.n_sections)])
    fragments = np.asarray(store.fragments[:])
    options = {"band": arguments.band, "min_size": arguments.min_size}

    curves = {}
    orders = {"queue": ranked}
    orders |= {f"random {i + 1}": shuffled(i) for i in range(arguments.repeats)}
    for name, choose in orders.items():
        started = time.process_time()
        points = proofread(source, labels, fragments, arguments.answers, choose, **options)
        curves[name] = points
        print(f"\n{name} ({time.process_time() - started:.0f} s of CPU)")
        print("answers  changes  seeds    VOI  = split + merge")
        for point in points[:: max(1, len(points) // 12)] + points[-1:]:
            print(
                f"{point.answers:7d}  {point.changes:7d}  {point.seeds:5d}  {point.voi:.4f}  = "
                f"{point.voi_split:.4f} + {point.voi_merge:.4f}"
            )
    compare(curves)
    if arguments.json is not None:
        rows = {name: [vars(point) for point in points] for name, points in curves.items()}
        arguments.json.write_text(json.dumps(rows))
    return 0


def compare(curves: dict[str, list[Point]]) -> None:
    """Print how many answers either order needs for the same VOI."""
    queue = curves["queue"]
    for name, points in curves.items():
        if name == "queue":
            continue
        start, end = points[0].voi, min(point.voi for point in points)
        print(f"\nanswers needed for a part of what {name} gains, {start - end:.4f} bits in all:")
        for part in (0.25, 0.5, 0.75, 1.0):
            voi = start - part * (start - end)
            ours, theirs = answers_needed(queue, voi), answers_needed(points, voi)
            ratio = "never" if ours is None or not theirs else f"{ours / theirs:.2f} of them"
            print(f"  {part:4.0%} (VOI {voi:.4f}): {name} {theirs}, queue {ours}: {ratio}")


if __name__ == "__main__":
    sys.exit(main())
