"""Ways of running the student, each in a process of its own, that take turns on one pair.

How torch gets its memory is set once per process, and libraries bring thread pools of their own: so
every way is a child that makes one pair whenever it reads a line. Used by `bench_stages.py`; run
with a name and a size it is such a child.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import bench_inference
from _race import OURS, Way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def ways(size: int) -> list[Way]:
    """From two uint8 sections to stored affinities."""
    return [
        Way("napari-cad", OURS, lambda: _child("ours", size)),
        Way("plain torch, eager", "torch", lambda: _child("plain", size)),
        Way("ONNX Runtime", "onnxruntime", lambda: _child("onnxruntime", size)),
        Way("OpenVINO", "openvino", lambda: _child("openvino", size)),
    ]


def _child(name: str, size: int) -> Callable[[], None]:
    command = [sys.executable, __file__, name, str(size)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin
    assert child.stdout

    def make_a_pair() -> None:
        child.stdin.write("next\n")
        child.stdin.flush()
        if child.stdout.readline() != "done\n":
            raise RuntimeError(f"{name} has ended: {child.wait()}")

    return make_a_pair


def _exported(folder: Path, size: int) -> Path:
    """Write network and affinities as ONNX; batch norms are folded on the way."""
    import torch

    from napari_cad.core.affinity import pair_affinities
    from napari_cad.core.network import StudentNetwork

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = StudentNetwork()

        def forward(self, pair: torch.Tensor) -> torch.Tensor:
            return pair_affinities(*self.network(pair))

    warnings.filterwarnings("ignore")  # the newer way to export needs one more package
    torch.manual_seed(0)
    path = folder / "student.onnx"
    pair = torch.zeros(1, 2, size, size)
    torch.onnx.export(Whole().eval(), (pair,), str(path), input_names=["pair"], dynamo=False)
    return path


def _levels(real: np.ndarray) -> np.ndarray:
    return np.minimum(np.floor(real * 256), 255).astype(np.uint8)


def onnxruntime(size: int) -> Iterator[np.ndarray]:
    """Give the affinities of one pair, again and again."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        session = ort.InferenceSession(
            str(_exported(Path(folder), size)), options, providers=["CPUExecutionProvider"]
        )
    stack = bench_inference.sections(size)
    while True:
        pair = stack[None, :2].astype(np.float32) / 255
        yield _levels(session.run(None, {"pair": pair})[0][0])


def openvino(size: int) -> Iterator[np.ndarray]:
    """Give the affinities of one pair, again and again."""
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        core = ov.Core()
        hint = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(str(_exported(Path(folder), size)), "CPU", hint)
    stack = bench_inference.sections(size)
    while True:
        pair = stack[None, :2].astype(np.float32) / 255
        yield _levels(compiled(pair)[0][0])


def main() -> None:
    """Serve one way until there are no more lines."""
    name, size = sys.argv[1], int(sys.argv[2])
    work = {
        "ours": bench_inference.ours,
        "plain": bench_inference.plain,
        "onnxruntime": onnxruntime,
        "openvino": openvino,
    }[name](size)
    expected = None
    # libraries talk: the answers have a channel of their own
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for _ in sys.stdin:
        made = next(work)
        if expected is None:
            expected = int(made.astype(np.int64).sum())
            print(f"{name}: sum of all levels {expected}", file=sys.stderr)
        answers.write("done\n")
        answers.flush()


if __name__ == "__main__":
    main()
