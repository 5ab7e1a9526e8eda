from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch

from napari_cad import cli
from napari_cad.api import segment
from napari_cad.core.checkpoint import save_checkpoint
from napari_cad.core.checkpoint_metadata import CheckpointMetadata
from napari_cad.core.config import InferenceConfig
from napari_cad.core.network import StudentNetwork
from napari_cad.core.readers import open_volume
from napari_cad.core.segmentation_job import SegmentationOptions
from napari_cad.core.store import SegmentationStore
from napari_cad.core.synthetic import synthetic_em


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A stack, its truth and a checkpoint of random weights."""
    folder = tmp_path_factory.mktemp("cli")
    sample = synthetic_em((3, 64, 80), seed=1)
    tifffile.imwrite(folder / "stack.tif", sample.raw, photometric="minisblack")
    tifffile.imwrite(folder / "truth.tif", sample.labels, photometric="minisblack")
    torch.manual_seed(0)
    metadata = CheckpointMetadata(
        name="tiny", width=2, embedding_dim=3, training_data="none", licence="none"
    )
    save_checkpoint(folder / "tiny.safetensors", StudentNetwork(2, 3).eval(), metadata)
    return folder


def call(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["napari-cad", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    output = capsys.readouterr()
    return int(ended.value.code or 0), output.out, output.err


@pytest.fixture
def napari_cad(monkeypatch, capsys):
    return lambda *arguments: call(monkeypatch, capsys, *arguments)


@pytest.fixture(scope="module")
def run(files):
    """A finished run of sections 1:3, cropped."""
    from napari_cad.core.segmentation_job import segmentation_job

    volume = open_volume(files / "stack.tif", voxel_size=(30, 6, 6)).crop((1, 3), None, (8, 72))
    path = files / "run.zarr"
    list(segmentation_job(volume, str(files / "tiny.safetensors"), path))
    return path


def test_segment_writes_a_store_and_says_where(napari_cad, files, tmp_path):
    code, out, _ = napari_cad(
        "segment", files / "stack.tif", "-c", files / "tiny.safetensors", "-o",
        tmp_path / "run.zarr", "--voxel-size", "30,6,6", "--sections", "1:", "--crop", "0:32,:48",
        "--threshold", "0.3", "--device", "cpu",
    )  # fmt: skip
    assert code == 0
    assert "segments of" in out
    store = SegmentationStore.open(tmp_path / "run.zarr")
    assert store.shape == (2, 32, 48)
    assert store.threshold == 0.3
    assert store.voxel_size == (30, 6, 6)
    assert store.origin == (30, 0, 0)


def test_segment_for_machines(napari_cad, files, tmp_path):
    code, out, _ = napari_cad(
        "segment", files / "stack.tif", "-c", files / "tiny.safetensors", "-o",
        tmp_path / "run.zarr", "--json", "--limits", "10,250", "--invert",
    )  # fmt: skip
    assert code == 0
    events = [json.loads(line) for line in out.splitlines()]
    assert events[-1]["event"] == "Finished"
    intensity = SegmentationStore.open(tmp_path / "run.zarr").config.intensity
    assert (intensity.low, intensity.high, intensity.invert) == (10, 250, True)


def test_inverting_16_bit_data_keeps_its_percentiles(napari_cad, tmp_path, files):
    """Over the whole range of the type, 12-bit data would be black."""
    volume = np.random.default_rng(0).integers(0, 4000, (2, 32, 32), np.uint16)
    np.save(tmp_path / "wide.npy", volume)
    found = []
    for name, options in (("a.zarr", []), ("b.zarr", ["--invert"])):
        code, _, err = napari_cad(
            "segment", tmp_path / "wide.npy", "-c", files / "tiny.safetensors", "-o",
            tmp_path / name, "--device", "cpu", "--workers", "0", "--json", *options,
        )  # fmt: skip
        assert code == 0, err
        found.append(SegmentationStore.open(tmp_path / name).config.intensity)
    assert found[0].high < 4000
    assert found[1] == replace(found[0], invert=True)


@pytest.mark.parametrize("command", ["segment", "fit"])
def test_limits_and_another_way_to_find_them_are_refused(napari_cad, files, command):
    code, _, err = napari_cad(
        command, files / "stack.tif", "--intensity", "percentiles", "--limits", "0,65535"
    )
    assert code == 2
    assert "--intensity percentiles" in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("n_events", "options", "words"),
    [
        (1, [], "the same command goes on"),
        (1, ["--overwrite"], "the same command without --overwrite"),
        # the old store may still be there: going on without the option would go on with that
        (0, ["--overwrite"], "It had not begun; what there is at"),
    ],
)
def test_what_is_advised_after_ctrl_c_keeps_the_work(
    napari_cad, files, tmp_path, monkeypatch, n_events, options, words
):
    def interrupted(events, **_):
        for _ in range(n_events):
            next(events)
        raise KeyboardInterrupt

    monkeypatch.setattr("napari_cad.cli._progress.follow", interrupted)
    store = tmp_path / "run.zarr"
    code, _, err = napari_cad(
        "segment", files / "stack.tif", "-c", files / "tiny.safetensors", "-o", store, *options
    )
    assert code == 130
    assert words in err


def test_a_volume_of_one_fragment(files, tmp_path):
    """It has no edge, so there is nothing to agglomerate."""
    store = segment(
        np.zeros((1, 7, 5), np.uint8), tmp_path / "run.zarr", files / "tiny.safetensors",
        options=SegmentationOptions(inference=InferenceConfig(device="cpu"), workers=0),
    )  # fmt: skip
    assert len(store.region_graph()) == 0
    np.testing.assert_array_equal(store.lut(), np.arange(store.n_fragments + 1))


def test_a_second_call_has_nothing_left_to_do(napari_cad, files, run):
    code, out, _ = napari_cad(
        "segment", files / "stack.tif", "-c", files / "tiny.safetensors", "-o", run,
        "--voxel-size", "30,6,6", "--sections", "1:3", "--crop", ":,8:72", "--json",
    )  # fmt: skip
    assert code == 0
    done = [json.loads(line) for line in out.splitlines() if '"SectionDone"' in line]
    assert [event["stage"] for event in done] == ["agglomeration"]


def test_a_quick_look(napari_cad, files, tmp_path, monkeypatch):
    """It has a store of its own, which says what it is; truth of either resolution will do."""
    monkeypatch.chdir(tmp_path)
    segment = ["segment", files / "stack.tif", "-c", files / "tiny.safetensors", "--device", "cpu"]
    segment += ["--voxel-size", "30,6,6", "--crop", "2:33,:", "--sections", "1:"]
    code, out, err = napari_cad(*segment, "--quick")
    assert code == 0, err
    store = SegmentationStore.open(tmp_path / "stack-tiny-bin2.zarr")
    assert "stack-tiny-bin2.zarr" in out
    assert store.shape == (2, 16, 40)  # of 31 rows
    assert store.voxel_size == (30, 12, 12)
    assert store.origin == (30, 15, 3)
    assert store.settings["signature"]["volume"]["bin"] == 2
    code, out, _ = napari_cad("info", store.path, "--json")
    assert json.loads(out)["bin"] == 2
    # a run at full resolution does not go on there
    code, _, err = napari_cad(*segment, "-o", store.path)
    assert code == 1
    assert "volume.bin: the store has 2, this run None" in err
    code, _, err = napari_cad(*segment, "--quick", "--bin", "3")
    assert code == 2

    labels = np.stack([store.lut()[store.read_fragments(z)] for z in range(2)])
    labels = labels.repeat(2, 1).repeat(2, 2)[:, :31]
    truth = tifffile.imread(files / "truth.tif")[1:3, 2:33]
    tifffile.imwrite(tmp_path / "labels.tif", labels, photometric="minisblack")
    tifffile.imwrite(tmp_path / "crop.tif", truth, photometric="minisblack")
    tifffile.imwrite(tmp_path / "coarse.tif", truth[:, ::2, ::2], photometric="minisblack")
    _, out, _ = napari_cad("evaluate", tmp_path / "labels.tif", tmp_path / "crop.tif", "--json")
    expected = json.loads(out)["voi"]
    for name in (files / "truth.tif", tmp_path / "crop.tif"):
        code, out, err = napari_cad("evaluate", store.path, name, "--json", "--errors", "3")
        assert code == 0, err
        result = json.loads(out)
        assert result["voi"] == pytest.approx(expected)
        assert result["n_voxels"] == (truth > 0).sum()
        assert (result["bin"], result["compared_at_resolution_of"]) == (2, "truth")
    code, out, _ = napari_cad("evaluate", store.path, tmp_path / "coarse.tif", "--json")
    assert json.loads(out)["n_voxels"] == (truth[:, ::2, ::2] > 0).sum()
    assert json.loads(out)["compared_at_resolution_of"] == "run"
    code, out, _ = napari_cad("evaluate", store.path, files / "truth.tif")
    assert "brought up to the truth's resolution" in out


def test_evaluate_takes_the_truth_of_the_whole_volume(napari_cad, files, run):
    code, out, _ = napari_cad("evaluate", run, files / "truth.tif", "--json")
    assert code == 0
    whole = json.loads(out)
    assert whole["voi"] == pytest.approx(whole["voi_split"] + whole["voi_merge"])
    assert len(whole["curve"]) == 19
    store = SegmentationStore.open(run)
    labels = np.stack([store.lut()[store.read_fragments(z)] for z in range(2)])
    truth = tifffile.imread(files / "truth.tif")[1:3, :, 8:72]
    assert whole["n_voxels"] == (truth > 0).sum()
    tifffile.imwrite(files / "labels.tif", labels, photometric="minisblack")
    tifffile.imwrite(files / "truth_crop.tif", truth, photometric="minisblack")
    code, out, _ = napari_cad("evaluate", files / "labels.tif", files / "truth_crop.tif", "--json")
    assert json.loads(out)["voi"] == pytest.approx(whole["voi"])
    code, out, _ = napari_cad("evaluate", run, files / "truth.tif", "--sections", "2:3", "--json")
    assert json.loads(out)["n_voxels"] == (truth[1] > 0).sum()
    code, out, _ = napari_cad("evaluate", run, files / "truth.tif")
    assert "no test score" in out


def test_evaluate_refuses_what_does_not_belong_together(napari_cad, files, run, tmp_path):
    tifffile.imwrite(
        tmp_path / "small.tif", np.zeros((2, 5, 5), np.uint8), photometric="minisblack"
    )
    code, _, err = napari_cad("evaluate", run, tmp_path / "small.tif")
    assert code == 1
    assert err.startswith("error: ")
    assert "(2, 64, 64)" in err
    code, _, err = napari_cad("evaluate", run, files / "truth.tif", "--sections", "0:1")
    assert code == 1
    assert "none of 0:1" in err


@pytest.mark.parametrize("what", ["stack.tif", "tiny.safetensors", "run.zarr"])
def test_info(napari_cad, files, run, what):
    kinds = {"stack.tif": "volume", "tiny.safetensors": "checkpoint", "run.zarr": "store"}
    code, out, _ = napari_cad("info", files / what, "--json")
    assert code == 0
    assert json.loads(out)["kind"] == kinds[what]
    code, out, _ = napari_cad("info", files / what)
    assert code == 0
    assert kinds[what] in out


@pytest.mark.parametrize("name", ["labels.zarr", "labels.tif", "labels.h5"])
def test_export_can_be_read_again(napari_cad, run, tmp_path, name):
    code, _, _ = napari_cad("export", run, "-o", tmp_path / name)
    assert code == 0
    exported = open_volume(tmp_path / name)
    store = SegmentationStore.open(run)
    assert exported.voxel_size == pytest.approx((30, 6, 6))
    for z in range(2):
        assert np.array_equal(exported.section(z), store.lut()[store.read_fragments(z)])


def test_view_names_a_run_as_the_widgets_do(napari_cad, run, monkeypatch):
    from napari_cad.viewer.layers import run_of

    shown = []
    window = SimpleNamespace(add_plugin_dock_widget=lambda *_: None)
    viewer = SimpleNamespace(add_layer=shown.append, window=window)
    monkeypatch.setattr("napari.Viewer", lambda: viewer)
    monkeypatch.setattr("napari.run", lambda: None)
    monkeypatch.chdir(run.parent)
    assert napari_cad("view", run.name)[0] == 0
    assert str(run) in {run_of(layer) for layer in shown}


def test_an_export_does_not_replace_what_holds_the_run(napari_cad, run, tmp_path):
    labels = tmp_path / "labels.zarr"
    assert napari_cad("export", run, "-o", labels)[0] == 0
    shutil.copytree(run, labels / "run.zarr")
    code, _, err = napari_cad("export", labels / "run.zarr", "-o", labels, "--overwrite")
    assert code == 1
    assert "expected a place apart from what is exported" in err
    assert SegmentationStore.open(labels / "run.zarr").n_sections == 2


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("verify", []),
        ("export", ["-o", "labels.tif"]),
        ("measure", ["-o", "table.csv"]),
        ("meshes", ["--largest", "1", "-o", "meshes"]),
    ],
)
def test_a_run_at_a_url(napari_cad, run, tmp_path, monkeypatch, command, options):
    pytest.importorskip("upath", reason="the extra cluster is not installed")
    import fsspec

    url = f"memory://test_a_run_at_a_url/{command}.zarr"
    fsspec.filesystem("memory").put(str(run), url, recursive=True)
    monkeypatch.chdir(tmp_path)
    code, _, err = napari_cad(command, url, *options)
    assert (code, err) == (0, err)
    assert all((tmp_path / name).exists() for name in options[1::2] if name != "1")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["segment", "nothing.tif"], 1, "nothing.tif"),
        (["segment", "{files}/stack.tif", "-c", "nothing.ckpt"], 1, "nothing.ckpt"),
        (["segment", "{files}/stack.tif", "--sections", "a"], 2, "START:STOP"),
        (["segment", "{files}/stack.tif", "--crop", "1:2"], 2, "Y0:Y1,X0:X1"),
        (["segment", "{files}/stack.tif", "--voxel-size", "30,6"], 2, "3 numbers"),
        (["segment", "{files}/stack.tif", "--device", "tpu"], 1, "device must be one of"),
        (["export", "{files}", "-o", "out.tif"], 1, "expected a napari-cad store"),
        (
            [
                "segment",
                "{run}:fragments",
                "-o",
                "{run}",
                "--overwrite",
                "-c",
                "{files}/tiny.safetensors",
            ],
            1,
            "which is to be segmented, lies in",
        ),
        (["info", "{files}/tiny.ckpt"], 1, "tiny.ckpt"),
        (["download", "AC35"], 1, "AC34"),
    ],
)
def test_errors_are_one_line(napari_cad, files, run, arguments, code, words):
    got, _, err = napari_cad(*(argument.format(files=files, run=run) for argument in arguments))
    assert got == code
    assert words in err
    assert "Traceback" not in err


def test_help_imports_nothing_heavy():
    script = "import sys, napari_cad.cli; print([m for m in sys.modules if m in HEAVY])"
    heavy = {"torch", "napari", "skimage", "sklearn", "waterz", "zarr"}
    out = subprocess.run(
        [sys.executable, "-c", script.replace("HEAVY", repr(heavy))],
        capture_output=True,
        check=True,
        text=True,
    )
    assert out.stdout.strip() == "[]"


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT")
def test_ctrl_c_stops_cleanly_and_says_how_to_resume(files, tmp_path):
    np.save(tmp_path / "stack.npy", np.random.default_rng(0).integers(0, 256, (60, 128, 128), "u1"))
    command = [
        sys.executable, "-m", "napari_cad", "segment", str(tmp_path / "stack.npy"), "-c",
        str(files / "tiny.safetensors"), "-o", str(tmp_path / "run.zarr"), "--json",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "SectionDone" in line:
            process.send_signal(signal.SIGINT)
            break
    _, err = process.communicate()
    assert process.returncode == 130
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert SegmentationStore.open(tmp_path / "run.zarr").sections_done("affinities").any()
