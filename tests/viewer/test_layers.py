from __future__ import annotations

import copy

import numpy as np
import pytest
import zarr
from napari.layers import Image, Labels
from napari.layers._layer_actions import _duplicate_layer

from napari_cad.core.errors import ShapeError, VolumeError
from napari_cad.viewer.layer_data import ChannelsLast, LutLabels
from napari_cad.viewer.layers import (
    add_labels,
    add_or_update,
    find_layer,
    role_of,
    shown_section,
)
from napari_cad.viewer.placement import Placement
from napari_cad.viewer.reader import read_volumes
from napari_cad.viewer.volumes import volume_from_layer

NM = {"scale": (30, 6, 7), "translate": (60, 12, 14), "units": ("nm",) * 3}


class Counted:
    """An array that remembers which parts of it were read."""

    def __init__(self, array):
        self.array = array
        self.shape, self.dtype, self.ndim, self.size = (
            array.shape,
            array.dtype,
            array.ndim,
            array.size,
        )
        self.read = []

    def __getitem__(self, key):
        part = self.array[key]
        self.read.append(part.shape)
        return part


@pytest.fixture
def fragments():
    return np.random.default_rng(0).integers(0, 50, (6, 20, 24), dtype=np.uint32)


@pytest.fixture
def lut():
    lut = np.random.default_rng(1).integers(1, 50, 50, dtype=np.uint32)
    lut[0] = 0
    return lut


def as_zarr(array, chunks):
    return zarr.array(array, chunks=chunks)


def test_the_section_on_screen_is_read_once_for_all_luts():
    fragments = np.arange(24, dtype=np.uint32).reshape(3, 2, 4)
    lut, other = np.arange(24), np.arange(24)[::-1].copy()
    other[[0, 23]] = 0
    stored = as_zarr(fragments, (1, 2, 4))
    labels = LutLabels(stored, lut)
    np.testing.assert_array_equal(labels[1], fragments[1])
    stored[1] = 0  # nobody does that to a finished run: it shows that nobody looks
    labels.set_lut(other)
    np.testing.assert_array_equal(labels[1], other[fragments[1]])
    np.testing.assert_array_equal(labels[1, 1:, ::2], other[fragments[1, 1:, ::2]])
    np.testing.assert_array_equal(labels[0], other[fragments[0]])  # as napari reads it now and then
    np.testing.assert_array_equal(labels[1], other[fragments[1]])


KEYS = [
    2,
    -1,
    (slice(None), 3),
    (..., 5),
    (1, 2, 3),
    (slice(4, 1, -1), slice(None, None, 2), slice(3, -3)),
    (slice(0, 1), slice(None), slice(None)),
    (np.int64(2), slice(None), slice(None)),
    (slice(2, 2),),
    ...,
    slice(None),
]


@pytest.mark.parametrize("key", KEYS, ids=str)
@pytest.mark.parametrize("kind", ["numpy", "zarr"])
def test_lut_labels_are_the_lut_of_the_fragments(fragments, lut, key, kind):
    stored = as_zarr(fragments, (1, 10, 10)) if kind == "zarr" else fragments
    labels = LutLabels(stored, lut)
    expected = lut[fragments[key]]
    np.testing.assert_array_equal(labels[key], expected)
    assert labels[key].shape == expected.shape
    assert (labels.shape, labels.ndim, labels.size) == ((6, 20, 24), 3, 6 * 20 * 24)


def test_lut_labels_without_a_lut_are_the_fragments(fragments):
    labels = LutLabels(fragments)
    assert labels.dtype == np.uint32
    assert labels.lut is None
    np.testing.assert_array_equal(np.asarray(labels), fragments)


def test_small_ids_make_small_labels(fragments, lut):
    assert LutLabels(fragments, lut).dtype == np.uint16
    assert LutLabels(fragments, lut)[0].dtype == np.uint16
    lut[7] = 2**16
    assert LutLabels(fragments, lut).dtype == np.uint32
    assert LutLabels(fragments, lut)[0].dtype == np.uint32


def test_set_lut_swaps_it_and_keeps_the_type(fragments, lut):
    labels = LutLabels(fragments, lut)
    other = lut[::-1].copy()
    other[0] = 0
    labels.set_lut(other)
    np.testing.assert_array_equal(labels[1], other[fragments[1]])
    other[5] += 1  # it took a copy
    assert labels.lut[5] != other[5]
    other[5] = 2**16
    with pytest.raises(ShapeError, match="65536 does not fit into uint16"):
        labels.set_lut(other)


@pytest.mark.parametrize("bad", [np.ones(3, np.uint32), np.zeros((2, 2), np.uint32), np.zeros(0)])
def test_what_is_no_lut_is_refused(fragments, bad):
    with pytest.raises(ShapeError, match="begins with 0"):
        LutLabels(fragments, bad)


def test_lut_labels_cannot_be_written(fragments, lut):
    with pytest.raises(TypeError):
        LutLabels(fragments, lut)[0] = 1
    with pytest.raises(ValueError, match="without reading"):
        np.asarray(LutLabels(fragments, lut), copy=False)


@pytest.mark.parametrize(
    "key",
    [0, (2, 3), (1, 2, 3), (1, 2, 3, 0), (..., 1), (slice(1, 2), slice(2, 9), slice(None)), ...],
    ids=str,
)
def test_channels_last(key):
    affinities = np.random.default_rng(0).integers(0, 255, (3, 4, 10, 12), dtype=np.uint8)
    colours = ChannelsLast(as_zarr(affinities, (3, 1, 5, 5)))
    expected = np.moveaxis(affinities, 0, -1)
    assert colours.shape == expected.shape
    assert (colours.ndim, colours.size, colours.dtype) == (4, expected.size, np.uint8)
    np.testing.assert_array_equal(colours[key], expected[key])


# ---------------------------------------------------------------------- layer → volume


def test_a_layer_in_nm_becomes_a_volume_that_is_not_read():
    array = Counted(np.zeros((4, 8, 9), np.uint8))
    layer = Image(array, **NM, name="stack", contrast_limits=(0, 255))
    array.read.clear()
    volume = volume_from_layer(layer)
    assert volume.voxel_size == (30, 6, 7)
    assert volume.origin == (60, 12, 14)
    assert volume.name == "stack"
    assert volume.source is None
    assert array.read == []
    assert volume.section(1).shape == (8, 9)


@pytest.mark.parametrize(
    ("units", "voxel_size"),
    [
        (("um",) * 3, (30_000, 6_000, 7_000)),
        (("angstrom",) * 3, (3, 0.6, 0.7)),
        (("um", "nm", "nm"), (30_000, 6, 7)),
        (("pixel",) * 3, None),
        (("nm", "pixel", "pixel"), None),
        (("second", "nm", "nm"), None),
    ],
)
def test_units_of_a_layer(units, voxel_size):
    layer = Image(np.zeros((4, 8, 9), np.uint8), **{**NM, "units": units})
    volume = volume_from_layer(layer)
    assert volume.voxel_size == (voxel_size and pytest.approx(voxel_size))
    assert volume.origin == ((0, 0, 0) if voxel_size is None else pytest.approx(volume.origin))


def test_a_2d_image_is_one_section():
    layer = Image(np.arange(20, dtype=np.uint16).reshape(4, 5), scale=(6, 6), units=("nm",) * 2)
    volume = volume_from_layer(layer)
    assert volume.shape == (1, 4, 5)
    assert volume.voxel_size is None


def test_of_a_multiscale_layer_the_finest_level_counts():
    levels = [np.zeros((4, 16, 16), np.uint8), np.zeros((4, 8, 8), np.uint8)]
    layer = Image(levels, multiscale=True, scale=(30, 6, 6), units=("nm",) * 3)
    assert volume_from_layer(layer).shape == (4, 16, 16)


@pytest.mark.parametrize("kind", ["dask", "zarr"])
def test_lazy_layers(kind):
    array = np.random.default_rng(0).integers(0, 255, (4, 8, 9), dtype=np.uint16)
    if kind == "dask":
        lazy = pytest.importorskip("dask.array").from_array(array, chunks=(1, 4, 4))
    else:
        lazy = as_zarr(array, (1, 4, 4))
    volume = volume_from_layer(Image(lazy, contrast_limits=(0, 255)))
    np.testing.assert_array_equal(volume.section(2), array[2])


def test_what_is_no_stack_is_refused_with_advice():
    with pytest.raises(VolumeError, match="Split RGB"):
        volume_from_layer(Image(np.zeros((4, 40, 40, 3), np.uint8), rgb=True))
    with pytest.raises(VolumeError, match="Split Stack"):
        volume_from_layer(Image(np.zeros((2, 4, 8, 9), np.uint8)))
    with pytest.raises(VolumeError, match="bool"):
        volume_from_layer(Image(np.zeros((4, 8, 9), bool)))


def test_the_source_goes_with_the_array_of_the_reader_only(tmp_path):
    np.save(tmp_path / "stack.npy", np.zeros((4, 8, 9), np.uint8))
    ((data, settings, _),) = read_volumes(tmp_path / "stack.npy")
    layer = Image(data, **settings)
    assert volume_from_layer(layer).source.path == str(tmp_path / "stack.npy")
    # filtered, say: the file no longer holds this
    for other in (np.ones((4, 8, 9), np.uint8), as_zarr(np.ones((4, 8, 9), np.uint8), (1, 8, 9))):
        layer.data = other
        assert volume_from_layer(layer).source is None
        layer.data = data
        assert volume_from_layer(layer).source is not None


# ---------------------------------------------------------------------- layers in a viewer


@pytest.fixture
def viewer():
    from napari.components import ViewerModel

    return ViewerModel()


def show(viewer, data, role="segments", run="run.zarr", **settings):
    placement = settings.pop("placement", Placement.of_volume((30, 6, 7), (60, 12, 14)))
    return add_or_update(viewer, role, data, run=run, placement=placement, name=role, **settings)


def test_layers_are_found_by_role_and_run_whatever_their_name(viewer, fragments, lut):
    layer = show(viewer, LutLabels(fragments, lut))
    other = show(viewer, LutLabels(fragments, lut), run="other.zarr")
    layer.name, other.name = "mine", "segments"
    assert find_layer(viewer, "segments", "run.zarr") is layer
    assert find_layer(viewer, "affinities", "run.zarr") is None
    assert find_layer(viewer, "segments", "third.zarr") is None
    assert role_of(layer) == "segments"
    assert role_of(viewer.add_image(np.zeros((3, 3)), metadata={"napari_cad": "else"})) is None


def test_an_existing_layer_is_updated_and_keeps_its_looks(viewer, fragments, lut):
    layer = show(viewer, LutLabels(fragments))
    layer.opacity, layer.visible = 0.3, False
    layer.scale = (1, 2, 3)
    new = LutLabels(fragments, lut)
    assert show(viewer, new) is layer
    assert layer.data is new
    assert not layer.editable
    assert layer.opacity == 0.3
    assert not layer.visible
    np.testing.assert_array_equal(layer.scale, (1, 2, 3))
    assert len(viewer.layers) == 1


def test_a_removed_layer_is_made_anew(viewer, fragments, lut):
    layer = show(viewer, LutLabels(fragments, lut))
    viewer.layers.remove(layer)
    assert find_layer(viewer, "segments", "run.zarr") is None
    assert show(viewer, LutLabels(fragments, lut)) is not layer


def test_placement_follows_the_source_layer(viewer, fragments, lut):
    in_plane = [[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]
    image = viewer.add_image(
        np.zeros(fragments.shape, np.uint8), **NM, axis_labels=("z", "y", "x"), rotate=in_plane
    )
    placement = Placement.of_layer(image)
    viewer.layers.remove(image)  # it may go while a job runs
    labels = show(viewer, LutLabels(fragments, lut), placement=placement)
    colours = show(
        viewer,
        ChannelsLast(np.zeros((3, *fragments.shape), np.uint8)),
        role="affinities",
        placement=placement,
        rgb=True,
    )
    stacked = show(
        viewer,
        np.zeros((3, *fragments.shape), np.uint8),
        role="image",
        placement=placement,
    )
    assert isinstance(labels, Labels)
    assert not labels.editable
    assert isinstance(colours, Image)
    assert colours.rgb
    for layer in (labels, colours):
        np.testing.assert_allclose(layer.scale, image.scale)
        np.testing.assert_allclose(layer.translate, image.translate)
        np.testing.assert_allclose(layer.rotate, image.rotate)
        assert layer.units == image.units
        assert layer.axis_labels == ("z", "y", "x")
    np.testing.assert_allclose(stacked.scale, (1, 30, 6, 7))
    np.testing.assert_allclose(stacked.translate, (0, 60, 12, 14))
    assert [str(unit) for unit in stacked.units] == ["pixel", *["nanometer"] * 3]
    assert stacked.axis_labels == ("c", "z", "y", "x")


def test_placement_of_a_2d_image_and_of_a_volume_without_voxel_size(viewer):
    image = viewer.add_image(np.zeros((8, 9)), scale=(6, 7), units=("nm", "nm"))
    labels = show(
        viewer,
        LutLabels(np.ones((1, 8, 9), np.uint32)),
        placement=Placement.of_layer(image),
    )
    np.testing.assert_allclose(labels.scale, (1, 6, 7))
    nowhere = Placement.of_volume(None)
    other = show(viewer, LutLabels(np.ones((1, 8, 9), np.uint32)), run="b", placement=nowhere)
    np.testing.assert_allclose(other.scale, (1, 1, 1))


def test_a_labels_layer_reads_one_section_at_a_time(viewer, lut):
    counted = Counted(np.ones((30, 40, 50), np.uint32))
    layer = show(viewer, LutLabels(counted, lut))
    viewer.dims.set_current_step(0, 7)
    layer.refresh()
    layer.data.set_lut(lut)
    layer.refresh()
    layer.get_value(viewer.dims.point, world=True)
    layer.get_status(viewer.dims.point, world=True)
    repr(layer)
    repr(layer.data)
    assert counted.read
    assert all(np.prod(shape) <= 40 * 50 for shape in counted.read)


def test_colours_read_one_section_at_a_time(viewer):
    counted = Counted(np.ones((3, 30, 40, 50), np.uint8))
    show(viewer, ChannelsLast(counted), role="affinities", rgb=True)
    viewer.dims.set_current_step(0, 7)
    assert counted.read
    assert all(np.prod(shape) <= 3 * 40 * 50 for shape in counted.read)


def test_a_new_lut_is_drawn(viewer, fragments, lut):
    layer = show(viewer, LutLabels(fragments, lut))
    z = shown_section(viewer, layer)
    other = lut.copy()
    other[1:] = 1 + other[1:] % 3
    layer.data.set_lut(other)
    layer.refresh()
    y, x = np.argwhere(fragments[z] > 0)[0]
    point = np.array([60 + 30 * z, 12 + 6 * y, 14 + 7 * x])
    assert layer.get_value(point, world=True) == other[fragments[z, y, x]]


def test_lut_labels_in_3d(viewer, fragments, lut):
    layer = show(viewer, LutLabels(as_zarr(fragments, (1, 10, 10)), lut))
    viewer.dims.ndisplay = 3
    assert shown_section(viewer, layer) is None
    viewer.dims.ndisplay = 2
    assert shown_section(viewer, layer) is not None


def test_a_place_in_the_world_is_where_the_layer_has_it():
    affine = np.eye(4)
    affine[:3] += np.random.default_rng(0).normal(0, 0.1, (3, 4))
    layer = Labels(
        np.zeros((2, 3, 4), np.uint8),
        scale=(30, 6, 7),
        translate=(1, 2, 3),
        rotate=20,
        shear=[0.1, 0.2, 0.3],
        affine=affine,
        visible=False,  # napari warns when it slices such a layer
    )
    position = (1.5, 2.0, -3.0)
    expected = layer.data_to_world(position)
    np.testing.assert_allclose(Placement.of_layer(layer).to_world(position), expected)
    np.testing.assert_allclose(
        Placement.of_volume((30, 6, 7), (1, 2, 3)).to_world(position), [46, 14, -18]
    )
    np.testing.assert_allclose(Placement.of_volume(None).to_world(position), position)


def test_tools_for_painting_come_when_somebody_paints(make_napari_viewer):
    viewer = make_napari_viewer()
    drawn = viewer.window._qt_viewer.canvas._layer_overlay_to_visual
    usual = viewer.add_labels(np.zeros((4, 4), np.uint8))
    layer = add_labels(viewer, np.zeros((4, 4), np.uint8), name="ours")
    assert not layer.editable
    assert viewer.layers["ours"] is layer
    assert not drawn[layer]  # what napari makes for a usual layer
    assert drawn[usual]
    layer.editable = True
    layer.mode = "polygon"
    assert {type(tool) for tool in drawn[layer]} <= {type(tool) for tool in drawn[usual]}
    (polygon,) = drawn[layer].values()
    layer._overlays["polygon"].points = [[0, 0], [0, 3], [3, 3]]
    assert polygon._polygon.visible
    layer.mode = "paint"
    assert len(drawn[layer]) == len(drawn[usual])


def test_the_section_on_screen(viewer, fragments):
    layer = show(viewer, LutLabels(fragments))
    for z in (0, 3, 5):
        viewer.dims.set_current_step(0, z)
        assert shown_section(viewer, layer) == z
    viewer.add_image(np.zeros((20, 8, 8)), scale=(30, 6, 6))
    viewer.dims.set_current_step(0, 15)
    assert shown_section(viewer, layer) is None


@pytest.mark.parametrize(
    "settings",
    [
        {"scale": (4, 5), "translate": (7, 8)},
        {"scale": (4, 5), "rotate": 30, "translate": (7, 8)},
        {"shear": (0.3,), "rotate": 10},
        {"affine": [[0.5, 0.2, 3], [-0.1, 2, 4], [0, 0, 1]], "scale": (2, 3)},
    ],
)
def test_a_layer_with_an_axis_more_lies_where_the_image_lies(settings):
    image = Image(np.zeros((32, 48), np.uint8), **settings)
    placed = Placement.of_layer(image).for_axes(3)
    labels = Labels(np.zeros((1, 32, 48), np.uint8), **placed)
    for corner in ((0, 0), (31, 0), (31, 47)):
        expected = image.data_to_world(corner)
        np.testing.assert_allclose(labels.data_to_world((0, *corner))[1:], expected, atol=1e-9)


def test_a_duplicate_of_segments_stays_as_it_is(fragments, lut):
    labels = LutLabels(fragments, lut)
    copied = copy.deepcopy(labels)
    np.testing.assert_array_equal(np.asarray(copied), np.asarray(labels))
    labels.set_lut(np.zeros_like(lut))
    np.testing.assert_array_equal(np.asarray(copied), lut[fragments[...]])


def test_the_layer_of_a_run_is_found_below_its_duplicate(make_napari_viewer, fragments, lut):
    viewer = make_napari_viewer()
    made = add_or_update(
        viewer, "segments", LutLabels(fragments, lut), run="run", name="s",
        placement=Placement.of_volume(None),
    )  # fmt: skip
    viewer.layers.selection.active = made
    _duplicate_layer(viewer.layers)
    assert len(viewer.layers) == 2
    assert find_layer(viewer, "segments", "run") is made
