from __future__ import annotations

import numpy as np
from napari.components import ViewerModel

from napari_cad.widgets._image import ImageChooser
from napari_cad.widgets._labels import LabelsChooser

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
