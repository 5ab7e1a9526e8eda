"""The steps of the work in their order: which widgets, what they need, and how far they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Labels

from napari_cad.core.errors import NapariCadError
from napari_cad.viewer.error_layers import shown_lut
from napari_cad.viewer.layers import METADATA_KEY, role_of, run_of
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
    """

    title: str
    parts: tuple[Part, ...]
    reports: tuple[str, ...]
    lacking: Callable[[ViewerModel], str]
    line: Callable[[ViewerModel], str]

    def state(self, viewer: ViewerModel) -> tuple[str, bool]:
        """Give its line, and whether a job goes on."""
        found = [_report(viewer, name) for name in self.reports]
        said = [report for report in found if report is not None and report.text]
        running = [report for report in said if report.running]
        if running:
            return running[0].text, True
        lacking = self.lacking(viewer)
        if lacking:
            return lacking, False
        return (said[0].text if said else self.line(viewer)), False


def _report(viewer: ViewerModel, name: str) -> StepReport | None:
    """Give what was last said of a step, if it still holds."""
    report = state_of(viewer).report_of(name)
    if report is None or report.running or report.run is None:
        return report
    return report if any(run_of(layer) == report.run for layer in viewer.layers) else None


def _nothing(_viewer: ViewerModel) -> str:
    return ""


def _lacks_image(viewer: ViewerModel) -> str:
    return "" if grey_images(viewer) else "open an image first"


def _lacks_run(viewer: ViewerModel) -> str:
    report = state_of(viewer).report_of("segment")
    going_on = report.run if report is not None and report.running else None
    found = any(run_of(layer) != going_on for layer in _segments(viewer))
    return "" if found else "segment an image, or open a run, first"


def _lacks_labels(viewer: ViewerModel) -> str:
    found = any(isinstance(layer, Labels) and layer.ndim == 3 for layer in viewer.layers)
    return "" if found else "segment an image, or open labels, first"


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
    return f"{layer.name} · {volume.n_sections} sections · {voxels}"


def _ready(_viewer: ViewerModel) -> str:
    return _READY


def _threshold_line(viewer: ViewerModel) -> str:
    layer = _segments(viewer)[-1]
    lut, run = shown_lut(layer), run_of(layer)
    if lut is None or run is None:
        return _READY
    n = np.count_nonzero(np.bincount(lut.astype(np.int64, copy=False))[1:])
    try:
        threshold = state_of(viewer).store(run).threshold
    except (NapariCadError, OSError):
        return f"{n:,} segments"
    return f"{n:,} segments at {threshold:.2f}"


def _evaluation_line(viewer: ViewerModel) -> str:
    has_truth = any(role_of(layer) in ("truth", "labels") for layer in viewer.layers)
    return _READY if has_truth else "ready; scores need a truth layer"


def _segments(viewer: ViewerModel) -> list[Layer]:
    """List the layers of runs that show segments."""
    return [
        layer
        for layer in viewer.layers
        if role_of(layer) == "segments" and layer.metadata[METADATA_KEY].get("run")
    ]


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
)
