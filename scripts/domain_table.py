"""The table of docs/measurements.md: how often a run warns that a checkpoint does not fit.

    python scripts/domain_table.py --shared ../shared --cache scratch/domain [--only-print]

Small stacks are cut from sections 0-79 of SNEMI3D, and every checkpoint is judged on them as
`core.agreement.judge_fit` does it. For the students that were trained there a warning is a false
alarm; for those from elsewhere one that does not come is missed. Three rules stand side by side:
a limit for the mean of two crops; two standard errors below it for the mean of four, if two are
below it (the rule of the package); the same with the spread of those four crops instead of the
measured one. Stacks that a run judges are marked: smaller ones it leaves alone. Each value is kept
in a file of the cache, so that the script can be stopped and goes on. Test sections (80 and above)
are never read.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_cad.core.agreement import (
    N_CROPS,
    PLAUSIBLE,
    lowest_plausible,
    reversal_agreement,
    sample_crops,
)
from napari_cad.core.config import FitConfig, InferenceConfig
from napari_cad.core.fit import Fitter
from napari_cad.core.readers import open_volume
from napari_cad.core.registry import resolve_checkpoint
from napari_cad.core.segmentation_job import default_intensity
from napari_cad.core.synthetic import sample_em, synthetic_em
from napari_cad.core.volume import EMVolume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from napari_cad.core.checkpoint import Checkpoint

AT_HOME = ("default", "AC34")
ABROAD = ("CremiA", "CremiB", "CremiC", "wafer4")
SECTIONS = (2, 4, 8, 16)
PIXELS = (256, 512, 1024)
#: Stacks of each size: what is seldom at home needs more of them to be seen.
N_AT_HOME, N_ABROAD = 20, 5
#: Of this size every place is judged: it is what a first try looks like.
EVERY_PLACE = (8, 1024)
SYNTHETIC_SEEDS = range(100, 109)
#: Voxels that a run judges from, and sections that it has seen before.
JUDGED_VOXELS, JUDGED_SECTIONS = 4_000_000, 3


@dataclass(frozen=True)
class Judged:
    """What was measured of one checkpoint on one stack."""

    start: int
    first_look: float
    crops: list[float]
    limit: float

    @property
    def mean(self) -> float:
        """Agreement of the second look, or of the first, where that was enough."""
        return float(np.mean(self.crops)) if self.crops else self.first_look

    def warned_before(self) -> bool:
        """Apply a limit for the mean of two crops."""
        return self.first_look < PLAUSIBLE

    def warned_now(self) -> bool:
        """Apply the rule of `judge_fit`."""
        return self.warned_before() and self.mean < self.limit

    def warned_by_own_spread(self) -> bool:
        """Apply two standard errors of the crops themselves."""
        if not self.warned_before():
            return False
        error = float(np.std(self.crops, ddof=1)) / math.sqrt(len(self.crops))
        return self.mean + 2 * error < PLAUSIBLE


class Cache:
    """One JSON file per checkpoint and stack."""

    def __init__(self, folder: Path, *, only_print: bool) -> None:
        self._folder = folder
        self._only_print = only_print

    def get(self, name: str, judge: Callable[[], Judged]) -> Judged | None:
        """Read what is there, or measure it."""
        path = self._folder / f"{name}.json"
        if path.exists():
            return Judged(**json.loads(path.read_text()))
        if self._only_print:
            return None
        made = judge()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(made)))
        return made


def judge(checkpoint: Checkpoint, volume: EMVolume, start: int) -> Judged:
    """Judge as `judge_fit` does, and keep the values of single crops."""
    mapping = default_intensity(volume, checkpoint.metadata).resolve(volume)
    fitter = Fitter(volume, checkpoint, InferenceConfig(device="cpu"))
    predictor, preprocessing = fitter.predictor(mapping, FitConfig())
    first_look = reversal_agreement(predictor, preprocessing, sample_crops(volume, 2))
    crops = sample_crops(volume, N_CROPS)
    values = []
    if first_look < PLAUSIBLE:
        values = [reversal_agreement(predictor, preprocessing, [crop]) for crop in crops]
    return Judged(start, first_look, values, lowest_plausible(volume, crops))


def places(n_sections: int, pixels: int, n: int) -> list[tuple[int, int, int]]:
    """Choose where stacks of a size begin, the same every time."""
    last = 80 - n_sections
    if (n_sections, pixels) == EVERY_PLACE and n == N_AT_HOME:
        return [(z, 0, 0) for z in range(last + 1)]
    rng = np.random.default_rng([n_sections, pixels])
    starts = np.linspace(0, last, n).round().astype(int)
    corners = rng.integers(0, 1024 - pixels + 1, (n, 2))
    return [(int(z), int(y), int(x)) for z, (y, x) in zip(starts, corners, strict=True)]


def row(title: str, groups: Iterable[list[Judged | None]]) -> str:
    """Write one row: per group the alarms by the three rules, the lowest and highest agreement."""
    cells = [title]
    for group in groups:
        there = [judged for judged in group if judged is not None]
        if not there:
            cells.append("–")
            continue
        counts = [
            sum(rule(judged) for judged in there)
            for rule in (Judged.warned_before, Judged.warned_now, Judged.warned_by_own_spread)
        ]
        means = [judged.mean for judged in there]
        numbers = " / ".join(str(count) for count in counts)
        cells.append(f"{numbers} of {len(there)} ({min(means):.2f}–{max(means):.2f})")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--cache", type=Path, default=Path("scratch/domain"))
    parser.add_argument("--only-print", action="store_true", help="measure nothing")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cache = Cache(options.cache, only_print=options.only_print)
    names = AT_HOME + ABROAD
    checkpoints = {
        name: resolve_checkpoint(
            name if name == "default" else str(options.shared / "checkpoints" / f"{name}.ckpt")
        )
        for name in names
    }
    stack = open_volume(options.shared / "data/snemi3d_ac4/raw", voxel_size=(30, 6, 6))

    def judged(name: str, n_sections: int, pixels: int) -> list[Judged | None]:
        found = []
        for z, y, x in places(n_sections, pixels, N_AT_HOME if name in AT_HOME else N_ABROAD):
            crop = stack.crop((z, z + n_sections), (y, y + pixels), (x, x + pixels))
            key = f"{name}/{n_sections}x{pixels} {z} {y} {x}"
            found.append(cache.get(key, lambda crop=crop, z=z: judge(checkpoints[name], crop, z)))
        return found

    def judged_synthetic(name: str) -> list[Judged | None]:
        makers = [sample_em]
        makers += [
            lambda seed=seed: synthetic_em((16, 384, 384), seed=seed, calibre=0.6)
            for seed in SYNTHETIC_SEEDS
        ]
        return [
            cache.get(
                f"{name}/synthetic {i}",
                lambda make=make: judge(checkpoints[name], EMVolume.from_array(make().raw), 0),
            )
            for i, make in enumerate(makers)
        ]

    print(f"| stacks | {' | '.join(names)} |")
    print("|---" * (len(names) + 1) + "|")
    for n_sections in SECTIONS:
        for pixels in PIXELS:
            in_a_run = n_sections >= JUDGED_SECTIONS and n_sections * pixels**2 >= JUDGED_VOXELS
            title = f"{n_sections} × {pixels}²{' ✓' if in_a_run else ''}"
            print(row(title, (judged(name, n_sections, pixels) for name in names)), flush=True)
    print(row("16 × 384², synthetic", (judged_synthetic(name) for name in names)))
    for name in AT_HOME:
        there = [one for one in judged(name, *EVERY_PLACE) if one is not None]
        for when, rule in (("before", Judged.warned_before), ("now", Judged.warned_now)):
            starts = [one.start for one in there if rule(one)]
            print(f"\n{name}, eight sections of 1024²: false alarms {when} from sections {starts}")


if __name__ == "__main__":
    main()
