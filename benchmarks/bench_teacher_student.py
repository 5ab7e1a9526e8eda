"""The 3D teacher in sliding windows against the 2D student on the same stack, in one run.

    python benchmarks/bench_teacher_student.py [--side 240] [--repeats 3] [--device cpu]

The teacher has the published widths, windows of 18 × 160 × 160, strides of 10 × 80 × 80 and
blending, and random weights, which cost the same as trained ones. The stack is chosen so that its
windows hold 7.2 times its voxels, as a large volume's do: 10 sections, and a side that is a
multiple of 80, with a reflected margin. Both make the affinities of the nearest neighbours, and
take turns; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from napari_cad.core.torch_memory import use_huge_pages

use_huge_pages()

import torch  # noqa: E402

from napari_cad.core.config import InferenceConfig  # noqa: E402
from napari_cad.core.device import pick_device  # noqa: E402
from napari_cad.core.inference import AffinityPredictor  # noqa: E402
from napari_cad.core.intensity import IntensityMapping  # noqa: E402
from napari_cad.core.network import StudentNetwork  # noqa: E402
from napari_cad.core.sliding_window import (  # noqa: E402
    PUBLISHED_STRIDE,
    PUBLISHED_WINDOW,
    iter_section_embeddings,
)
from napari_cad.core.synthetic import synthetic_em  # noqa: E402
from napari_cad.core.teacher import TeacherNetwork, teacher_affinities  # noqa: E402
from napari_cad.core.volume import EMVolume  # noqa: E402

#: Sections; with a margin of 4 one layer of windows covers them: 18 / 10 windows per voxel.
SECTIONS, MARGIN = 10, (4, 40, 40)


def teacher_seconds(raw, network: TeacherNetwork, autocast) -> tuple[float, int]:
    """Time all windows, their blend and the affinities; also gives the number of windows."""
    windows, previous = 0, None

    def count(done: int, total: int) -> None:
        nonlocal windows
        windows = total

    begun = time.perf_counter()
    for _, embedding in iter_section_embeddings(
        raw, network, margin=MARGIN, autocast=autocast, progress=count
    ):
        now = torch.from_numpy(embedding)
        # two sections are enough for the affinities of the later one
        pair = torch.stack([now if previous is None else previous, now], dim=1)
        teacher_affinities(pair[None])
        previous = now
    return time.perf_counter() - begun, windows


def student_seconds(volume: EMVolume, network: StudentNetwork, device: str) -> float:
    """Time all pairs and their affinities."""
    predictor = AffinityPredictor(network, InferenceConfig(device=device))
    mapping = IntensityMapping().resolve(volume)
    begun = time.perf_counter()
    for _ in predictor.predict(volume, mapping):
        pass
    return time.perf_counter() - begun


def main() -> None:
    """Time both and write the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=240, help="a multiple of 80")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = pick_device(options.device, "auto")
    autocast = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(device.precision)
    raw = synthetic_em((SECTIONS, options.side, options.side), seed=0).raw
    volume = EMVolume(raw, (30, 6, 6))
    torch.manual_seed(0)
    teacher, student = TeacherNetwork().eval().to(device.name), StudentNetwork().eval()
    student_seconds(volume.crop((0, 2)), student, device.name)  # warm up
    times: dict[str, list[float]] = {"teacher": [], "student": []}
    windows = 0
    for _ in range(options.repeats):
        times["student"].append(student_seconds(volume, student, device.name))
        seconds, windows = teacher_seconds(raw, teacher, autocast)
        times["teacher"].append(seconds)
    median = {name: statistics.median(values) for name, values in times.items()}
    overlap = windows * float(torch.tensor(PUBLISHED_WINDOW).prod()) / raw.size
    print(
        json.dumps(
            {
                "device": device.name, "threads": torch.get_num_threads(),
                "stack": list(raw.shape), "stride": list(PUBLISHED_STRIDE), "windows": windows,
                "overlap": round(overlap, 2),
                **{f"{name}_s": [round(t, 3) for t in values] for name, values in times.items()},
                "student_times_as_fast": round(median["teacher"] / median["student"], 1),
            },
            indent=1,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
