#!/usr/bin/env python3
"""Make the pictures of docs/proofread.md: the real window, with the synthetic sample.

    python scripts/picture_proofread.py [--output docs/images]

proofread.png: a cut of a segment that holds two neurites, with its seeds, before it is made.
proofread-queue.png: a question of the queue. The sample comes from its seed, the segmentation from
the embedded checkpoint. Without a display it runs itself on a
virtual screen. It takes a minute or two.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from make_pictures import ROOT, need_a_screen
from picture_evaluate import opened, picture, segmented, wait

if TYPE_CHECKING:
    import numpy as np

    from napari_cad.proofreading.queue import Question
    from napari_cad.proofreading.suspects import End
    from napari_cad.viewer.proofreading import Proofreader

WINDOW = (1400, 960)
SECTION = 8
MARGIN = 110  # voxels around the place of the question that is shown
NEARER = 1.7


def main() -> None:
    """Parse the command line and make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--run", type=Path, help="the sample, segmented; by default it is now")
    options = parser.parse_args()
    output = options.output.absolute()
    need_a_screen()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # napari as it comes, not as this person has set it up
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")
        run = Path(folder) / "run.zarr"
        if options.run is None:
            segmented(Path(folder))
        else:
            shutil.copytree(options.run, run)
        for path in make_pictures(run, output):
            print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


def make_pictures(run: Path, folder: Path) -> list[Path]:
    """Begin a cut; then go to a question."""
    from napari_cad.viewer.embedding_layers import camera_of
    from napari_cad.viewer.samples import synthetic_sample

    viewer, widget = opened(run, "Proofread")
    viewer.window.resize(*WINDOW)
    _, (truth, _, _) = synthetic_sample()
    widget.start()
    wait(lambda: widget.proofreader is not None)
    proofreader = widget.proofreader
    if proofreader is None:
        sys.exit(f"There is no session: {widget.status.line.text()}")
    viewer.dims.set_current_step(0, SECTION)
    viewer.reset_view()
    begin_cut(proofreader, truth[SECTION])
    made = [picture(viewer, folder / "proofread.png")]
    proofreader.run("cancel")
    proofreader.select(())
    widget.uncertain.expand()
    while not is_inside(proofreader.walk.current, truth.shape):
        before = proofreader.walk.current
        proofreader.run("next_question")
        wait(lambda before=before: proofreader.walk.current not in (None, before))
    camera_of(viewer).zoom *= NEARER
    made.append(picture(viewer, folder / "proofread-queue.png"))
    widget.end()
    viewer.close()
    return made


def is_inside(question: Question | End | None, shape: tuple[int, ...]) -> bool:
    """Whether there is tissue all around a question."""
    return question is not None and all(
        MARGIN < i < n - MARGIN for i, n in zip(question.position[1:], shape[1:], strict=True)
    )


def begin_cut(proofreader: Proofreader, truth: np.ndarray[Any, Any]) -> None:
    """Put a seed into either neurite of the segment that merges the most, in a section."""
    import numpy as np

    session = proofreader.session
    section = session.lut[proofreader.layers.fragments.section(SECTION)]
    there = (section > 0) & (truth > 0)
    pairs, counts = np.unique(np.stack([section[there], truth[there]]), axis=1, return_counts=True)
    merged: dict[int, list[tuple[int, int]]] = {}
    for segment, neurite, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
        merged.setdefault(segment, []).append((count, neurite))
    two = {s: sorted(parts)[-2:] for s, parts in merged.items() if len(parts) > 1}
    worst = max(two, key=lambda segment: two[segment][0])
    (_, smaller), (_, larger) = two[worst]
    red, blue = (
        proofreader.picker.in_section(middle((section == worst) & (truth == neurite)))
        for neurite in (larger, smaller)
    )
    proofreader.pointer.click(red)
    proofreader.run("split")
    proofreader.pointer.click(red)
    proofreader.pointer.click(blue, ("Shift",))
    wait(lambda: proofreader.split_mode.preview is not None)


def middle(mask: np.ndarray[Any, Any]) -> list[int]:
    """Find the voxel of a mask of the section that is the furthest from its border."""
    import numpy as np
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    return [SECTION, *(int(i) for i in np.unravel_index(depth.argmax(), depth.shape))]


if __name__ == "__main__":
    main()
