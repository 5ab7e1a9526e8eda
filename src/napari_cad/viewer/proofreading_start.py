"""Beginning a session, or going on with it: from a layer to a `Proofreader`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psygnal import Signal
from qtpy.QtCore import QObject

from napari_cad.core.errors import JobError, NapariCadError, ShapeError
from napari_cad.proofreading.errors import SessionMismatchError
from napari_cad.proofreading.folder import session_folder
from napari_cad.proofreading.session import ProofreadingSession
from napari_cad.proofreading.view import edge_score
from napari_cad.viewer.jobs import JobRunner, RunProgress
from napari_cad.viewer.layers import find_layer, role_of, run_of
from napari_cad.viewer.live_labels import shown_threshold
from napari_cad.viewer.placement import Placement
from napari_cad.viewer.proofreading import Proofreader
from napari_cad.viewer.proofreading_tasks import (
    OPEN_LABELS,
    OPEN_RUN,
    SourceReady,
    folder_of_labels,
)
from napari_cad.viewer.volumes import sendable, volume_from_layer

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels
    from qtpy.QtWidgets import QWidget

    from napari_cad.core.events import Event
    from napari_cad.proofreading.source import ProofreadingSource


@dataclass(frozen=True)
class _Request:
    """What is to be proofread; the layer may be gone by the time it is read."""

    layer: Labels
    placement: Placement
    name: str
    run: str | None
    take_over: bool


class SessionStarter(QObject):
    """Reads what a session works on in a child process, and then opens the session.

    Parameters
    ----------
    viewer : ViewerModel
        Where it is shown.
    parent : QWidget
        Its owner.

    Attributes
    ----------
    progress : Signal
        (str, int, int), a line, and how much of how much is done.
    started : Signal
        (Proofreader).
    failed : Signal
        (str, str), what went wrong in a line, and details.
    """

    progress = Signal(str, int, int)
    started = Signal(object)
    failed = Signal(str, str)

    def __init__(self, viewer: ViewerModel, parent: QWidget) -> None:
        super().__init__(parent)
        self._viewer, self._owner = viewer, parent
        self._request: _Request | None = None
        self._progress = RunProgress()
        self.runner = JobRunner(parent)
        self.runner.reported.connect(self._on_event)
        self.runner.failed.connect(self._on_failed)

    def start(self, layer: Labels, image: Image | None = None, *, take_over: bool = False) -> None:
        """Begin a session about a labels layer, or go on with the one there is.

        Parameters
        ----------
        layer : Labels
            Of three axes: the segments of a run, or any other labels.
        image : Image, optional
            Of the same shape; used for labels that come without a run.
        take_over : bool
            Edit although another process holds the session.

        Raises
        ------
        ShapeError
            If image and labels differ in shape.
        VolumeError
            If a layer is no stack.
        OSError
            If the job cannot be started.
        """
        run = run_of(layer) if role_of(layer) == "segments" else None
        self._request = _Request(layer, Placement.of_layer(layer), layer.name, run, take_over)
        self._progress = RunProgress()
        if run is not None:
            self.runner.start(OPEN_RUN, {"run": run}, f"Opening {layer.name}")
        else:
            arguments = self._about_labels(layer, image)
            self.runner.start(OPEN_LABELS, arguments, f"Region graph of {layer.name}")
        self.progress.emit("Reading fragments and region graph …", 0, 0)

    def _about_labels(self, layer: Labels, image: Image | None) -> dict[str, Any]:
        labels = volume_from_layer(layer)
        arguments: dict[str, Any] = {"labels": sendable(labels)}
        if image is not None:
            volume = volume_from_layer(image)
            if volume.shape != labels.shape:
                raise ShapeError(
                    f"image and labels have one shape, got {volume.shape} for {image.name} and "
                    f"{labels.shape} for {layer.name}: choose another image, or none"
                )
            arguments["image"] = sendable(volume)
        return arguments

    def _on_event(self, event: Event) -> None:
        if isinstance(event, SourceReady) and self._request is not None:
            try:
                self._open(self._request, event.source)
            except (NapariCadError, OSError) as error:
                self.failed.emit(str(error), "")
        elif self._progress.update(event):
            self.progress.emit("Reading …", self._progress.done, self._progress.total)

    def _open(self, request: _Request, source: ProofreadingSource) -> None:
        folder = (
            folder_of_labels(request.name, source)
            if request.run is None
            else session_folder(Path(request.run))
        )
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            session = ProofreadingSession(source, folder, take_over=request.take_over)
        except SessionMismatchError as error:
            if request.run is not None:
                raise
            raise SessionMismatchError(
                "these labels were proofread before with another image beside them, or without "
                f"one: choose it as it was and press Start again. (That session lies in {folder}; "
                "move it away to begin a new one.)",
                error.expected,
                error.found,
            ) from error
        shown = shown_threshold(request.layer.data, source.signature.get("merge_function", ""))
        begins = not session.read_only and not session.history.edits
        if begins and shown is not None and edge_score(shown) != session.threshold:
            session.set_threshold(shown)  # what is on screen is what is worked on
        key = str(folder)
        old = find_layer(self._viewer, "proofread", key)
        if old is not None:  # left there by a session that has ended
            self._viewer.layers.remove(old)
        if request.layer in self._viewer.layers:
            request.layer.visible = False
        proofreader = Proofreader(
            self._viewer,
            session,
            request.placement,
            request.name,
            key,
            self._owner,
            run_path=request.run,
        )
        viewer, layer = self._viewer, request.layer

        def show_again(_reason: str) -> None:
            if find_layer(viewer, "proofread", key) is None and layer in viewer.layers:
                layer.visible = True

        proofreader.ended.connect(show_again)
        self.started.emit(proofreader)

    def _on_failed(self, error: JobError) -> None:
        self.failed.emit(str(error), error.details)
