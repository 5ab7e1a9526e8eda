from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import pytest
from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QLabel, QSpinBox

from napari_cad.core.config import AgglomerationConfig, InferenceConfig
from napari_cad.core.errors import ConfigError
from napari_cad.core.intensity import IntensityMapping
from napari_cad.core.volume import EMVolume, VolumeSource
from napari_cad.training.fine_tune_config import FineTuneConfig
from napari_cad.widgets._form import Collapsible, ConfigForm
from napari_cad.widgets._intensity import IntensityForm
from napari_cad.widgets._output import default_store_path
from napari_cad.widgets._status import RunStatus


@dataclass(frozen=True)
class Settings:
    count: int = field(default=3, metadata={"help": "How many.", "min": 1, "max": 9})
    size: int | None = field(default=None, metadata={"unit": "voxels", "min": 16})
    share: float = field(default=0.25, metadata={"min": 0.0, "max": 1.0})
    ratio: float | None = None
    kind: str = field(default="a", metadata={"choices": ("a", "b")})
    name: str = "x"
    fast: bool = True


NAMES = ("count", "size", "share", "ratio", "kind", "name", "fast")


@pytest.fixture
def form(qtbot):
    form = ConfigForm(Settings, NAMES)
    qtbot.addWidget(form)
    return form


def test_a_form_begins_with_the_defaults(form):
    assert Settings(**form.values()) == Settings()


def test_values_go_in_and_come_out(form):
    values = {
        "count": 7,
        "size": 64,
        "share": 0.5,
        "ratio": 2.5,
        "kind": "b",
        "name": "y",
        "fast": False,
    }
    form.set_values(**values)
    assert form.values() == values
    form.set_values(size=None, ratio=None)
    assert form.values()["size"] is None
    assert form.values()["ratio"] is None


def test_limits_units_and_tooltips_come_from_the_metadata(form):
    count, size, share = (form.field(name) for name in ("count", "size", "share"))
    assert isinstance(count, QSpinBox)
    assert (count.minimum(), count.maximum()) == (1, 9)
    assert "How many." in count.toolTip()
    assert size.suffix() == " voxels"
    assert size.text() == "automatic"
    assert isinstance(share, QDoubleSpinBox)
    assert (share.minimum(), share.maximum()) == (0, 1)
    assert isinstance(form.field("kind"), QComboBox)
    assert isinstance(form.field("fast"), QCheckBox)
    size.setValue(16)
    assert form.values()["size"] == 16  # the lowest value is not the automatic one
    labels = [label.text() for label in form.findChildren(QLabel)]
    assert {"Count", "Kind"} <= set(labels)


def test_choices_may_come_from_elsewhere(qtbot):
    form = ConfigForm(Settings, ("name",), {"name": {"x": "the first", "z": "the last"}})
    qtbot.addWidget(form)
    combo = form.field("name")
    assert [combo.itemText(i) for i in range(combo.count())] == ["x", "z"]
    form.set_values(name="cuda:1")  # not listed, but a person may have it in a config
    assert form.values() == {"name": "cuda:1"}


def test_the_forms_of_the_real_configs_give_valid_ones(qtbot):
    form = ConfigForm(InferenceConfig, ("precision", "batch", "tile", "halo"))
    qtbot.addWidget(form)
    assert InferenceConfig(**form.values()) == InferenceConfig()
    form.set_values(halo=7)
    with pytest.raises(ConfigError, match="halo"):
        InferenceConfig(**form.values())


def test_a_collapsible_shows_and_hides(qtbot):
    content = QLabel("inside")
    part = Collapsible("More", content)
    qtbot.addWidget(part)
    assert not content.isVisibleTo(part)
    part.button.click()
    assert content.isVisibleTo(part)
    part.expand(False)
    assert not content.isVisibleTo(part)


def test_intensity(qtbot):
    form = IntensityForm(lambda: (10.0, 90.0))
    qtbot.addWidget(form)
    assert form.value() is None
    assert not form.invert.isVisibleTo(form)
    form.method.setCurrentIndex(form.method.findData("percentiles"))
    form.first.setValue(1)
    form.second.setValue(99)
    form.invert.setChecked(True)
    assert form.value() == IntensityMapping("percentiles", percentiles=(1, 99), invert=True)
    form.method.setCurrentIndex(form.method.findData("limits"))
    form.from_layer.click()
    assert form.value() == IntensityMapping("limits", 10, 90, invert=True)
    assert form.high.isVisibleTo(form)
    assert not form.first.isVisibleTo(form)
    form.high.setValue(5)
    with pytest.raises(ConfigError, match="low < high"):
        form.value()
    form.method.setCurrentIndex(form.method.findData("dtype"))
    form.invert.setChecked(False)
    assert form.value() == IntensityMapping("dtype", percentiles=(1, 99))


def test_the_store_goes_beside_the_volume_or_into_a_folder_of_ours(tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_data_path", lambda name, **_: tmp_path / "ours" / name)
    data = np.zeros((1, 2, 2), np.uint8)
    folder = tmp_path / "data"
    (folder / "sections").mkdir(parents=True)
    (folder / "stack.ome.tif").touch()
    for path, name in (
        ("stack.ome.tif", "stack.ome_AC34.zarr"),
        ("sections", "sections_AC34.zarr"),
    ):
        volume = EMVolume(data, source=VolumeSource(str(folder / path)))
        assert default_store_path(volume, "AC34") == folder / name
    in_memory = EMVolume(data, name="my stack [1/2]")
    assert (
        default_store_path(in_memory, "a b")
        == tmp_path / "ours" / "napari-cad" / "runs" / "my-stack-1-2_a-b.zarr"
    )
    monkeypatch.setattr("os.access", lambda path, mode: False)  # a disc that cannot be written
    volume = EMVolume(data, source=VolumeSource(str(folder / "sections")))
    assert default_store_path(volume, "AC34").parent == tmp_path / "ours" / "napari-cad" / "runs"


def test_status(qtbot):
    status = RunStatus()
    qtbot.addWidget(status)
    status.running("Affinities", 3, 10)
    assert (status.bar.value(), status.bar.maximum()) == (3, 10)
    status.warn("one")
    status.warn("one")
    status.warn("two")
    assert status.warnings.text() == "⚠ one\n⚠ two"
    status.failed("no memory")
    assert not status.details_button.isVisibleTo(status)
    status.failed("no memory", "Traceback")
    assert status.details_button.isVisibleTo(status)
    assert status.warnings.isVisibleTo(status)
    status.clear()
    assert not status.warnings.isVisibleTo(status)
    assert status.line.text() == ""


@pytest.mark.parametrize("cls", [FineTuneConfig, InferenceConfig, AgglomerationConfig])
def test_a_form_begins_with_the_defaults_and_does_not_round_them(qtbot, cls):
    names = tuple(f.name for f in dataclasses.fields(cls))
    form = ConfigForm(cls, names)
    qtbot.addWidget(form)
    found, default = form.values(), cls()
    assert {name: found[name] for name in names} == {n: getattr(default, n) for n in names}


def test_a_threshold_is_set_as_it_is(qtbot):
    form = ConfigForm(AgglomerationConfig, ("threshold",))
    qtbot.addWidget(form)
    form.set_values(threshold=0.475)
    assert form.values()["threshold"] == 0.475
