"""The tables of docs/fit.md: what `suggest` picks, against the truth, for published checkpoints.

    python scripts/fit_table.py --shared ../shared --cache scratch/fit [--stack NAME]

For every stack, checkpoint and setting of the grid: the agreement, from crops that `sample_crops`
chooses, and the VOI against the truth on two crops, of 7×384² and 5×320² voxels, best over the
thresholds 0.2 to 0.7. The score was chosen by the first of them, so the second one is its check.
Each value is kept in a file of the cache, so that the script can be stopped and goes on; a full run
takes about an hour and a half on two cores. Test sections (80 and above of SNEMI3D) are never read.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from napari_cad.core.agglomeration import MergeTree, agglomerate_graph
from napari_cad.core.agreement import reversal_agreement, sample_crops
from napari_cad.core.checkpoint import load_checkpoint
from napari_cad.core.config import FragmentConfig, InferenceConfig
from napari_cad.core.fit import N_CROPS, FitGrid, FitSetting, Fitter
from napari_cad.core.fragments import section_fragments
from napari_cad.core.metrics import Scores, contingency
from napari_cad.core.readers import open_volume
from napari_cad.core.region_graph import RegionGraph, section_edges
from napari_cad.core.segmentation_job import default_intensity
from napari_cad.core.volume import EMVolume

CHECKPOINTS = ("AC34", "CremiA", "CremiB", "CremiC", "wafer4")
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)

#: Keys of a file of the cache: the agreement, and VOI by threshold on the first and second crop.
AGREEMENT = f"agreement of {N_CROPS} crops"
VOI, CHECK = "voi", "voi of the check"

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Stack:
    """A stack with truth, and the crops that are scored."""

    title: str
    raw: str
    labels: str
    voxel_size: tuple[float, float, float]
    sections: tuple[int, int]
    scored: Box
    check: Box
    trained_on_it: tuple[str, ...] = ()

    def open(self, shared: Path) -> EMVolume:
        """Open the sections that may be looked at."""
        return open_volume(shared / "data" / self.raw, voxel_size=self.voxel_size).crop(
            self.sections
        )


STACKS = {
    "snemi": Stack(
        "SNEMI3D, sections 0–79 (mouse cortex, ssSEM)",
        "snemi3d_ac4/raw",
        "snemi3d_ac4/labels.tif",
        (30, 6, 6),
        (0, 80),
        ((40, 47), (300, 684), (300, 684)),
        ((10, 15), (650, 970), (60, 380)),
        ("AC34",),
    ),
    "isbi": Stack(
        "ISBI 2012 (Drosophila larva, ssTEM)",
        "isbi2012/raw.tif",
        "isbi2012/labels.tif",
        (50, 4, 4),
        (0, 30),
        ((8, 15), (64, 448), (64, 448)),
        ((20, 25), (150, 470), (20, 340)),
    ),
}


def name_of(setting: FitSetting) -> str:
    """Name a setting's file."""
    polarity = "inv" if setting.intensity.invert else ""
    values = setting.fit
    return (
        f"{Path(setting.checkpoint).stem}{polarity}"
        f"_a{values.adapt}_s{values.smooth}_r{values.rescale}"
    )


def segment(affinities: list[np.ndarray]) -> tuple[np.ndarray, MergeTree]:
    """Fragments (Z, Y, X) and their merge tree."""
    labels: list[np.ndarray] = []
    tables = []
    offset = 0
    for z, section in enumerate(affinities):
        labels.append(section_fragments(section, FragmentConfig()) + np.uint32(offset))
        offset = int(labels[-1].max())
        tables.append(section_edges(labels[-1], section, z, labels[-2] if z else None))
    history = agglomerate_graph(RegionGraph.concatenate(tables, n_fragments=offset))
    return np.stack(labels), MergeTree.from_history(offset, history)


def voi_by_threshold(affinities: list[np.ndarray], truth: np.ndarray) -> dict[str, float]:
    """Score the segmentations at all thresholds."""
    fragments, tree = segment(affinities)
    tables = (contingency(truth=truth, segmentation=tree.lut(t)[fragments]) for t in THRESHOLDS)
    return {str(t): Scores.of(table).voi for t, table in zip(THRESHOLDS, tables, strict=True)}


def in_memory(volume: EMVolume) -> EMVolume:
    """Read a crop; its first section is then paired with itself, as at the start of a stack."""
    return EMVolume.from_array(np.stack([volume.section(z) for z in range(volume.n_sections)]))


def measure(stack: str, shared: Path, cache: Path, *, polarity: bool) -> None:
    """Fill the cache with agreement and VOI of every setting."""
    about = STACKS[stack]
    volume = about.open(shared)
    truths = open_volume(shared / "data" / about.labels)
    scored = {
        key: (in_memory(volume.crop(*box)), in_memory(truths.crop(*box)))
        for key, box in ((VOI, about.scored), (CHECK, about.check))
    }
    crops = sample_crops(volume, N_CROPS)
    for name in CHECKPOINTS:
        path = shared / "checkpoints" / f"{name}.ckpt"
        checkpoint = load_checkpoint(path)
        intensity = default_intensity(volume, checkpoint.metadata).resolve(volume)
        grid = FitGrid(both_polarities=polarity)
        fitter = Fitter(volume, checkpoint, InferenceConfig(device="cpu"))
        for setting in grid.settings(volume, str(path), checkpoint.metadata, intensity):
            file = cache / stack / f"{name_of(setting)}.json"
            values: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
            if values.keys() >= {AGREEMENT, VOI, CHECK}:
                continue
            predictor, preprocessing = fitter.predictor(setting.intensity, setting.fit)
            if AGREEMENT not in values:
                values[AGREEMENT] = reversal_agreement(predictor, preprocessing, crops)
            for key, (raw, truth) in scored.items():
                if key not in values:
                    made = [a.affinities for a in predictor.predict(raw, preprocessing)]
                    values[key] = voi_by_threshold(made, np.asarray(truth.data))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values))
            best = [f"{min(values[key].values()):.2f}" for key in (VOI, CHECK)]
            print(stack, file.stem, f"{values[AGREEMENT]:.3f}", *best, file=sys.stderr)


@dataclass(frozen=True)
class Row:
    """One setting of the cache."""

    checkpoint: str
    setting: str
    agreement: float
    voi: float
    check: float


def read(stack: str, cache: Path) -> list[Row]:
    """Read the settings of a stack."""
    rows = []
    for file in sorted((cache / stack).glob("*.json")):
        values = json.loads(file.read_text())
        if values.keys() >= {AGREEMENT, VOI, CHECK}:
            checkpoint, _, setting = file.stem.partition("_")
            lowest = [min(values[key].values()) for key in (VOI, CHECK)]
            rows.append(Row(checkpoint, setting, values[AGREEMENT], *lowest))
    return rows


def words(setting: str) -> str:
    """Write a setting for people."""
    adapt, smooth, rescale = (part[1:] for part in setting.split("_"))
    parts = [
        f"adapt {float(adapt):g}" if float(adapt) else "",
        f"smooth {float(smooth):g}" if float(smooth) else "",
        f"rescale {float(rescale):g}" if float(rescale) != 1 else "",
    ]
    return ", ".join(part for part in parts if part) or "as it is"


def report(stack: str, rows: list[Row]) -> list[str]:
    """Write the table of a stack."""
    about = STACKS[stack]
    upright = [row for row in rows if not row.checkpoint.endswith("inv")]
    agreements = [row.agreement for row in upright]
    picked = max(upright, key=lambda row: row.agreement)
    lines = [f"### {about.title}", "", f"{len(upright)} settings.", ""]
    for crop, values in (
        ("first crop", [row.voi for row in upright]),
        ("second crop", [row.check for row in upright]),
    ):
        best = upright[int(np.argmin(values))]
        mine = values[upright.index(picked)]
        lines.append(
            f"- {crop}: rank correlation of agreement and VOI "
            f"**{-spearmanr(agreements, values)[0]:.2f}** (Spearman, sign turned); suggested among "
            f"all {picked.checkpoint}, "
            f"{words(picked.setting)}, VOI **{mine:.2f}**; best {best.checkpoint}, "
            f"{words(best.setting)}, VOI {min(values):.2f} (**{mine / min(values) - 1:+.0%}**)."
        )
    lines += [
        "",
        "| checkpoint | as it is | adapted (1) | suggested | which is | agreement | best of its "
        "grid | which is | ρ | second crop: as it is | suggested |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in CHECKPOINTS:
        own = {row.setting: row for row in upright if row.checkpoint == name}
        if not own:
            continue
        chosen = max(own.values(), key=lambda row: row.agreement)
        lowest = min(own.values(), key=lambda row: row.voi)
        checked = min(row.check for row in own.values())
        pairs = [(row.agreement, row.voi) for row in own.values()]
        mark = " (trained on it)" if name in about.trained_on_it else ""
        as_is, adapted = own["a0.0_s0.0_r1.0"], own["a1.0_s0.0_r1.0"]
        lines.append(
            f"| {name}{mark} | {as_is.voi:.2f} | {adapted.voi:.2f} "
            f"| **{chosen.voi:.2f}** ({chosen.voi / lowest.voi - 1:+.0%}) "
            f"| {words(chosen.setting)} | {chosen.agreement:.2f} | {lowest.voi:.2f} "
            f"| {words(lowest.setting)} | {-spearmanr(*zip(*pairs, strict=True))[0]:.2f} "
            f"| {as_is.check:.2f} | {chosen.check:.2f} ({chosen.check / checked - 1:+.0%}) |"
        )
    turned = [row for row in rows if row.checkpoint.endswith("inv")]
    if turned:
        wrong = max(turned, key=lambda row: row.agreement)
        lines += [
            "",
            f"With the wrong polarity ({len(turned)} settings), the highest agreement is "
            f"{wrong.agreement:.2f} ({wrong.checkpoint.removesuffix('inv')}, "
            f"{words(wrong.setting)}, VOI {wrong.voi:.2f}); the lowest VOI "
            f"{min(row.voi for row in turned):.2f}.",
        ]
    return [*lines, ""]


def main() -> None:
    """Measure what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--cache", type=Path, default=Path("scratch/fit"))
    parser.add_argument("--stack", choices=list(STACKS), action="append")
    parser.add_argument("--polarity", action="store_true", help="also the wrong one")
    parser.add_argument("--only-print", action="store_true", help="measure nothing")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for stack in options.stack or STACKS:
        if not options.only_print:
            measure(stack, options.shared, options.cache, polarity=options.polarity)
        print("\n".join(report(stack, read(stack, options.cache))))


if __name__ == "__main__":
    main()
