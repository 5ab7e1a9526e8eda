#!/usr/bin/env python3
"""Set up, demonstrate, check and test napari-cad, each with one command.

    python3 dev.py demo  [ARGS]    set up, then run `napari-cad demo ARGS` on the embedded sample
    python3 dev.py test  [ARGS]    set up, then run every check and `pytest ARGS`
    python3 dev.py lint            set up, then run the checks alone: style, types, layers, manifest
    python3 dev.py setup           make or bring up to date the environment in .venv
    python3 dev.py run CMD [ARGS]  run a command of the environment, e.g. `run pytest tests/core`
    python3 dev.py system          install or name the missing system libraries, nothing else

Set-up needs Python 3.11 or later and a package index for pip. It makes .venv, installs the package
into it with the versions of constraints.txt and, as root on Debian and its relatives, installs the
system libraries that Qt and OpenGL need. It does nothing when nothing has changed since last time.

    --cuda                    let pip install PyTorch's CUDA build (several GB); a download of that
                              size is otherwise refused on a machine without an NVIDIA GPU
    NAPARI_CAD_TORCH_INDEX    (environment variable) the package index that torch comes from

This file uses the standard library only.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
STAMP = VENV / "napari-cad-setup.json"
CONSTRAINTS = ROOT / "constraints.txt"
INSTALL = ("install", "-c", str(CONSTRAINTS))
EXTRAS = "all,dev"
OLDEST_PYTHON = (3, 11)
OLDEST_PIP = (24, 1)  # earlier ones download every wheel to answer a dry run
ME = ("python" if os.name == "nt" else "python3") + " dev.py"

# What Qt's wheels and the tests take from the system: Debian's package and what it must provide, a
# library that the loader finds or a program. What these packages depend on themselves is not listed
# (libgl1 brings Mesa's software driver, libfontconfig1 a font).
SYSTEM_PACKAGES = {
    "libgl1": "libGL.so.1",
    "libegl1": "libEGL.so.1",
    "libglib2.0-0": "libglib-2.0.so.0",
    "libfontconfig1": "libfontconfig.so.1",
    "libdbus-1-3": "libdbus-1.so.3",
    "libxkbcommon-x11-0": "libxkbcommon-x11.so.0",
    "libxcb-cursor0": "libxcb-cursor.so.0",
    "libxcb-icccm4": "libxcb-icccm.so.4",
    "libxcb-keysyms1": "libxcb-keysyms.so.1",
    "libxcb-shape0": "libxcb-shape.so.0",
    "libx11-xcb1": "libX11-xcb.so.1",
    "xvfb": "Xvfb",
}

CHECKS = (
    ("ruff check", ("ruff", "check", ".")),
    ("ruff format", ("ruff", "format", "--check", ".")),
    ("mypy", ("mypy",)),
    ("lint-imports", ("lint-imports",)),
    ("npe2 validate", ("npe2", "validate", "napari_cad", "--imports")),
)


class Stop(Exception):
    """Ends the run with a message for the person at the keyboard."""


def say(text: str) -> None:
    """Print at once, so that the lines stand in order with those of the commands."""
    print(text, flush=True)


def environment() -> dict[str, str]:
    """Return the environment variables of an activated .venv."""
    env = dict(os.environ, VIRTUAL_ENV=str(VENV))
    env["PATH"] = str(BIN) + os.pathsep + env.get("PATH", os.defpath)
    env.pop("PYTHONHOME", None)
    return env


def call(command: list[str], **kwargs: object) -> int:
    """Run a command inside the environment and return its exit status."""
    return subprocess.run(command, cwd=ROOT, env=environment(), check=False, **kwargs).returncode


def tool(name: str) -> str:
    """Return the path of a program of the environment."""
    path = shutil.which(name, path=str(BIN))
    if path is None:
        raise Stop(
            f"{name} is not in .venv. Run `{ME} setup`; if it stays away, remove .venv first."
        )
    return path


# ---- system libraries ----------------------------------------------------------------------------


def provided(what: str) -> bool:
    """Tell whether the loader finds a library, or the shell a program."""
    if ".so" not in what:
        return shutil.which(what) is not None
    try:
        ctypes.CDLL(what)
    except OSError:
        return False
    return True


def apt_install(packages: list[str]) -> bool:
    """Install Debian packages as root; False if that did not work."""
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    install = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    return all(
        subprocess.run(command, env=env, stdin=subprocess.DEVNULL, check=False).returncode == 0
        for command in (["apt-get", "update"], install)
    )


def system_packages() -> None:
    """Install the system libraries that are missing, or name them and how to get them."""
    if not sys.platform.startswith("linux"):
        return
    missing = [package for package, what in SYSTEM_PACKAGES.items() if not provided(what)]
    if sys.prefix == "/usr" and not has_ensurepip():  # Debian keeps it in a package of its own
        missing.append(f"python3.{sys.version_info[1]}-venv")
    if not missing:
        return
    is_debian = shutil.which("apt-get") is not None
    if is_debian and os.geteuid() == 0:
        say(f"-- installing system packages: {' '.join(missing)}")
        if apt_install(missing):
            return
    say("")
    if is_debian:
        say("These system packages are missing. Install them with:")
        say(f"    sudo apt-get update && sudo apt-get install {' '.join(missing)}")
    else:
        say("Your distribution's packages hold these missing libraries and programs:")
        say("    " + " ".join(SYSTEM_PACKAGES.get(package, package) for package in missing))
    say("Going on without them: the command line works, the viewer may not.\n")


# ---- the environment -----------------------------------------------------------------------------


def check_python() -> None:
    """Stop with a clear message under a Python that is too old."""
    if sys.version_info >= OLDEST_PYTHON:
        return
    found = ".".join(map(str, sys.version_info[:3]))
    newer = [name for name in ("python3.13", "python3.12", "python3.11") if shutil.which(name)]
    hint = f"This machine has {newer[0]}: run `{newer[0]} dev.py`." if newer else "Install it."
    raise Stop(f"napari-cad needs Python 3.11 or later, and this is {found}. {hint}")


def venv_python() -> tuple[int, ...] | None:
    """Return the version of .venv's Python, or None if there is none that runs and has pip."""
    if not PYTHON.exists():
        return None
    query = [str(PYTHON), "-c", "import pip, sys; print(*sys.version_info[:3])"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return tuple(map(int, answer.stdout.split())) if answer.returncode == 0 else None


def has_ensurepip() -> bool:
    """Tell whether this Python can put pip into a virtual environment."""
    importlib.invalidate_caches()
    return importlib.util.find_spec("ensurepip") is not None


def make_venv(stamp: dict[str, str]) -> None:
    """Make .venv, or keep the one that is there if it still works."""
    version = venv_python()
    if version is not None and version < OLDEST_PYTHON:
        raise Stop("The Python in .venv is older than 3.11: remove .venv and run this again.")
    moved = stamp.get("root", str(ROOT)) != str(ROOT)  # its scripts name the old folder
    if version is not None and not moved:
        return
    if not has_ensurepip():
        raise Stop(
            "This Python cannot make a virtual environment: its module ensurepip is missing."
        )
    say("-- making .venv")
    clear = ["--clear"] if VENV.exists() else []
    if subprocess.run([sys.executable, "-m", "venv", *clear, str(VENV)], check=False).returncode:
        raise Stop("Could not make the virtual environment .venv (see above).")


def pip(*args: str) -> None:
    """Run pip inside .venv, with the person's own pip configuration."""
    if call([str(PYTHON), "-m", "pip", "--disable-pip-version-check", *args]):
        raise Stop(f"pip could not do its work (see above): pip {' '.join(args)}")


def update_pip() -> None:
    """Update a pip that is too old for what is asked of it here."""
    query = [str(PYTHON), "-c", "import pip; print(pip.__version__)"]
    answer = subprocess.run(query, capture_output=True, text=True, check=True)
    if tuple(map(int, re.findall(r"\d+", answer.stdout)[:2])) < OLDEST_PIP:
        pip("install", "--quiet", f"pip>={'.'.join(map(str, OLDEST_PIP))}")


def cuda_packages() -> list[str]:
    """Return the names of the CUDA packages that torch would bring, without downloading them."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        pip(*INSTALL, "--dry-run", "--quiet", "--report", str(report), "torch")
        items = json.loads(report.read_text(encoding="utf-8"))["install"]
    names = (item["metadata"]["name"].lower() for item in items)
    return sorted(name for name in names if name.startswith(("nvidia", "cuda")))


def has_nvidia_gpu() -> bool:
    """Ask NVIDIA's own tool, which comes with the driver."""
    query = shutil.which("nvidia-smi")
    return query is not None and call([query, "-L"], stdout=subprocess.DEVNULL) == 0


def install_torch(cuda: bool) -> None:
    """Install torch first, from its own index if one is given, and no CUDA build unasked."""
    index = os.environ.get("NAPARI_CAD_TORCH_INDEX")
    if index:
        pip(*INSTALL, "--index-url", index, "torch")
        return
    if cuda or not sys.platform.startswith("linux"):
        return  # the package itself asks for torch; the common index has CUDA builds for Linux only
    brought = cuda_packages()
    if brought and not has_nvidia_gpu():
        raise Stop(
            "Stopped before a download of several GB: the torch that pip finds here is a CUDA\n"
            f"build ({len(brought)} more packages, {brought[0]} first), and there is no GPU.\n\n"
            "For the small CPU build: PyTorch's start page (Linux, Pip, CPU) shows the address of\n"
            "its index. Give it to this command, once:\n"
            f"    NAPARI_CAD_TORCH_INDEX=ADDRESS {ME} {sys.argv[1]}\n"
            "Or take the CUDA build all the same:\n"
            f"    {ME} {sys.argv[1]} --cuda"
        )


def fingerprint() -> str:
    """Return a hash of everything that decides what is installed."""
    digest = hashlib.sha256()
    for path in (ROOT / "setup.cfg", CONSTRAINTS, ROOT / "src" / "napari_cad" / "__init__.py"):
        digest.update(path.read_bytes())
    digest.update(EXTRAS.encode())
    return digest.hexdigest()


def setup(cuda: bool) -> None:
    """Bring the environment up to date."""
    system_packages()
    stamp = {}
    if STAMP.is_file():
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    wanted = {"root": str(ROOT), "fingerprint": fingerprint()}
    if stamp == wanted and venv_python() is not None:
        return
    start = time.perf_counter()
    make_venv(stamp)
    update_pip()
    say("-- installing napari-cad and what it needs into .venv (a few minutes the first time)")
    install_torch(cuda)
    pip(*INSTALL, "-e", f".[{EXTRAS}]")
    STAMP.write_text(json.dumps(wanted), encoding="utf-8")
    say(f"-- .venv is ready ({time.perf_counter() - start:.0f} s)")


# ---- what it is for ------------------------------------------------------------------------------


def run_all(steps: list[tuple[str, list[str]]]) -> int:
    """Run every step, whatever the others did; print a summary and return the exit status."""
    lines, failed = [], False
    for name, command in steps:
        say(f"\n-- {name}")
        start = time.perf_counter()
        status = call(command)
        seconds = time.perf_counter() - start
        failed |= status != 0
        lines.append(f"{'ok' if status == 0 else 'FAILED':8}{name:16}{seconds:7.1f} s")
    say("\n" + "\n".join(lines))
    return int(failed)


def checks() -> list[tuple[str, list[str]]]:
    """Return the checks that need no test run."""
    return [(name, [tool(command[0]), *command[1:]]) for name, command in CHECKS]


def test(args: list[str]) -> int:
    """Run the checks and the tests; pytest-xvfb gives the tests a virtual screen on Linux."""
    has_screen = {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ) or shutil.which("Xvfb")
    if sys.platform.startswith("linux") and not has_screen:
        raise Stop("Tests that open a viewer need a screen: install Xvfb, the virtual one.")
    # A test file at a time to each process: what its tests share is made once. More processes than
    # this would have more windows and jobs open than small machines have memory for; `-n 0` in the
    # arguments runs all in one.
    several = ("-n", str(min(os.cpu_count() or 1, 4)), "--dist", "loadfile")
    return run_all([*checks(), ("pytest", [tool("pytest"), *several, *args])])


def main(argv: list[str]) -> int:
    """Do what the command line asks and return the exit status."""
    check_python()
    verb, args = (argv[0], argv[1:]) if argv else ("", [])
    if verb == "run" and args:
        return call([tool(args[0]), *args[1:]])
    if verb == "system":
        system_packages()
        return 0
    if verb not in ("demo", "test", "lint", "setup") or {"-h", "--help"} & set(args):
        say(__doc__)
        return 0 if {"-h", "--help"} & set(argv) else 2
    setup(cuda="--cuda" in args)
    args = [arg for arg in args if arg != "--cuda"]
    if verb == "demo":
        return call([tool("napari-cad"), "demo", *args])
    if verb == "test":
        return test(args)
    if verb == "lint":
        return run_all(checks())
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Stop as stop:
        sys.exit(f"\n{stop}")
    except KeyboardInterrupt:
        sys.exit(130)
