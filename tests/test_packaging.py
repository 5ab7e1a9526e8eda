"""What is installed and what is published: a light import, whole wheels, nothing of one machine."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

import napari_cad

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "waterz", "skimage", "sklearn", "scipy", "napari", "qtpy", "PyQt6", "PySide6"}


def modules_after(statement: str) -> set[str]:
    """Run an import in a fresh interpreter; return the names of the loaded top-level modules."""
    code = f"import sys; {statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.check_output([sys.executable, "-c", code], text=True).split())


def tracked_files() -> list[str]:
    """Return what git tracks, or skip in a copy without a repository."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git repository here")
    return subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")[:-1]


def test_import_is_light() -> None:
    assert not modules_after("import napari_cad") & (HEAVY | {"numpy", "zarr", "typer", "rich"})


@pytest.mark.parametrize("module", ["errors", "config", "volume", "readers"])
def test_light_core_modules_import_numpy_at_most(module: str) -> None:
    loaded = modules_after(f"import napari_cad.core.{module}")
    assert not loaded & (HEAVY | {"tifffile", "h5py", "zarr", "mrcfile", "imageio"})


def test_entry_points() -> None:
    (manifest,) = entry_points(group="napari.manifest", name="napari-cad")
    assert manifest.value == "napari_cad:napari.yaml"
    (script,) = entry_points(group="console_scripts", name="napari-cad")
    assert script.value == "napari_cad.cli:main"
    assert callable(script.load())


def test_version_is_the_installed_one() -> None:
    assert version("napari-cad") == napari_cad.__version__


def test_module_is_the_command() -> None:
    answers = [
        subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
        for command in ([sys.executable, "-m", "napari_cad"], [str(script_path())])
    ]
    assert [answer.returncode for answer in answers] == [0, 0], answers
    texts = [
        [line for line in answer.stdout.splitlines() if "Usage:" not in line] for answer in answers
    ]
    assert texts[0] == texts[1]
    assert any("segment" in line for line in texts[0])


def script_path() -> Path:
    """Return the installed command `napari-cad`."""
    path = shutil.which("napari-cad", path=str(Path(sys.executable).parent))
    if path is None:
        pytest.fail("the command napari-cad is not installed beside this Python")
    return Path(path)


def test_metadata_is_in_setup_cfg_alone() -> None:
    # a [project] table would make setuptools drop what setup.cfg says
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert "project" not in tomllib.load(file)


def test_no_qt_binding_is_required() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    required = setup["options"]["install_requires"].lower()
    assert not any(name in required for name in ("pyqt", "pyside", "napari["))


def test_root_manifest_is_a_link_to_the_packaged_one() -> None:
    tracked_files()  # a checkout without symbolic links still has the link in git
    entry = subprocess.check_output(["git", "ls-files", "-s", "napari.yaml"], cwd=ROOT, text=True)
    mode, blob, *_ = entry.split()
    target = subprocess.check_output(["git", "cat-file", "blob", blob], cwd=ROOT, text=True)
    assert mode == "120000"
    assert (ROOT / target).samefile(ROOT / "src" / "napari_cad" / "napari.yaml")


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        # put together here, so that this file does not match itself
        ("a package index", r"(pypi|pythonhosted|anaconda|conda-forge|npmjs)[.](org|com)"),
        ("a package index", r"download[.]pytorch"),
        ("a package mirror", r"(deb|security|archive)[.](debian|ubuntu)[.]"),
        ("a folder of one machine", r"(^|[^A-Za-z0-9_.])/(" + "work|root|home|Users|opt" + r")/"),
        ("a folder of one machine", r"[A-Za-z]:\\Users\\"),
    ],
)
def test_nothing_names_one_machine_or_index(what: str, pattern: str) -> None:
    tracked_files()
    command = ["git", "grep", "-nIE", "-e", pattern, "--", ".", ":!*.svg"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 1, f"{what} is named in:\n{found.stdout}{found.stderr}"


def test_no_large_file_is_tracked() -> None:
    large = [name for name in tracked_files() if (ROOT / name).stat().st_size > 6 * 2**20]
    assert large == []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of the working tree and the wheel made from it, built offline."""
    pytest.importorskip("build", reason="the extra dev is not installed")
    pytest.importorskip("setuptools", minversion="77.0.3", reason="no setuptools to build with")
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    for name in tracked_files():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "-o", str(folder)]
    answer = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return folder


def test_wheel_is_whole(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
        entries = next(name for name in packed if name.endswith("/entry_points.txt"))
        assert "napari-cad = napari_cad:napari.yaml" in archive.read(entries).decode()
    source = {name.removeprefix("src/") for name in tracked_files() if name.startswith("src/")}
    assert {"napari_cad/napari.yaml", "napari_cad/py.typed"} <= source
    assert source - packed == set()
    assert any(name.endswith("licenses/LICENSE") for name in packed)
    assert {name.split("/")[0].partition("-")[0] for name in packed} == {"napari_cad"}
    assert wheel.stat().st_size < 6 * 2**20


def test_sdist_is_the_project(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    of_git = (".github/", ".gitignore")
    assert {name for name in tracked_files() if not name.startswith(of_git)} - packed == set()
