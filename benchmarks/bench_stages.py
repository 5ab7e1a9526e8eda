"""Every stage against other ways of doing it, in one run, in turns: ratios first, then times.

    python benchmarks/bench_stages.py                           # all stages; takes some ten minutes
    python benchmarks/bench_stages.py fragments edges --rounds 5
    python benchmarks/bench_stages.py --markdown                # the tables of docs/performance.md

On the real stack with the published student AC34, where the folder `shared` (NAPARI_CAD_SHARED, or
beside the repository) has them; on a synthetic stack with the default student otherwise. The stages
after the network work on a run of it, which is made at first and kept in `--work`. Libraries that
are not installed have a row that says so: `pip install onnx onnxruntime openvino mwatershed`.

Each way is warmed up once; medians of the rounds after that. "time / ours" is the median of the
ratios round by round. One process and one thread, but for the network and the stages "after" and
"whole", which take all cores.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import _network_ways
from _race import OURS, Way, race, table
from napari_cad.core.fragments import distance_watershed
from napari_cad.core.merge_tree import MergeHistory, MergeTree
from napari_cad.core.metrics import ContingencyTable, Scores, contingency
from napari_cad.core.region_graph import RegionGraph, section_edges, section_fragment_table
from napari_cad.core.stored_affinity import dequantise

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_cad.core.store import SegmentationStore

#: Sections of the run, of those that the stages with slow ways take, and of the network's pair.
N_SECTIONS, N_FEW, SIZE = 20, 4, 1024

#: Of the recipe and of the segmentations compared.
THRESHOLD = 0.5

#: Segments that are meshed, the largest ones.
N_MESHES = 10


class Material:
    """A run of a stack, with its truth."""

    def __init__(self, work: Path, shared: Path) -> None:
        real = shared / "data" / "snemi3d_ac4"
        self.real = real.is_dir()
        self.stack = real
        self.checkpoint = str(shared / "checkpoints" / "AC34.ckpt") if self.real else "default"
        self.work = work

    @cached_property
    def volume(self) -> Any:
        """The sections of the stack."""
        from napari_cad.core.readers import open_volume
        from napari_cad.core.volume import EMVolume

        if not self.real:
            return EMVolume.from_array(self.synthetic.raw, voxel_size=self.synthetic.voxel_size)
        volume = open_volume(self.stack / "raw", voxel_size=(30, 6, 6))
        return volume.crop((0, N_SECTIONS))

    @cached_property
    def synthetic(self) -> Any:
        """A stack where there is no real one."""
        from napari_cad.core.synthetic import synthetic_em

        return synthetic_em((N_SECTIONS, SIZE, SIZE), seed=0)

    @cached_property
    def truth(self) -> np.ndarray:
        """Neurites, shape (Z, Y, X)."""
        if not self.real:
            return self.synthetic.labels
        import tifffile

        return tifffile.imread(self.stack / "labels.tif", key=range(N_SECTIONS))

    @cached_property
    def run(self) -> SegmentationStore:
        """The finished run; goes on where it was stopped."""
        import napari_cad

        path = self.work / f"{'real' if self.real else 'synthetic'}.zarr"
        print(f"the run that the stages work on: {path}", file=sys.stderr, flush=True)
        return napari_cad.segment(self.volume, path, self.checkpoint)

    @cached_property
    def student(self) -> Any:
        """The checkpoint, loaded."""
        from napari_cad.core.registry import resolve_checkpoint

        return resolve_checkpoint(self.checkpoint)

    def empty_store(self, path: Path) -> SegmentationStore:
        """Begin the same run anew, with nothing in it yet; what is at `path` goes."""
        from napari_cad.core.store import SegmentationStore

        return SegmentationStore.create(
            path,
            volume=self.volume,
            checkpoint=self.student.metadata,
            config=self.run.config,
            signature=self.run.settings["signature"],
            overwrite=True,
        )

    @cached_property
    def affinities(self) -> np.ndarray:
        """Stored affinities, shape (3, Z, Y, X), uint8."""
        return np.stack([self.run.read_affinities(z) for z in range(N_SECTIONS)], axis=1)

    @cached_property
    def fragments(self) -> np.ndarray:
        """Shape (Z, Y, X), uint32, ids of the volume."""
        labels = np.zeros(self.affinities.shape[1:], np.uint32)
        offset = 0
        for z in range(N_SECTIONS):
            labels[z] = distance_watershed(self.affinities[:, z]) + np.uint32(offset)
            offset = int(labels[z].max())
        return labels

    @cached_property
    def graph(self) -> RegionGraph:
        """Region graph of the run."""
        return RegionGraph.concatenate(
            [
                section_edges(
                    self.fragments[z],
                    self.affinities[:, z],
                    z,
                    self.fragments[z - 1] if z else None,
                )
                for z in range(N_SECTIONS)
            ],
            n_fragments=int(self.fragments.max()),
        )

    @cached_property
    def history(self) -> MergeHistory:
        """Merges by the published merge function."""
        from napari_cad.core.agglomeration import agglomerate_graph

        return agglomerate_graph(self.graph)

    @cached_property
    def tree(self) -> MergeTree:
        """The same, for any threshold."""
        return MergeTree.from_history(self.graph.n_fragments, self.history)

    @cached_property
    def table(self) -> ContingencyTable:
        """Voxels per neurite and fragment."""
        return ContingencyTable.total(
            contingency(truth=t, segmentation=f)
            for t, f in zip(self.truth, self.fragments, strict=True)
        )

    def voi(self, lut: np.ndarray) -> str:
        """Score a LUT fragment → segment."""
        return f"VOI {Scores.of(self.table.relabelled(lut)).voi:.3f}"


# ------------------------------------------------------------------------ the network


def network(material: Material) -> tuple[int, list[Way]]:
    """One pair of sections, from grey values to stored affinities."""
    del material
    return SIZE**2, _network_ways.ways(SIZE)


# ------------------------------------------------------------------------ fragments


def fragments(material: Material) -> tuple[int, list[Way]]:
    """Sections, from stored affinities to fragments."""
    sections = np.moveaxis(material.affinities[:, :N_FEW], 1, 0)
    truth = material.truth[:N_FEW]

    def describe(labels: list[np.ndarray]) -> str:
        tables = [
            contingency(truth=t, segmentation=a.astype(np.int64) + z * 2**32)
            for z, (t, a) in enumerate(zip(truth, labels, strict=True))
        ]
        mixed = Scores.of(ContingencyTable.total(tables)).voi_merge
        number = sum(len(np.unique(a)) for a in labels)
        return f"{number} fragments, H(truth \\| fragments) {mixed:.3f}"

    def way(name: str, package: str, one: Callable[[], Callable[..., np.ndarray]]) -> Way:
        def prepare() -> Callable[[], list[np.ndarray]]:
            run = one()
            return lambda: [run(section) for section in sections]

        return Way(name, package, prepare, describe)

    return truth.size, [
        way("napari-cad", OURS, lambda: distance_watershed),
        way("published recipe", "mahotas", _mahotas_recipe),
        way("the recipe in scikit-image", "scikit-image", _skimage_recipe),
        way("the recipe in scipy, watershed_ift", "scipy", _scipy_recipe),
        way("the recipe in bioimage-cpp", "bioimage-cpp", _bioimage_recipe),
        way("waterz's own watershed, and its region graph", "waterz", _waterz_watershed),
    ]


def _boundary(affinities: np.ndarray) -> np.ndarray:
    real = dequantise(affinities)
    return 1 - (real[1] + real[2]) / 2


def _mahotas_recipe() -> Callable[..., np.ndarray]:
    import mahotas

    def run(affinities: np.ndarray) -> np.ndarray:
        boundary = _boundary(affinities)
        distance = mahotas.distance(boundary < THRESHOLD)
        return mahotas.cwatershed(boundary, mahotas.label(mahotas.regmax(distance))[0])

    return run


def _skimage_recipe() -> Callable[..., np.ndarray]:
    from scipy.ndimage import distance_transform_edt
    from skimage.measure import label
    from skimage.morphology import local_maxima
    from skimage.segmentation import watershed

    def run(affinities: np.ndarray) -> np.ndarray:
        boundary = _boundary(affinities)
        distance = distance_transform_edt(boundary < THRESHOLD)
        return watershed(boundary, label(local_maxima(distance, connectivity=1), connectivity=1))

    return run


def _scipy_recipe() -> Callable[..., np.ndarray]:
    from scipy import ndimage

    cross = ndimage.generate_binary_structure(2, 1)

    def run(affinities: np.ndarray) -> np.ndarray:
        boundary = _boundary(affinities)
        distance = ndimage.distance_transform_edt(boundary < THRESHOLD)
        # scipy has local maxima, of which some lie beside higher ground, not regional ones
        maxima = ndimage.maximum_filter(distance, footprint=cross) == distance
        seeds = ndimage.label(maxima & (distance > 0))[0]
        return ndimage.watershed_ift((boundary * 512).astype(np.uint16), seeds)

    return run


def _bioimage_recipe() -> Callable[..., np.ndarray]:
    from bioimage_cpp.distance import distance_transform
    from bioimage_cpp.segmentation import watershed
    from scipy import ndimage
    from skimage.morphology import local_maxima

    def run(affinities: np.ndarray) -> np.ndarray:
        boundary = _boundary(affinities)
        distance = distance_transform(boundary < THRESHOLD, number_of_threads=1)
        seeds = ndimage.label(local_maxima(distance, connectivity=1))[0]
        return watershed(boundary, seeds)

    return run


def _waterz_watershed() -> Callable[..., np.ndarray]:
    import waterz

    def run(affinities: np.ndarray) -> np.ndarray:
        real = np.ascontiguousarray(dequantise(affinities)[:, None])
        return next(waterz.agglomerate(real, [0.0]))[0].copy()

    return run


# ------------------------------------------------------------------------ region graph


def edges(material: Material) -> tuple[int, list[Way]]:
    """Sections, from fragments and stored affinities to edges."""
    labels = material.fragments[:N_FEW]
    affinities = material.affinities[:, :N_FEW]

    def ours() -> list[Any]:
        return [
            section_edges(labels[z], affinities[:, z], z, labels[z - 1] if z else None)
            for z in range(N_FEW)
        ]

    def with_fragments() -> list[Any]:
        made = ours()
        for z in range(N_FEW):
            section_fragment_table(labels[z], z)
        return made

    def plain() -> list[Any]:
        return [_plain_edges(labels, affinities)]

    def bioimage() -> Callable[[], Any]:
        from bioimage_cpp.graph import region_adjacency_graph
        from bioimage_cpp.graph.features import affinity_features

        real = dequantise(affinities)
        offsets = [(-1, 0, 0), (0, -1, 0), (0, 0, -1)]

        def run() -> Any:
            rag = region_adjacency_graph(labels, number_of_threads=1)
            return affinity_features(rag, labels, real, offsets, number_of_threads=1)

        return run

    def number(made: list[Any]) -> str:
        return f"{sum(map(len, made))} edges"

    return labels.size, [
        Way("napari-cad: mean, maximum, area, place", OURS, lambda: ours, number),
        Way("the same with the table of fragments", OURS, lambda: with_fragments, number),
        Way("plain numpy: mean, maximum, area", "numpy", lambda: plain, number),
        Way("bioimage-cpp: mean, area", "bioimage-cpp", bioimage, lambda made: number([made])),
    ]


def _plain_edges(labels: np.ndarray, affinities: np.ndarray) -> np.ndarray:
    pairs, values = [], []
    for axis in range(3):
        later = np.moveaxis(labels, axis, 0)[1:].ravel()
        earlier = np.moveaxis(labels, axis, 0)[:-1].ravel()
        contact = later != earlier
        later, earlier = later[contact].astype(np.uint64), earlier[contact].astype(np.uint64)
        pairs.append(np.minimum(later, earlier) << np.uint64(32) | np.maximum(later, earlier))
        values.append(np.moveaxis(affinities[axis], axis, 0)[1:].ravel()[contact])
    stored = np.concatenate(values)
    pair, place, area = np.unique(np.concatenate(pairs), return_inverse=True, return_counts=True)
    mean = np.bincount(place, stored) / area
    highest = np.zeros(len(pair), np.uint8)
    np.maximum.at(highest, place, stored)
    return np.stack([pair, area, mean, highest], axis=1)


# ------------------------------------------------------------------------ agglomeration


def agglomeration(material: Material) -> tuple[int, list[Way]]:
    """Twenty sections, from the region graph (waterz: from the voxels) to the merges."""
    from napari_cad.core.agglomeration import MERGE_FUNCTIONS

    graph = material.graph
    columns = {"u": graph.u, "v": graph.v, "affinity": graph.max}

    def scored(made: Any) -> str:
        history = MergeHistory(*made)
        tree = MergeTree.from_history(graph.n_fragments, history)
        return f"{material.voi(tree.lut(THRESHOLD))} at {THRESHOLD}"

    def on_graph(percent: int) -> Callable[[], Any]:
        from napari_cad.core._quantile_merging import merge_history

        return lambda: next(merge_history(**columns, percent=percent))

    def waterz_on_graph() -> Callable[[], Any]:
        from napari_cad.core._waterz_child import merge_history_of_graph

        median = MERGE_FUNCTIONS["median"]
        return lambda: next(
            merge_history_of_graph(
                **columns, scoring_function=median.scoring_function, queue_bins=median.queue_bins
            )
        )

    def waterz_on_voxels(name: str) -> Callable[[], Any]:
        from napari_cad.core._waterz_child import merge_history_of_volume

        function = MERGE_FUNCTIONS[name]
        return lambda: next(
            merge_history_of_volume(
                material.affinities,
                material.fragments,
                scoring_function=function.scoring_function,
                queue_bins=function.queue_bins,
            )
        )

    ways = [
        Way(f"{name} on the graph", OURS, lambda p=function.percent: on_graph(p), scored)
        for name, function in MERGE_FUNCTIONS.items()
        if function.on_graph
    ]
    ways.append(Way("median on the graph", "waterz", waterz_on_graph, scored))
    ways += [
        Way(f"{name} on the voxels", "waterz", lambda n=name: waterz_on_voxels(n), scored)
        for name in MERGE_FUNCTIONS
        if name == "median" or not MERGE_FUNCTIONS[name].on_graph
    ]
    partition = (_multicut, "multicut", "bioimage-cpp"), (_mutex, "mutex watershed", "mwatershed")
    ways += [
        Way(f"{name} on the graph", package, lambda way=way: way(graph), material.voi)
        for way, name, package in partition
    ]
    return material.fragments.size, ways


def _multicut(graph: RegionGraph) -> Callable[[], np.ndarray]:
    from napari_cad.core.merge_tree import segment_lut
    from napari_cad.core.multicut import edge_costs, solve

    def run() -> np.ndarray:
        cut = next(solve(graph.u, graph.v, edge_costs(graph)))
        return segment_lut(graph.n_fragments, graph.u, graph.v, cut.astype(np.float32), 0.5)

    return run


def _mutex(graph: RegionGraph) -> Callable[[], np.ndarray]:
    import mwatershed

    def run() -> np.ndarray:
        weight = graph.mean - 0.5
        order = np.argsort(-np.abs(weight), kind="stable")
        columns = (weight[order] > 0).tolist(), graph.u[order].tolist(), graph.v[order].tolist()
        lut = np.arange(graph.n_fragments + 1, dtype=np.uint32)
        found = np.array(mwatershed.cluster(list(zip(*columns, strict=True))))
        lut[found[:, 0]] = found[:, 1]
        return lut

    return run


# ------------------------------------------------------------------------ scores


def evaluation(material: Material) -> tuple[int, list[Way]]:
    """VOI and ARAND of sections."""
    truth = material.truth[:N_FEW]
    labels = material.tree.lut(THRESHOLD)[material.fragments[:N_FEW]]

    def ours() -> Scores:
        tables = (contingency(truth=t, segmentation=a) for t, a in zip(truth, labels, strict=True))
        return Scores.of(ContingencyTable.total(tables))

    def skimage() -> Callable[[], Any]:
        from skimage.metrics import adapted_rand_error, variation_of_information

        def run() -> tuple[float, float]:
            voi = variation_of_information(truth, labels, ignore_labels=(0,))
            arand = adapted_rand_error(truth, labels, ignore_labels=(0,))[0]
            return float(sum(voi)), float(arand)

        return run

    def waterz() -> Callable[[], Any]:
        import waterz

        arrays = labels.astype(np.uint64), truth.astype(np.uint64)

        def run() -> tuple[float, float]:
            scores = waterz.evaluate(*arrays)
            split, merge = scores["rand_split"], scores["rand_merge"]
            f_score = 2 * split * merge / (split + merge)
            return scores["voi_split"] + scores["voi_merge"], 1 - f_score

        return run

    def text(made: Any) -> str:
        voi, arand = (made.voi, made.arand) if isinstance(made, Scores) else made
        return f"VOI {voi:.4f}, ARAND {arand:.4f}"

    return truth.size, [
        Way("napari-cad", OURS, lambda: ours, text),
        Way("scikit-image", "scikit-image", skimage, text),
        Way("waterz.evaluate", "waterz", waterz, text),
    ]


# ------------------------------------------------------------------------ another threshold


def slider(material: Material) -> tuple[int, list[Way]]:
    """Another threshold for twenty sections: the new segment of every fragment."""
    graph, history, tree = material.graph, material.history, material.tree
    scores = tree.join_scores(graph.u, graph.v)

    def whole() -> np.ndarray:
        return tree.lut(THRESHOLD)

    shown = np.unique(material.fragments[N_FEW])

    def on_screen() -> np.ndarray:
        return tree.segments_of(shown, THRESHOLD)

    def prefix() -> np.ndarray:
        return history.lut(graph.n_fragments, THRESHOLD)

    def components() -> Callable[[], np.ndarray]:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        def run() -> np.ndarray:
            joined = scores < THRESHOLD
            ends = graph.u[joined], graph.v[joined]
            n = graph.n_fragments + 1
            matrix = coo_array((np.ones(len(ends[0]), np.bool_), ends), (n, n))
            return connected_components(matrix, directed=False)[1]

        return run

    def volume() -> np.ndarray:
        return tree.lut(THRESHOLD)[material.fragments]

    def number(lut: np.ndarray) -> str:
        return f"{len(np.unique(lut)) - 1} segments"

    return material.fragments.size, [
        Way("napari-cad: LUT of the merge tree", OURS, lambda: whole, number),
        Way("napari-cad: section on screen only", OURS, lambda: on_screen),
        Way("prefix of the merge history", OURS, lambda: prefix, number),
        Way("connected components of all edges", "scipy", components, number),
        Way("the LUT, and all voxels relabelled", "numpy", lambda: volume),
    ]


# ------------------------------------------------------------------------ meshes


def meshes(material: Material) -> tuple[int, list[Way]]:
    """Surfaces of the ten largest segments of twenty sections, sampled as by default."""
    from napari_cad.core.meshes import MeshMaker, sampling_step

    voxel_size = material.volume.voxel_size
    step = sampling_step("normal", voxel_size)
    labels = material.tree.lut(THRESHOLD)[material.fragments]
    sizes = np.bincount(labels.ravel())
    largest = np.argsort(sizes[1:])[-N_MESHES:] + 1

    def ours(simplify: bool) -> Callable[[], Any]:
        def run() -> list[Any]:
            maker = MeshMaker(
                largest.tolist(),
                range(N_SECTIONS),
                step,
                voxel_size=voxel_size,
                simplify=simplify,
            )
            for z in maker.needed:
                maker.add(labels[z])
            return [len(maker.mesh(int(i)).faces) for i in largest]

        return run

    def skimage() -> Callable[[], Any]:
        from skimage.measure import marching_cubes

        def run() -> list[int]:
            sampled = labels[tuple(slice(n // 2, None, n) for n in step)]
            made = []
            for i in largest:
                where = np.nonzero(sampled == i)
                box = tuple(slice(int(w.min()), int(w.max()) + 1) for w in where)
                mask = np.pad(sampled[box] == i, 1).astype(np.float32)
                made.append(len(marching_cubes(mask, 0.5, spacing=step)[1]))
            return made

        return run

    def number(made: list[int]) -> str:
        return f"{sum(made)} triangles"

    return labels.size, [
        Way("napari-cad: zmesh, simplified", OURS, lambda: ours(True), number),
        Way("the same, not simplified", OURS, lambda: ours(False), number),
        Way("marching cubes, not simplified", "scikit-image", skimage, number),
    ]


# ------------------------------------------------------------------------ all after the network


def after(material: Material) -> tuple[int, list[Way]]:
    """Twenty sections, all that `segment` does once it has the affinities, on all cores."""
    from napari_cad.core.pipeline import segment_volume

    config = material.run.config
    bare, used = material.work / "affinities.zarr", material.work / "after.zarr"
    store = material.empty_store(bare)
    for z in range(N_SECTIONS):
        store.write_affinities(z, material.affinities[:, z])

    def ours() -> int:
        shutil.rmtree(used, ignore_errors=True)
        shutil.copytree(bare, used)
        finished = list(segment_volume(material.volume, material.student, config, used))[-1]
        return int(finished.n_segments)

    return material.fragments.size, [
        Way(
            "fragments, edges, agglomeration, join scores, LUT, all stored",
            OURS,
            lambda: ours,
            lambda n: f"{n} segments",
        )
    ]


def whole(material: Material) -> tuple[int, list[Way]]:
    """Twenty sections, from grey values to segments, on all cores, beside the network alone."""
    from napari_cad.core.pipeline import segment_volume
    from napari_cad.core.section_tasks import Predictor

    volume, student, config = material.volume, material.student, material.run.config
    path = material.work / "whole.zarr"

    def ours() -> None:
        for _ in segment_volume(volume, student, config, path, overwrite=True):
            pass

    def network_alone() -> None:
        store = material.empty_store(path)
        predictor = Predictor(student, config, None)
        for _ in predictor.predict(volume, store, list(range(N_SECTIONS))):
            pass

    return material.fragments.size, [
        Way("the whole run", OURS, lambda: ours),
        Way("the network alone, affinities stored", OURS, lambda: network_alone),
    ]


STAGES = {
    stage.__name__: stage
    for stage in (
        network, fragments, edges, agglomeration, evaluation, slider, meshes, after, whole,
    )
}  # fmt: skip


def _machine() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores, {model}, Python {platform.python_version()}"


def main() -> None:
    """Race the stages that were asked for."""
    here = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", metavar="stage", help=", ".join(STAGES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--markdown", action="store_true", help="write tables for the docs")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "bench_stages")
    parser.add_argument(
        "--shared",
        type=Path,
        default=Path(os.environ.get("NAPARI_CAD_SHARED", here.parent / "shared")),
        help="folder with the real stack",
    )
    options = parser.parse_args()
    unknown = set(options.stages) - set(STAGES)
    if unknown:
        parser.error(f"stages are {', '.join(STAGES)}, got {', '.join(sorted(unknown))}")
    options.work.mkdir(parents=True, exist_ok=True)
    material = Material(options.work, options.shared)
    kind = "SNEMI3D sections 0-19, AC34" if material.real else "synthetic stack, default student"
    print(f"{kind}; {_machine()}", flush=True)
    for name in options.stages or STAGES:
        voxels, ways = STAGES[name](material)
        race(ways, options.rounds)
        heading = STAGES[name].__doc__.splitlines()[0]
        print(f"\n{'### ' if options.markdown else ''}{name}: {heading}\n")
        print(table(ways, voxels, markdown=options.markdown), flush=True)


if __name__ == "__main__":
    main()
