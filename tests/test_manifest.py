"""The plugin manifest: what it names exists, and what it claims is polite."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from napari._app_model.constants._menus import is_menu_contributable
from npe2 import PluginManifest

from napari_cad.viewer.proofreading_actions import ACTIONS

MANIFEST = Path(__file__).parents[1] / "src" / "napari_cad" / "napari.yaml"


@pytest.fixture(scope="module")
def manifest() -> PluginManifest:
    return PluginManifest.from_file(MANIFEST)


def commands() -> dict[str, str]:
    contributed = PluginManifest.from_file(MANIFEST).contributions.commands
    return {command.id: command.python_name for command in contributed}


@pytest.mark.parametrize("command", commands())
def test_python_names_resolve(command: str) -> None:
    module, _, attribute = commands()[command].partition(":")
    __import__(module)
    assert callable(getattr(sys.modules[module], attribute))


def test_installed_manifest_is_this_one(manifest: PluginManifest) -> None:
    assert PluginManifest.from_distribution("napari-cad").contributions == manifest.contributions


def test_npe2_finds_it_valid() -> None:
    command = [sys.executable, "-m", "npe2", "validate", str(MANIFEST)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_contributions_use_declared_commands_once(manifest: PluginManifest) -> None:
    contributions = manifest.contributions
    declared = [command.id for command in contributions.commands]
    menu_items = [item for items in contributions.menus.values() for item in items]
    used = [
        item.command
        for item in (
            *contributions.readers,
            *contributions.sample_data,
            *contributions.widgets,
            *menu_items,
        )
    ]
    assert len(set(declared)) == len(declared)
    assert set(used) <= set(declared)
    # what stands in no menu is for the command palette: the actions of proofreading
    unused = {command.python_name for command in contributions.commands if command.id not in used}
    module = "napari_cad.viewer.proofreading_commands"
    assert unused == {f"{module}:{action.name}" for action in ACTIONS}


def test_widget_titles_are_the_command_titles(manifest: PluginManifest) -> None:
    titles = {command.id: command.title for command in manifest.contributions.commands}
    for widget in manifest.contributions.widgets:
        assert widget.display_name == titles[widget.command]


def test_menus_are_open_to_plugins(manifest: PluginManifest) -> None:
    assert all(is_menu_contributable(menu) for menu in manifest.contributions.menus)


def test_reader_leaves_common_images_to_napari(manifest: PluginManifest) -> None:
    # two plugins for one extension make napari ask which one, at every file that anyone opens
    patterns = {p for reader in manifest.contributions.readers for p in reader.filename_patterns}
    assert not patterns & {"*", "*.*", "*.tif", "*.tiff", "*.png", "*.jpg", "*.npy", "*.csv"}
    assert {"*.h5", "*.zarr", "*.mrc"} <= patterns
    assert any(reader.accepts_directories for reader in manifest.contributions.readers)


@pytest.mark.parametrize("kind", ["missing", "empty folder", "folder of text"])
def test_reader_declines_what_is_not_ours(kind: str, tmp_path: Path) -> None:
    from napari_cad.viewer.reader import get_reader

    path = tmp_path / "thing"
    if kind != "missing":
        path.mkdir()
    if kind == "folder of text":
        (path / "notes.txt").write_text("no sections here")
    assert get_reader(str(path)) is None


def test_plugin_opens_without_torch() -> None:
    # napari's process never computes: a job's child process imports what it needs
    modules = sorted({name.partition(":")[0] for name in commands().values()})
    code = f"import sys, {', '.join(modules)}\nprint(*{{'torch', 'waterz'}} & set(sys.modules))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == []


@pytest.mark.parametrize("page", ["README.md", "docs/README.md"])
def test_the_pages_name_all_widgets_in_the_order_of_work(
    manifest: PluginManifest, page: str
) -> None:
    text = (MANIFEST.parents[2] / page).read_text(encoding="utf-8")
    text = text[text.index("| widget |") :]
    places = [text.find(widget.display_name) for widget in manifest.contributions.widgets]
    assert -1 not in places
    assert places == sorted(places)


def test_links_between_pages_lead_somewhere() -> None:
    root = MANIFEST.parents[2]
    for page in (root / "README.md", *(root / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_widgets_stand_in_the_layers_menus(manifest: PluginManifest) -> None:
    placed = {item.command for items in manifest.contributions.menus.values() for item in items}
    assert {widget.command for widget in manifest.contributions.widgets} <= placed


def test_commands_say_what_they_do(manifest: PluginManifest) -> None:
    titles = [command.title for command in manifest.contributions.commands]
    assert len(set(titles)) == len(titles)
    assert all(title[0].isupper() or title[0].isdigit() for title in titles)


def test_the_cheat_sheet_lists_every_action_with_its_key() -> None:
    page = (MANIFEST.parents[2] / "docs" / "proofread.md").read_text(encoding="utf-8")

    for action in ACTIONS:
        key = action.key.replace("Control", "Ctrl")
        assert f"| {key} | {action.title} | {action.help} |" in page
