"""Going to 3D and back: which section, which view, and that surfaces leave the sliders alone."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from qtpy.QtWidgets import QWidget

from napari_cad.core.meshes import MeshMaker
from napari_cad.viewer.embedding_layers import camera_of, grid_of
from napari_cad.viewer.error_layers import go_to
from napari_cad.viewer.errors_on_top import ErrorsOnTop
from napari_cad.viewer.in_3d import In3D
from napari_cad.viewer.layers import tag
from napari_cad.viewer.mesh_layers import SegmentMeshes
from napari_cad.viewer.placement import Placement
from napari_cad.viewer.turns import Turns

SHAPE = (8, 20, 30)
VOXEL = (30.0, 6.0, 7.0)
PATIENCE = 20_000


@pytest.fixture
def owner(qtbot):
    widget = QWidget()
    qtbot.addWidget(widget)
    return widget


@pytest.fixture
def viewer():
    model = ViewerModel()
    model.add_image(np.zeros(SHAPE, np.uint8), **Placement.of_volume(VOXEL).for_axes(3))
    return model


@pytest.fixture
def turn(viewer, owner, qtbot):
    """Turn to 3D as the widgets do."""
    in_3d = In3D(viewer, owner)

    def _turn():
        in_3d.enter()
        qtbot.waitUntil(lambda: not in_3d._turns.busy, timeout=PATIENCE)
        assert viewer.dims.ndisplay == 3

    return _turn


# ---------------------------------------------------------------------- back to the section


def test_the_section_and_the_place_in_it_are_the_same_afterwards(viewer, turn):
    camera = camera_of(viewer)
    viewer.dims.set_current_step(0, 1)
    camera.center, camera.zoom = (0, 33, 44), 2.5
    for _ in range(2):
        turn()
        assert camera.center[1:] != (33, 44)  # all is seen
        viewer.dims.ndisplay = 2
        assert viewer.dims.point[0] == 30
        assert tuple(camera.center) == (0, 33, 44)
        assert camera.zoom == 2.5


def test_who_goes_back_before_the_stack_is_in_view_finds_the_section(viewer, owner, qtbot):
    in_3d = In3D(viewer, owner)
    camera = camera_of(viewer)
    viewer.dims.set_current_step(0, 1)
    camera.center, camera.zoom = (0, 33, 44), 2.5
    in_3d._turn()
    viewer.dims.ndisplay = 2
    in_3d._look()
    assert viewer.dims.current_step[0] == 1
    assert camera.center[-2:] == (33, 44)
    assert camera.zoom == 2.5


def test_the_section_is_the_one_that_was_gone_to_in_3d(viewer, turn):
    viewer.dims.set_current_step(0, 1)
    turn()
    go_to(viewer, Placement.of_volume(VOXEL), (6, 5, 9))
    camera_of(viewer).center = (123.4, 30, 63)  # as turning and moving by the mouse leaves it
    viewer.dims.ndisplay = 2
    assert viewer.dims.point[0] == 180
    assert tuple(camera_of(viewer).center) == (0, 30, 63)


def test_a_view_that_others_turned_is_left_to_them(viewer, turn):
    turn()
    viewer.dims.ndisplay = 2
    viewer.dims.ndisplay = 3
    camera_of(viewer).center = (60, 1, 2)
    viewer.dims.ndisplay = 2
    assert tuple(camera_of(viewer).center[1:]) == (1, 2)


# ---------------------------------------------------------------------- the view


def test_3d_begins_with_an_oblique_view_and_keeps_the_persons(viewer, turn):
    camera = camera_of(viewer)
    above = np.array(camera.view_direction)
    turn()
    first = np.array(camera.view_direction)
    assert 0.5 < first @ above < 0.9  # from the same side, obliquely
    assert camera.up_direction[1] < -0.5  # rows still go down
    viewer.dims.ndisplay = 2
    camera.set_view_direction((0.1, 1, 0.2), (-1, 0, 0))
    chosen = camera.view_direction
    turn()
    np.testing.assert_allclose(camera.view_direction, chosen)


# ---------------------------------------------------------------------- surfaces and sliders


@pytest.mark.parametrize("multiscale", [False, True])
@pytest.mark.parametrize(
    "placed",
    [
        {},
        {"scale": VOXEL, "translate": (60.1, 12.3, -14.7)},
        {"scale": (30.0, 5.9, 6.3)},  # no multiples: rounding must not reach beyond either
        {"scale": (30.0, -6.0, 7.0), "translate": (0, 100, 0)},
        {"scale": VOXEL, "rotate": 30},
    ],
)
@pytest.mark.parametrize("step", [(1, 1, 1), (2, 10, 9)])
def test_surfaces_leave_the_range_of_the_sliders(owner, qtbot, placed, multiscale, step):
    labels = np.ones(SHAPE, np.uint8)
    viewer = ViewerModel()
    data = [labels, labels[:, ::2, ::2]] if multiscale else labels
    layer = viewer.add_layer(Labels(data, multiscale=multiscale, **placed))
    before = viewer.dims.range
    maker = MeshMaker([1], range(SHAPE[0]), step)
    for z in maker.needed:
        maker.add(labels[z])
    mesh = maker.mesh(1)
    meshes = SegmentMeshes(viewer, owner)
    meshes._watch(layer)
    for _ in range(2):  # a new layer, and other data in it
        meshes._meshes = {1: mesh}
        meshes._on_finished()
        qtbot.waitUntil(lambda: meshes.surface is not None, timeout=PATIENCE)
        for found, expected in zip(viewer.dims.range, before, strict=True):
            np.testing.assert_allclose(found[:2], expected[:2], rtol=0, atol=1e-9)
        assert viewer.dims.nsteps[0] == SHAPE[0]
    if not placed:
        low, high = meshes.surface.extent.data
        assert (low >= 0).all()
        assert high[0] == SHAPE[0] - 1 or step[0] > 1  # closed there, not left out


# ---------------------------------------------------------------------- what lies above what


@pytest.fixture
def with_arrows(viewer, owner):
    viewer.add_vectors(np.zeros((1, 2, 3)), name="arrows", metadata=tag("error_arrows"))
    viewer.add_points(np.zeros((1, 3)), name="numbers", metadata=tag("error_places"))
    turns = Turns(owner)
    on_top = ErrorsOnTop(viewer, turns)
    yield viewer, turns
    del on_top


def add(viewer, turns, qtbot, name, role="proofread"):
    viewer.add_points(ndim=3, name=name, metadata=tag(role))
    qtbot.waitUntil(lambda: not turns.busy, timeout=PATIENCE)


def test_arrows_stay_above_what_is_added(with_arrows, qtbot):
    viewer, turns = with_arrows
    for name in ("proofread", "embedding"):
        add(viewer, turns, qtbot, name)
        assert [layer.name for layer in viewer.layers][-3:] == [name, "arrows", "numbers"]
    viewer.add_points(ndim=3, name="a")
    add(viewer, turns, qtbot, "b")  # before the first was seen to
    assert [layer.name for layer in viewer.layers][-4:] == ["a", "b", "arrows", "numbers"]
    add(viewer, turns, qtbot, "others", "error_arrows")
    assert viewer.layers[-1].name == "others"


def test_arrows_that_were_moved_down_stay_there(with_arrows, qtbot):
    viewer, turns = with_arrows
    viewer.add_labels(np.ones(SHAPE, np.uint8), name="mine")
    qtbot.waitUntil(lambda: not turns.busy, timeout=PATIENCE)
    viewer.layers.move(viewer.layers.index("mine"), len(viewer.layers))
    add(viewer, turns, qtbot, "proofread")
    names = [layer.name for layer in viewer.layers]
    assert names[-4:] == ["arrows", "numbers", "mine", "proofread"]


def test_side_by_side_nothing_is_moved(with_arrows, qtbot):
    viewer, turns = with_arrows
    grid_of(viewer).enabled = True
    add(viewer, turns, qtbot, "proofread")
    assert viewer.layers[-1].name == "proofread"
