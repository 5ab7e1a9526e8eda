"""Finding checkpoints by name, and downloading from a server on this machine."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from typing import TYPE_CHECKING

import pytest

from napari_cad.core import registry
from napari_cad.core.checkpoint import CheckpointMetadata, save_checkpoint
from napari_cad.core.errors import CheckpointError
from napari_cad.core.network import StudentNetwork
from napari_cad.core.registry import (
    DEFAULT,
    PUBLISHED,
    cached_published,
    download_published,
    find_published,
    resolve_checkpoint,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; remembers what was asked for and can break off in the middle."""

    break_off = False
    asked: list[str]

    def __init__(self, *args: object, asked: list[str], break_off: bool, **kwargs: object) -> None:
        self.asked = asked
        self.break_off = break_off
        super().__init__(*args, **kwargs)

    def log_message(self, *_args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if not self.break_off:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", "3642904")
        self.end_headers()
        self.wfile.write(bytes(5000))


class Server:
    """A web server of one folder on the loopback interface."""

    def __init__(self, folder: Path, *, break_off: bool = False) -> None:
        self.asked: list[str] = []
        handler = functools.partial(
            _Handler, directory=str(folder), asked=self.asked, break_off=break_off
        )
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[..., Server]]:
    # a proxy of the surroundings must not stand between
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers: list[Server] = []

    def start(folder: Path, **options: bool) -> Server:
        servers.append(Server(folder, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def files_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*")) if folder.exists() else []


# --- what is known -------------------------------------------------------------------------------


def test_the_five_published_checkpoints(shared_dir):
    assert list(PUBLISHED) == ["AC34", "CremiA", "CremiB", "CremiC", "wafer4"]
    for name, published in PUBLISHED.items():
        data = (shared_dir / "checkpoints" / published.file_name).read_bytes()
        assert published.sha256 == hashlib.sha256(data).hexdigest()
        assert find_published(published.sha256.upper()) is published
        assert published.name == name
    assert find_published("0" * 64) is None


def test_what_is_said_of_the_published_checkpoints():
    sizes = {name: p.voxel_size for name, p in PUBLISHED.items()}
    cremi = dict.fromkeys(("CremiA", "CremiB", "CremiC"), (40, 4, 4))
    assert sizes == {"AC34": (30, 6, 6), "wafer4": (35, 8, 8)} | cremi
    for published in PUBLISHED.values():
        assert published.polarity == "dark membranes"
        assert "no licence" in published.licence
        assert published.url.startswith("https://raw.githubusercontent.com/liuxy1103/CAD/")
        assert published.url.endswith(f"/ckpt/{published.name}.ckpt")
    assert "bright" in PUBLISHED["wafer4"].notes


# --- downloads -----------------------------------------------------------------------------------


def test_download_once_then_resolve(shared_dir, serve, cache):
    server = serve(shared_dir / "checkpoints")
    assert cached_published("CremiB", cache=cache) is None
    path = download_published("CremiB", base_url=server.url, cache=cache)
    assert path == cache / "CremiB.ckpt" == cached_published("CremiB", cache=cache)
    assert path.read_bytes() == (shared_dir / "checkpoints" / "CremiB.ckpt").read_bytes()
    assert files_in(cache) == ["CremiB.ckpt"]
    # again, without a slash at the end: nothing is asked for
    download_published("CremiB", base_url=server.url.rstrip("/"), cache=cache)
    assert server.asked == ["/CremiB.ckpt"]
    checkpoint = resolve_checkpoint("CremiB", cache=cache)
    assert checkpoint.metadata.name == "CremiB"
    assert checkpoint.path == path


def test_another_file_is_refused_and_not_kept(tmp_path, serve, cache):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "AC34.ckpt").write_bytes(b"not what was published")
    server = serve(folder)
    with pytest.raises(CheckpointError, match=r"not the published file .*sha256 b3ffbbcf"):
        download_published("AC34", base_url=server.url, cache=cache)
    assert files_in(cache) == []


def test_a_file_that_the_server_does_not_have(tmp_path, serve, cache):
    server = serve(tmp_path)
    with pytest.raises(CheckpointError, match="answered 404"):
        download_published("AC34", base_url=server.url, cache=cache)
    assert files_in(cache) == []


def test_a_server_that_is_down(tmp_path, serve, cache):
    server = serve(tmp_path)
    server.stop()
    with pytest.raises(CheckpointError, match="could not be reached"):
        download_published("AC34", base_url=server.url, cache=cache)
    assert files_in(cache) == []


def test_a_server_that_breaks_off(tmp_path, serve, cache):
    server = serve(tmp_path, break_off=True)
    with pytest.raises(CheckpointError, match=r"broke off|not the published file"):
        download_published("AC34", base_url=server.url, cache=cache)
    assert files_in(cache) == []


def test_a_failed_download_leaves_what_was_there(tmp_path, serve, cache):
    cache.mkdir()
    (cache / "AC34.ckpt").write_bytes(b"an earlier file")
    with pytest.raises(CheckpointError, match="answered 404"):
        download_published("AC34", base_url=serve(tmp_path).url, cache=cache)
    assert files_in(cache) == ["AC34.ckpt"]
    assert (cache / "AC34.ckpt").read_bytes() == b"an earlier file"


def test_a_damaged_copy_is_told_and_replaced(shared_dir, serve, cache):
    cache.mkdir()
    (cache / "AC34.ckpt").write_bytes((shared_dir / "checkpoints" / "CremiA.ckpt").read_bytes())
    with pytest.raises(CheckpointError, match="download it again"):
        resolve_checkpoint("AC34", cache=cache)
    download_published("AC34", base_url=serve(shared_dir / "checkpoints").url, cache=cache)
    assert resolve_checkpoint("AC34", cache=cache).metadata.name == "AC34"


@pytest.mark.parametrize("base_url", ["ftp.example", "file:///nowhere/", "http://"])
def test_addresses_that_are_none(cache, base_url):
    with pytest.raises(CheckpointError, match="could not be"):
        download_published("AC34", base_url=base_url, cache=cache)
    assert files_in(cache) == []


def test_a_cache_that_cannot_be_written(shared_dir, tmp_path, serve):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot be stored"):
        download_published("AC34", base_url=serve(shared_dir / "checkpoints").url, cache=blocked)


def test_unknown_names(cache):
    for call in (download_published, cached_published):
        with pytest.raises(CheckpointError, match=r"'AC3'.*AC34, CremiA"):
            call("AC3", cache=cache)


# --- resolving -----------------------------------------------------------------------------------


def test_a_published_checkpoint_is_never_downloaded_by_itself(cache, monkeypatch):
    monkeypatch.setattr("pooch.retrieve", lambda *a, **k: pytest.fail("a download"))
    with pytest.raises(CheckpointError, match=r"napari-cad download wafer4.*no licence"):
        resolve_checkpoint("wafer4", cache=cache)
    assert files_in(cache) == []


def test_a_path(tmp_path):
    metadata = CheckpointMetadata(
        name="mine", width=1, embedding_dim=2, training_data="nothing", licence="none"
    )
    path = tmp_path / "mine.safetensors"
    save_checkpoint(path, StudentNetwork(1, 2), metadata)
    assert resolve_checkpoint(path).metadata == metadata
    assert resolve_checkpoint(str(path)).metadata == metadata


def test_a_name_goes_before_a_file_and_a_path_reaches_the_file(tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    metadata = CheckpointMetadata(
        name="mine", width=1, embedding_dim=2, training_data="nothing", licence="none"
    )
    save_checkpoint("AC34", StudentNetwork(1, 2), metadata)
    with pytest.raises(CheckpointError, match="not on this computer"):
        resolve_checkpoint("AC34", cache=cache)
    assert resolve_checkpoint("./AC34", cache=cache).metadata.name == "mine"


def test_names_and_paths_of_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="expected 'default', one of AC34, CremiA"):
        resolve_checkpoint("cremia")
    with pytest.raises(CheckpointError, match="does not exist"):
        resolve_checkpoint("cremia.ckpt")


def test_the_default_checkpoint(monkeypatch, tmp_path):
    package = tmp_path / "package"
    (package / "data").mkdir(parents=True)
    monkeypatch.setattr(registry.importlib.resources, "files", lambda _name: package)
    with pytest.raises(CheckpointError, match="no embedded default checkpoint"):
        resolve_checkpoint(DEFAULT)
    metadata = CheckpointMetadata(
        name="default", width=1, embedding_dim=2, training_data="nothing", licence="BSD-3-Clause"
    )
    path = package / "data" / "default_student.safetensors"
    save_checkpoint(path, StudentNetwork(1, 2), metadata)
    checkpoint = resolve_checkpoint("default")
    assert checkpoint.metadata == metadata
    assert checkpoint.path == path


def test_the_embedded_checkpoint_is_small_and_says_what_it_is():
    checkpoint = resolve_checkpoint(DEFAULT)
    assert checkpoint.path is not None
    assert checkpoint.path.stat().st_size < 4_000_000
    assert checkpoint.metadata.name == "default"
    assert checkpoint.metadata.voxel_size is not None
    assert checkpoint.metadata.training_data
    assert checkpoint.metadata.licence
    # the published files must not be bundled
    assert find_published(checkpoint.sha256) is None
