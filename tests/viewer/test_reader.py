from __future__ import annotations

import sys
from pathlib import Path

import h5py
import imageio.v3 as iio
import mrcfile
import numpy as np
import pytest
import tifffile
import zarr
from napari.layers import Image, Labels, Layer

from napari_cad.core._lazy import LazyArray
from napari_cad.core.binning import binned
from napari_cad.core.errors import VolumeError
from napari_cad.core.export import export_labels
from napari_cad.core.label_pyramid import mode_of_blocks
from napari_cad.core.readers import open_volume
from napari_cad.core.segmentation_job import SegmentationOptions
from napari_cad.core.volume import EMVolume, VolumeSource
from napari_cad.viewer.layer_data import PyramidLevel
from napari_cad.viewer.layers import find_layer, role_of
from napari_cad.viewer.reader import _is_named_labels, get_reader
from napari_cad.viewer.samples import synthetic_sample
from napari_cad.viewer.state import state_of
from napari_cad.viewer.volumes import sendable, volume_from_layer

SHAPE = (5, 32, 40)


@pytest.fixture(scope="module")
def raw():
    return np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


def write(kind, folder, raw):
    """Write `raw` in a format; gives the path and the voxel size that the file holds."""
    if kind == "npy":
        np.save(folder / "stack.npy", raw)
        return folder / "stack.npy", None
    if kind == "tiff":
        tifffile.imwrite(
            folder / "stack.tif",
            raw,
            imagej=True,
            resolution=(1 / 6, 1 / 6),
            metadata={"axes": "ZYX", "spacing": 30, "unit": "nm"},
        )
        return folder / "stack.tif", (30, 6, 6)
    if kind == "hdf5":
        with h5py.File(folder / "stack.h5", "w") as file:
            file["raw"] = raw
            file["raw"].attrs["resolution"] = (30.0, 6.0, 6.0)
        return folder / "stack.h5", (30, 6, 6)
    if kind == "mrc":
        with mrcfile.new(folder / "stack.mrc") as file:
            file.set_data(raw.astype(np.int8))
            file.voxel_size = (60, 60, 300)  # x, y, z in Å
        return folder / "stack.mrc", (30, 6, 6)
    if kind == "ome-zarr":
        group = zarr.open_group(folder / "stack.zarr", mode="w", zarr_format=3)
        group.create_array("0", data=raw, chunks=(1, 16, 16))
        axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
        scale = [{"type": "scale", "scale": [30.0, 6.0, 6.0]}]
        datasets = [{"path": "0", "coordinateTransformations": scale}]
        multiscales = [{"axes": axes, "datasets": datasets}]
        group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales}
        return folder / "stack.zarr", (30, 6, 6)
    for z, section in enumerate(raw):
        iio.imwrite(folder / f"section_{z + 8}.png", section)  # 10 comes after 9
    return folder, None


KINDS = ["npy", "tiff", "hdf5", "mrc", "ome-zarr", "folder"]


def read(path):
    reader = get_reader(path)
    assert reader is not None
    return [Layer.create(*layer) for layer in reader(path)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_becomes_a_lazy_layer_in_nm(tmp_path, raw, kind):
    path, voxel_size = write(kind, tmp_path, raw)
    (layer,) = read(str(path))
    assert isinstance(layer, Image)
    assert not isinstance(layer.data, np.ndarray)
    expected = raw.view(np.int8) if kind == "mrc" else raw
    np.testing.assert_array_equal(np.asarray(layer.data), expected)
    assert layer.axis_labels == ("z", "y", "x")
    np.testing.assert_allclose(layer.scale, voxel_size or (1, 1, 1))
    assert str(layer.units[0]) == ("pixel" if voxel_size is None else "nanometer")
    assert role_of(layer) == "image"
    volume = volume_from_layer(layer)
    assert volume.voxel_size == (voxel_size and pytest.approx(voxel_size))
    np.testing.assert_array_equal(
        open_volume(volume.source.path, dataset=volume.source.dataset).section(3), expected[3]
    )


def test_drag_and_drop_of_sections_makes_one_stack_in_natural_order(tmp_path, raw):
    write("folder", tmp_path, raw)
    paths = [str(path) for path in sorted(tmp_path.iterdir(), reverse=True)]
    (layer,) = read(paths)
    assert layer.data.shape == SHAPE
    np.testing.assert_array_equal(np.asarray(layer.data), raw)
    np.testing.assert_array_equal(layer.data[1:3, 4:9, 7], raw[1:3, 4:9, 7])


def test_sections_of_two_sizes_make_no_stack(tmp_path):
    iio.imwrite(tmp_path / "a.png", np.zeros((8, 9), np.uint8))
    iio.imwrite(tmp_path / "b.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(VolumeError, match=r"a with \(8, 9\).*got b with \(8, 8\)"):
        read([str(tmp_path / "a.png"), str(tmp_path / "b.png")])


def test_a_file_with_several_datasets_opens_as_several_layers(tmp_path, raw):
    with h5py.File(tmp_path / "cremi.hdf", "w") as file:
        file["volumes/raw"] = raw
        file["volumes/labels/neuron_ids"] = raw.astype(np.uint64)
        file["volumes/labels/clefts"] = raw.astype(np.uint8)
        file["table"] = np.zeros((4, 2))
    layers = {layer.name: layer for layer in read(tmp_path / "cremi.hdf")}
    raw_layer = layers["cremi volumes/raw"]
    assert isinstance(raw_layer, Image)
    assert isinstance(layers["cremi volumes/labels/neuron_ids"], Labels)
    assert isinstance(layers["cremi volumes/labels/clefts"], Labels)
    assert volume_from_layer(raw_layer).source.dataset == "/volumes/raw"
    (layer,) = read(f"{tmp_path / 'cremi.hdf'}:/volumes/raw")
    assert isinstance(layer, Image)


def test_what_is_not_ours_is_declined_at_once(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("text")
    for path in ("empty", "notes.txt", "missing.h5", "missing"):
        assert get_reader(str(tmp_path / path)) is None
    assert get_reader([]) is None
    np.save(tmp_path / "stack.npy", np.zeros(SHAPE, np.uint8))
    assert get_reader([str(tmp_path / "stack.npy"), str(tmp_path / "notes.txt")]) is None


def test_a_broken_file_says_why(tmp_path):
    (tmp_path / "broken.h5").write_bytes(b"not HDF5 at all")
    with pytest.raises(VolumeError, match=r"broken\.h5"):
        read(tmp_path / "broken.h5")


# ---------------------------------------------------------------------- stores


@pytest.fixture(scope="module")
def example_runs():
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        import example_runs

        yield example_runs
    finally:
        sys.path.remove(str(Path(__file__).parent))


@pytest.fixture(scope="module")
def store_path(tmp_path_factory, raw, example_runs):
    folder = tmp_path_factory.mktemp("run")
    np.save(folder / "stack.npy", raw)
    volume = open_volume(folder / "stack.npy", voxel_size=(30, 6, 7))
    path = folder / "run.zarr"
    list(example_runs.segment(volume, "default", path, SegmentationOptions()))
    return path


def test_a_store_opens_as_its_layers(store_path, raw, example_runs):
    image, affinities, segments = read(str(store_path))
    np.testing.assert_array_equal(np.asarray(image.data), raw)
    assert [role_of(layer) for layer in (image, affinities, segments)] == [
        "image",
        "affinities",
        "segments",
    ]
    assert affinities.rgb
    assert affinities.data.shape == (*SHAPE, 3)
    assert isinstance(segments, Labels)
    assert segments.data.dtype == np.uint16
    first = example_runs.fragments_of(0, SHAPE)
    for z in range(SHAPE[0]):  # the quadrants are joined through all sections
        np.testing.assert_array_equal(segments.data[z], first)
    for layer in (image, affinities, segments):
        np.testing.assert_allclose(layer.scale, (30, 6, 7))
        assert str(layer.units[0]) == "nanometer"
        assert layer.name.startswith("stack")


@pytest.mark.parametrize("voxel_size", [(30, 6, 7), None])
def test_a_binned_store_lies_over_the_whole_image(tmp_path, example_runs, raw, voxel_size):
    np.save(tmp_path / "stack.npy", raw)
    volume = open_volume(tmp_path / "stack.npy", voxel_size=voxel_size).crop((1, 5), (2, 31))
    path = tmp_path / "run.zarr"
    list(example_runs.segment(binned(volume, 2), "default", path, SegmentationOptions()))
    image, affinities, segments = read(str(path))
    np.testing.assert_array_equal(np.asarray(image.data), raw[1:5, 2:31])
    assert image.name == "stack"
    for layer in (affinities, segments):
        assert layer.name.startswith("stack (bin 2) ")
        np.testing.assert_allclose(
            layer.data_to_world((3, 5, 7)), image.data_to_world((3, 10.5, 14.5))
        )


def test_a_store_whose_volume_has_gone_opens_without_it(tmp_path, example_runs, raw):
    np.save(tmp_path / "stack.npy", raw)
    volume = open_volume(tmp_path / "stack.npy")
    list(example_runs.segment(volume, "default", tmp_path / "a.zarr", SegmentationOptions()))
    (tmp_path / "stack.npy").unlink()
    assert [role_of(layer) for layer in read(tmp_path / "a.zarr")] == ["affinities", "segments"]
    np.save(tmp_path / "stack.npy", raw[:3])  # another one in its place
    assert len(read(tmp_path / "a.zarr")) == 2


def test_a_store_that_is_not_finished_shows_its_fragments(tmp_path, example_runs, raw):
    np.save(tmp_path / "stack.npy", raw)
    run = example_runs.segment(
        open_volume(tmp_path / "stack.npy"), "default", tmp_path / "a.zarr", SegmentationOptions()
    )
    for _ in range(6):
        next(run)
    *_, segments = read(tmp_path / "a.zarr")
    np.testing.assert_array_equal(segments.data[1], example_runs.fragments_of(1, SHAPE))
    assert not segments.data[4].any()


def test_the_viewer_opens_them_through_the_manifest(
    make_napari_viewer_proxy, tmp_path, raw, store_path
):
    viewer = make_napari_viewer_proxy()
    viewer.open(str(store_path), plugin="napari-cad")
    assert len(viewer.layers) == 3
    assert find_layer(viewer, "segments", str(store_path)) is not None
    state = state_of(viewer)
    assert state is state_of(viewer)  # although the proxy is made anew
    assert state.store(str(store_path)) is state.store(str(store_path))
    assert state.store(str(store_path)).n_fragments == 4 * SHAPE[0]
    first = state.store(str(store_path))
    state.forget(str(store_path))
    assert state.store(str(store_path)) is not first
    folder = tmp_path / "sections"
    folder.mkdir()
    write("folder", folder, raw)
    viewer.open(str(folder), plugin="napari-cad")
    assert viewer.layers[-1].data.shape == SHAPE
    viewer.open_sample("napari-cad", "synthetic_em")
    assert [layer.name for layer in viewer.layers[-2:]] == ["synthetic EM", "truth"]


def test_two_viewers_have_two_states(make_napari_viewer):
    assert state_of(make_napari_viewer()) is not state_of(make_napari_viewer())


def test_the_sample_has_a_scale_and_a_truth():
    image, truth = (Layer.create(*layer) for layer in synthetic_sample())
    assert image.data.shape == truth.data.shape == (16, 384, 384)
    assert volume_from_layer(image).voxel_size == (30, 6, 6)
    np.testing.assert_allclose(truth.scale, image.scale)
    assert role_of(truth) == "truth"
    assert isinstance(truth, Labels)
    assert len(np.unique(truth.data)) > 10


def test_exported_labels_open_in_all_their_resolutions(tmp_path):
    labels = np.random.default_rng(0).integers(0, 300, (3, 600, 1100)).astype(np.uint16)
    path = export_labels(
        labels.__getitem__,
        labels.shape,
        tmp_path / "out.zarr",  # neither the name nor the type says what it is
        voxel_size=(30, 6, 7),
        origin=(60, 0, 14),
        max_label=300,
    )
    (layer,) = read(path)
    assert isinstance(layer, Labels)
    assert layer.multiscale
    assert [level.shape for level in layer.data] == [(3, 600, 1100), (3, 300, 550), (3, 150, 275)]
    np.testing.assert_array_equal(layer.data[0][1], labels[1])
    np.testing.assert_array_equal(layer.data[1][1], mode_of_blocks(labels[1:2]))
    np.testing.assert_allclose(layer.scale, (30, 6, 7))
    np.testing.assert_allclose(layer.translate, (60, 0, 14))
    assert not layer.editable
    volume = volume_from_layer(layer)
    assert sendable(volume) is volume  # a job opens it by itself
    np.testing.assert_array_equal(np.asarray(volume.data), labels)


class Counted(LazyArray):
    """Remembers the shapes of what was read."""

    def __init__(self, array):
        super().__init__(array.shape, array.dtype)
        self._array = array
        self.read = []

    def _read(self, z, y, x):
        values = self._array[z, y, x]
        self.read.append(values.shape)
        return values


def test_of_a_pyramid_only_the_section_on_screen_is_read():
    array = np.random.default_rng(0).integers(0, 9, (20, 64, 48)).astype(np.uint16)
    levels = [Counted(array), Counted(array[:, ::2, ::2])]
    layer = Labels([PyramidLevel(level) for level in levels], multiscale=True)
    read_shapes = [shape for level in levels for shape in level.read]
    assert read_shapes
    assert {shape[0] for shape in read_shapes} == {1}
    # a cut reads nothing until it is looked at, an integer does
    level = layer.data[0]
    levels[0].read.clear()
    cut = level[2:9, :, 5:40]
    assert cut.shape == (7, 64, 35)
    assert levels[0].read == []
    np.testing.assert_array_equal(cut[3, 1:4], array[5, 1:4, 5:40])
    assert levels[0].read == [(1, 3, 35)]
    np.testing.assert_array_equal(np.asarray(cut), array[2:9, :, 5:40])
    np.testing.assert_array_equal(cut[::2, ::-1], array[2:9, :, 5:40][::2, ::-1])


@pytest.mark.parametrize(
    ("name", "dataset", "labels"),
    [
        ("hippocampus_neurons", None, False),
        ("pyramid", None, False),
        ("cell_grid", None, False),
        ("unsegmented raw", None, False),
        ("stack_labels", None, True),
        ("sample-seg", None, True),
        ("groundtruth", None, True),
        ("stack_gt", None, True),
        ("stack_labels raw", "volumes/raw", False),
        ("hippocampus_neurons ids", "volumes/labels/neuron_ids", True),
        ("stack main", "main", False),
    ],
)
def test_what_is_named_like_labels(name, dataset, labels):
    source = None if dataset is None else VolumeSource("file.h5", dataset=dataset)
    volume = EMVolume(np.zeros((2, 3, 4), np.uint8), name=name, source=source)
    assert _is_named_labels(volume) == labels
