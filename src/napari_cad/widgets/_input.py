"""Opening an image, and what there is to know about it before anything is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QFileDialog, QLabel, QPushButton, QWidget

from napari_cad.core.errors import JobError, NapariCadError
from napari_cad.viewer.jobs import JobRunner
from napari_cad.viewer.reader import LayerData, get_reader
from napari_cad.viewer.samples import sample_layers
from napari_cad.viewer.tasks import SAMPLE, SampleMade
from napari_cad.widgets._column import Column
from napari_cad.widgets._form import form_layout, tooltip
from napari_cad.widgets._image import ImageChooser
from napari_cad.widgets._status import RunStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    import napari.viewer

    from napari_cad.core.events import Event

_FILTER = "EM stacks (*.tif *.tiff *.h5 *.hdf5 *.hdf *.mrc *.rec *.map *.npy *.png);;All files (*)"
#: Bytes from which a size is written in the next unit.
_UNIT = 1000


class ImagePanel(Column):
    """Opens a stack, a folder of sections, a run or the sample, and describes the image.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Where images are opened.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self.files_button = QPushButton("Open files…")
        self.files_button.setToolTip(
            tooltip("A TIFF stack, HDF5, MRC or .npy; several files become one stack.")
        )
        self.folder_button = QPushButton("Open folder…")
        self.folder_button.setToolTip(
            tooltip("A folder of sections (PNG, TIFF), zarr, OME-Zarr, or the store of a run.")
        )
        self.sample_button = QPushButton("Open the sample")
        self.sample_button.setToolTip(
            tooltip("A small synthetic stack with its truth, to try everything on.")
        )
        self.image = ImageChooser(viewer)
        self.about = QLabel()
        self.about.setWordWrap(True)
        self.status = RunStatus()
        form = QWidget()
        form_layout(form).addRow("Image", self.image)
        self.fill(
            (self.files_button, self.folder_button),
            self.sample_button,
            form,
            self.about,
            self.status,
        )
        self.runner = JobRunner(self)
        self.runner.reported.connect(self._on_event)
        self.runner.finished.connect(self._on_finished)
        self.runner.failed.connect(self._on_failed)
        self.files_button.clicked.connect(self._on_files)
        self.folder_button.clicked.connect(self._on_folder)
        self.sample_button.clicked.connect(self.open_sample)
        self.image.changed.connect(self._describe)
        self._describe()

    def open(self, paths: Sequence[str]) -> None:
        """Open files as one stack, or a folder."""
        self.status.clear()
        path = paths[0] if len(paths) == 1 else list(paths)
        try:
            reader = get_reader(path)
            if reader is None:
                self.status.failed(f"{paths[0]} is no image, stack or run that can be read here.")
                return
            layers = reader(path)
        except (NapariCadError, OSError) as error:
            self.status.failed(str(error))
            return
        self._add(layers)

    def open_sample(self) -> None:
        """Make and open the synthetic stack with its truth."""
        self.status.clear()
        try:
            self.runner.start(SAMPLE, {}, "Synthetic sample")
        except OSError as error:
            self.status.failed(f"The job could not be started: {error}")
            return
        self.sample_button.setEnabled(False)
        self.status.running("Making the sample…")

    def _on_event(self, event: Event) -> None:
        if isinstance(event, SampleMade):
            self._add(sample_layers(event.sample))

    def _on_finished(self) -> None:
        self.sample_button.setEnabled(True)
        self.status.ended("")

    def _on_failed(self, error: JobError) -> None:
        self.sample_button.setEnabled(True)
        self.status.failed(str(error), error.details)

    def _add(self, layers: list[LayerData]) -> None:
        for data, settings, kind in layers:
            getattr(self._viewer, f"add_{kind}")(data, **settings)

    def _on_files(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, "Open an EM stack", "", _FILTER)
        if paths:
            self.open(paths)

    def _on_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Open a folder of sections, or a run")
        if folder:
            self.open([folder])

    def _describe(self) -> None:
        try:
            volume = self.image.volume()
        except NapariCadError as error:
            self.about.setText(str(error) if self.image.layer is not None else "")
            return
        z, y, x = volume.shape
        n_bytes = float(z * y * x * volume.dtype.itemsize)
        unit = "kB"
        for larger in ("MB", "GB", "TB"):
            if n_bytes < _UNIT**2:
                break
            n_bytes, unit = n_bytes / _UNIT, larger
        size = volume.voxel_size
        voxels = (
            "Its voxel size is not known: type it where you segment it."
            if size is None
            else f"Voxels of {' × '.join(f'{n:g}' for n in size)} nm (z, y, x)."
        )
        sections = "One section" if z == 1 else f"{z} sections"
        bulk = f"{volume.dtype}, {n_bytes / _UNIT:.1f} {unit}"
        self.about.setText(f"{sections} of {y} × {x} voxels, {bulk}. {voxels}")
