"""Parts of a proofreading session in a viewer that need no window."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from napari.layers import Labels
from napari.utils.key_bindings import coerce_keybinding

from napari_cad.proofreading.from_labels import source_from_labels
from napari_cad.proofreading.session import ProofreadingSession
from napari_cad.viewer import proofreading_commands, proofreading_keys
from napari_cad.viewer.proofreading_actions import ACTIONS
from napari_cad.viewer.proofreading_do import Actions
from napari_cad.viewer.proofreading_keys import (
    KeyChoiceError,
    SessionKeys,
    changed_keys,
    chosen_keys,
    default_keys,
    keep_keys,
    plain_key,
)
from napari_cad.viewer.proofreading_labels import (
    LINE,
    RED,
    SELECTED,
    VERIFIED,
    FrozenSegments,
    LookedUp,
    Marks,
    MarkTable,
    RecentSections,
    SegmentTable,
)


@pytest.fixture
def session():
    """Eight columns through three sections."""
    labels = np.arange(1, 9).reshape(1, 2, 4).repeat(3, 0).repeat(6, 1).repeat(5, 2)
    image = np.random.default_rng(0).integers(0, 255, labels.shape).astype(np.uint8)
    with ProofreadingSession(source_from_labels(labels, image=image)) as session:
        yield session


def test_every_action_has_a_method_a_command_and_a_key_of_its_own():
    keys = [action.key for action in ACTIONS if action.key]
    assert len(set(keys)) == len(keys)
    for action in ACTIONS:
        assert plain_key(action.key) == action.key
        assert callable(getattr(Actions, action.name))
        assert callable(getattr(proofreading_commands, action.name))


@pytest.mark.parametrize(
    ("written", "key"),
    [("g", "G"), ("ctrl+shift+z", "Control-Shift-Z"), ("Shift-D", "Shift-D"), ("esc", "Escape"),
     ("return", "Enter"), ("F5", "F5")],
)  # fmt: skip
def test_keys_are_read_as_people_write_them(written, key):
    assert plain_key(written) == key


@pytest.mark.parametrize("written", ["", "nothing", "Hyper-G", "Shift-"])
def test_what_is_no_key_is_refused(written):
    with pytest.raises(KeyChoiceError, match="there is no key"):
        plain_key(written)


def test_keys_are_kept_and_a_damaged_file_means_the_default(tmp_path, monkeypatch):
    settings = SimpleNamespace(config_path=str(tmp_path / "napari" / "settings.yaml"))
    monkeypatch.setattr(proofreading_keys, "get_settings", lambda: settings)
    assert chosen_keys() == default_keys()
    keys = changed_keys(default_keys(), "merge", "shift+m")
    keep_keys(keys)
    path = tmp_path / "napari" / "napari-cad-keys.json"
    assert json.loads(path.read_text()) == {"merge": "Shift-M"}
    assert chosen_keys() == keys
    with pytest.raises(KeyChoiceError, match="S is the key of"):
        changed_keys(keys, "merge", "s")
    assert changed_keys(keys, "merge", "")["merge"] == ""
    for damaged in ("{", "[]", '{"merge": "no such key"}'):
        path.write_text(damaged)
        assert chosen_keys() == default_keys()


def test_a_binding_that_somebody_made_meanwhile_stays():
    layer, pressed = Labels(np.zeros((2, 2), int)), []
    layer.bind_key("G", lambda _layer: None)
    mine = dict(layer.keymap)
    keys = SessionKeys(pressed.append, default_keys())
    keys.bind(layer, leave=("undo",))
    assert coerce_keybinding("Control-Z") not in layer.keymap
    layer.keymap[coerce_keybinding("G")](layer)
    assert pressed == ["merge"]
    keys.rebind(default_keys() | {"merge": "M"})
    assert coerce_keybinding("Control-Z") not in layer.keymap
    assert layer.keymap[coerce_keybinding("G")] is mine[coerce_keybinding("G")]
    theirs = lambda _layer: None  # noqa: E731
    layer.bind_key("N", theirs, overwrite=True)
    keys.unbind()
    assert dict(layer.keymap) == mine | {coerce_keybinding("N"): theirs}


def test_tables_follow_edits_in_place(session):
    fragments = RecentSections(session.fragments)
    table = SegmentTable(session)
    shown = LookedUp(fragments, table.values)
    first = table.values
    a, b = (int(session.lut[fragments.at(voxel)]) for voxel in ((1, 0, 0), (1, 0, 6)))
    session.segments_changed.connect(table.follow)
    session.merge([a, b])
    assert table.values is first
    np.testing.assert_array_equal(shown[...], session.lut[session.fragments[...]])
    np.testing.assert_array_equal(shown[1, ::2, 3:7], shown[...][1, ::2, 3:7])
    table.hidden.add(a)
    table.rebuild()
    assert not (shown[...] == a).any()
    session.undo()
    assert (shown[...] == b).any()
    assert not (shown[...] == a).any()
    table.hidden.clear()
    table.isolated = {b}
    table.rebuild()
    assert set(np.unique(shown[...])) == {0, b}


def test_what_is_shown_alone_stays_in_sight(session):
    table = SegmentTable(session)
    session.segments_changed.connect(table.follow)
    both = np.concatenate([session.fragments_of(1), session.fragments_of(2)])
    table.isolated = {2}
    table.rebuild()

    def shown():
        return np.unique(table.values[table.values > 0]).tolist()

    table.show(session.preview_threshold(1.0))
    assert table.values[session.fragments_of(2)].all()  # part of a segment with another id
    session.merge([1, 2], keep=1)
    assert shown() == [1]
    session.set_threshold(0.0)  # too many segments change to be listed
    assert shown() == np.unique(session.lut[both]).tolist()
    assert len(shown()) > 1
    tried = session.preview_threshold(1.0)
    table.show(tried)
    np.testing.assert_array_equal(table.values[both], tried[both])
    session.add_note("one step more")
    session.go_to(0)
    assert shown() == [1, 2]


def test_divided_fragments_are_read_anew_and_frozen_ones_are_not(session):
    fragments = RecentSections(session.fragments)
    table = SegmentTable(session)
    before = fragments.section(1)
    fragments.borders(1)
    frozen = FrozenSegments(session.fragments, session.lut)
    then = session.lut[session.fragments[...]]
    mask = np.zeros((1, 2, 3), np.bool_)
    mask[0, 0] = True
    changed = []
    session.segments_changed.connect(changed.append)
    session.relabel((1, 0, 0), mask)
    fragments.forget(changed[0].boxes)
    table.follow(changed[0])
    assert not np.array_equal(fragments.section(1), before)
    shown = LookedUp(fragments, table.values)
    np.testing.assert_array_equal(shown[...], session.lut[session.fragments[...]])
    assert fragments.borders(1)[1, 1]
    np.testing.assert_array_equal(frozen[...], then)
    session.undo()
    np.testing.assert_array_equal(frozen[...], then)


def test_marks_have_lines(session):
    fragments = RecentSections(session.fragments)
    table = MarkTable(session)
    marks = Marks(fragments, table.values)
    one, other = session.fragments_of(1), session.fragments_of(2)
    session.lock([3])
    table.mark({SELECTED: one, RED: other})
    section = marks[1]
    assert set(np.unique(section)) == {0, SELECTED, RED, LINE, VERIFIED}
    inside = np.isin(fragments.section(1), one)
    assert set(np.unique(section[inside])) == {SELECTED, LINE}
    assert not (section[~inside] == LINE).any()
    table.bordered = other
    table.mark({})
    section = marks[1]
    lines = fragments.borders(1) & np.isin(fragments.section(1), other)
    np.testing.assert_array_equal(section == LINE, lines)
    table.bordered = other[:0]
    table.mark({})
    assert set(np.unique(marks[1])) == {0, VERIFIED}
