"""The steps of the work in their order: which widgets, what they need, and how far they are."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Labels

from napari_cad.core.errors import NapariCadError
from napari_cad.viewer.error_layers import shown_lut
from napari_cad.viewer.layer_data import LutLabels
from napari_cad.viewer.layers import role_of, run_of
from napari_cad.viewer.live_labels import LiveLabels
from napari_cad.viewer.state import state_of
from napari_cad.viewer.volumes import volume_from_layer
from napari_cad.widgets._image import grey_images

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.components import ViewerModel
    from napari.layers import Layer

    from napari_cad.viewer.state import StepReport

#: What has been compared with a truth, or written, says so; else these stand there.
_READY = "ready"

#: Labels that widgets draw for a while, and nobody works on.
_DRAWN = ("fit_fragments", "proofread_marks", "proofread_scribbles")
#: Labels that may be a truth, besides those that others have made.
_TRUTHS = ("truth", "labels")


@dataclass(frozen=True)
class Part:
    """A widget of a step; its module is imported when it is first opened.

    Attributes
    ----------
    title : str
        On its tab.
    python_name : str
        "package.module:Class", whose only argument is the viewer.
    about : str
        What it is for, in one line.
    """

    title: str
    python_name: str
    about: str = ""


@dataclass(frozen=True)
class Step:
    """A step of the work.

    Attributes
    ----------
    title : str
        For people.
    parts : tuple of Part
        The first one is the step itself, the others belong to it.
    reports : tuple of str
        Steps, as widgets report them, that its line tells of: what runs first, else the first one.
    lacking : callable
        (viewer) → what has to be done first, in one line; empty where the step can be taken.
    line : callable
        (viewer) → how far it is where no widget has said so.
    lasting : bool
        Whether what its widget has said last still holds when that has no more to say.
    """

    title: str
    parts: tuple[Part, ...]
    reports: tuple[str, ...]
    lacking: Callable[[ViewerModel], str]
    line: Callable[[ViewerModel], str]
    lasting: bool = False

    def state(self, viewer: ViewerModel, earlier: StepReport | None = None) -> tuple[str, bool]:
        """Give its line, and whether a job goes on.

        Parameters
        ----------
        viewer : ViewerModel
            The viewer that the step is taken in.
        earlier : StepReport, optional
            The last one of a lasting step that said something.
        """
        found = [_held(viewer, state_of(viewer).report_of(name)) for name in self.reports]
        if self.lasting:
            found.append(_held(viewer, earlier))
        said = [report for report in found if report is not None and report.text]
        running = [report for report in said if report.running]
        if running:
            return running[0].text, True
        lacking = self.lacking(viewer)
        if lacking:
            return lacking, False
        return (said[0].text if said else self.line(viewer)), False


def _held(viewer: ViewerModel, report: StepReport | None) -> StepReport | None:
    """Give a report if it still holds."""
    if report is None or report.running or report.run is None:
        return report
    return report if any(run_of(layer) == report.run for layer in viewer.layers) else None


def _nothing(_viewer: ViewerModel) -> str:
    return ""


def _lacks_image(viewer: ViewerModel) -> str:
    return "" if grey_images(viewer) else "open an image first"


def _lacks_run(viewer: ViewerModel) -> str:
    return "" if _whole(viewer) else _first(viewer, "a run")


def _lacks_labels(viewer: ViewerModel) -> str:
    return "" if _labels(viewer) else _first(viewer, "labels")


def _first(viewer: ViewerModel, other: str) -> str:
    return (
        "finish the run first" if _segments(viewer) else f"segment an image, or open {other}, first"
    )


def _image_line(viewer: ViewerModel) -> str:
    images, chosen = grey_images(viewer), state_of(viewer).image
    if not images:
        return "no image open"
    layer = chosen if chosen is not None and chosen in images else images[0]
    try:
        volume = volume_from_layer(layer)
    except NapariCadError:
        return str(layer.name)
    size = volume.voxel_size
    voxels = "voxel size not known" if size is None else f"{' × '.join(f'{n:g}' for n in size)} nm"
    sections = f"{volume.n_sections} section{'s' * (volume.n_sections != 1)}"
    return f"{layer.name} · {sections} · {voxels}"


def _ready(_viewer: ViewerModel) -> str:
    return _READY


def _threshold_line(viewer: ViewerModel) -> str:
    layers = _whole(viewer)
    report = state_of(viewer).report_of("segment")
    newest = [layer for layer in layers if report is not None and run_of(layer) == report.run]
    layer = (newest or layers)[-1]
    lut, run = shown_lut(layer), run_of(layer)
    if lut is None or run is None:
        return _READY
    n = int(np.count_nonzero(np.bincount(lut.astype(np.int64, copy=False))[1:]))
    text = f"{n:,} segment{'s' * (n != 1)}"
    with suppress(NapariCadError, OSError):  # it may have been removed meanwhile
        text += f" at {state_of(viewer).store(run).threshold:.2f}"
    several = len({run_of(other) for other in layers}) > 1
    return f"{Path(run).stem} · {text}" if several else text


def _evaluation_line(viewer: ViewerModel) -> str:
    labels = _labels(viewer)
    if not any(role_of(layer) is None or role_of(layer) in _TRUTHS for layer in labels):
        return "ready; scores need a truth layer"
    return _READY if len(labels) > 1 else "ready; scores need a segmentation, and its truth"


def _training_line(viewer: ViewerModel) -> str:
    if not grey_images(viewer) or not _labels(viewer):
        return "needs an image with labels, or a folder of them"
    return "ready; learns from what was proofread"


def _labels(viewer: ViewerModel) -> list[Layer]:
    """List the labels that can be worked on."""
    whole = _whole(viewer)
    return [
        layer
        for layer in viewer.layers
        if isinstance(layer, Labels)
        and layer.ndim == 3
        and role_of(layer) not in _DRAWN
        and (layer in whole or not _is_of_run(layer))
    ]


def _whole(viewer: ViewerModel) -> list[Layer]:
    """List the segments of runs that were made to their end, and are not being made anew."""
    report = state_of(viewer).report_of("segment")
    going_on = report.run if report is not None and report.running else None
    return [
        layer
        for layer in _segments(viewer)
        if run_of(layer) != going_on and not _are_fragments(layer)
    ]


def _segments(viewer: ViewerModel) -> list[Layer]:
    """List the layers of runs that show segments, or fragments that are to become some."""
    return [layer for layer in viewer.layers if _is_of_run(layer)]


def _is_of_run(layer: Layer) -> bool:
    return role_of(layer) == "segments" and bool(run_of(layer))


def _are_fragments(layer: Layer) -> bool:
    """Whether a run has not got as far as segments; the LUT of a moving threshold is not made."""
    data = layer.data
    return isinstance(data, LutLabels) and not isinstance(data, LiveLabels) and data.lut is None


STEPS = (
    Step(
        "Input and fit",
        (
            Part(
                "Image", "napari_cad.widgets._input:ImagePanel", "Open a stack, and see what it is."
            ),
            Part(
                "Fit",
                "napari_cad.widgets.fit:FitWidget",
                "Make a checkpoint work on this stack, without labels.",
            ),
        ),
        ("fit",),
        _nothing,
        _image_line,
    ),
    Step(
        "Segment neurons",
        (
            Part(
                "Segment",
                "napari_cad.widgets.segment:SegmentWidget",
                "Run the network over the stack.",
            ),
            Part(
                "Embedding map",
                "napari_cad.widgets.embedding:EmbeddingWidget",
                "See what the network sees.",
            ),
            Part(
                "2D against 3D",
                "napari_cad.widgets.seams:SeamsWidget",
                "The student beside a 3D network in sliding windows.",
            ),
        ),
        ("segment",),
        _lacks_image,
        _ready,
    ),
    Step(
        "Agglomerate",
        (Part("Agglomerate", "napari_cad.widgets.agglomerate:AgglomerateWidget"),),
        ("agglomerate",),
        _lacks_run,
        _threshold_line,
    ),
    Step(
        "Proofread",
        (Part("Proofread", "napari_cad.widgets.proofread:ProofreadWidget"),),
        ("proofread",),
        _lacks_labels,
        _ready,
        lasting=True,  # every edit is on the disk when a session ends
    ),
    Step(
        "Evaluate and export",
        (
            Part(
                "Evaluate",
                "napari_cad.widgets.evaluate:EvaluateWidget",
                "Compare a segmentation with the truth.",
            ),
            Part(
                "Segments",
                "napari_cad.widgets.measure:MeasureWidget",
                "How large segments are, and whom they touch.",
            ),
            Part(
                "Meshes",
                "napari_cad.widgets.meshes:MeshWidget",
                "Segments as surfaces, in 3D and as files.",
            ),
            Part(
                "Export",
                "napari_cad.widgets.export:ExportWidget",
                "Write the labels for other tools.",
            ),
        ),
        ("evaluate", "export"),
        _lacks_labels,
        _evaluation_line,
    ),
    Step(
        "Train",
        (Part("Train", "napari_cad.widgets.train:TrainWidget"),),
        ("train",),
        _nothing,
        _training_line,
    ),
)
