from __future__ import annotations

import numpy as np
from napari.components import ViewerModel

from napari_cad.viewer.layers import tag
from napari_cad.widgets._image import ImageChooser
from napari_cad.widgets._labels import LabelsChooser
from napari_cad.widgets._train_data import TruthForm
from napari_cad.widgets.export import ExportWidget

DATA = np.zeros((2, 8, 8), np.uint8)


def test_a_renamed_layer_stays_chosen_and_its_new_name_is_shown(qtbot):
    model = ViewerModel()
    for name in "AB":
        model.add_image(DATA, name=name)
    chooser = ImageChooser(model)
    qtbot.addWidget(chooser)
    second = model.layers["B"]
    chooser.combo.value = second
    changes = []
    chooser.changed.connect(lambda: changes.append(chooser.layer))
    second.name = "my stack"
    assert chooser.combo.native.currentText() == "my stack"
    late = model.add_image(DATA, name="C")
    late.name = "D"
    model.layers.move(2, 0)
    assert chooser.layer is second
    assert changes == []
    model.layers.remove(second)
    assert chooser.layer is not second
    assert len(changes) == 1


def test_renamed_labels_stay_chosen(qtbot):
    model = ViewerModel()
    first, second = (model.add_labels(DATA, name=name) for name in "AB")
    chooser = LabelsChooser(model)
    qtbot.addWidget(chooser)
    chooser.choose(second)
    second.name = "truth"
    model.add_labels(DATA, name="C")
    assert chooser.layer is second
    chooser.choose(first)
    assert chooser.layer is first


def test_proofread_segments_are_exported_beside_their_run(qtbot, tmp_path):
    model = ViewerModel()
    model.add_labels(DATA, name="segments", metadata=tag("segments", str(tmp_path / "my.zarr")))
    widget = ExportWidget(model)
    qtbot.addWidget(widget)
    assert widget.path.text() == str(tmp_path / "my_labels.zarr")
    session = tmp_path / "my.proofreading" / "session"
    for role in ("proofread_marks", "proofread"):
        model.add_labels(DATA, name=role, metadata=tag(role, str(session)))
    model.add_labels(DATA, name="truth", metadata=tag("truth"))
    assert widget.labels.layer.name == "proofread"
    assert widget.path.text() == str(tmp_path / "my_proofread.zarr")


def test_a_network_does_not_learn_from_its_own_segments_unless_there_is_nothing_else(qtbot):
    model = ViewerModel()
    model.add_labels(DATA, name="segments", metadata=tag("segments", "my.zarr"))
    form = TruthForm(model)
    qtbot.addWidget(form)
    assert form.labels.layer.name == "segments"
    for name, role in (("painted", None), ("proofread", "proofread"), ("truth", "truth")):
        model.add_labels(DATA, name=name, metadata={} if role is None else tag(role))
        assert form.labels.layer.name == name
