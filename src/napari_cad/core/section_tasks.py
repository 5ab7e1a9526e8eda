"""The tasks that a run is made of: plain functions that find everything by its address.

A task opens the store, the volume and the checkpoint where it runs, and leaves what it made in the
store, with a mark behind it. So it can be carried out by any process that sees the same files, can
be repeated, and is done when its mark says so. For a section these follow one another::

    predict_sections ─▶ make_local_fragments ─▶ number_fragments ─▶ make_edges

Only the third needs to know about the sections before it, and of those only how many fragments
they have; only the fourth reads another section's fragments.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_cad.core.agglomerations import Approximated, agglomerate
from napari_cad.core.errors import CheckpointError, StoreError, VolumeError
from napari_cad.core.fragments import section_fragments
from napari_cad.core.memory_plan import within_memory
from napari_cad.core.region_graph import section_edges, section_fragment_table
from napari_cad.core.store import SegmentationStore, run_signature
from napari_cad.core.torch_memory import give_memory_back, use_huge_pages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_cad.core.adaptation import Statistics
    from napari_cad.core.agreement import Judgement
    from napari_cad.core.augmented import AugmentedPredictor
    from napari_cad.core.checkpoint import Checkpoint
    from napari_cad.core.config import AgglomerationConfig, SegmentationConfig
    from napari_cad.core.inference import AffinityPredictor
    from napari_cad.core.volume import EMVolume, VolumeSource

#: Environment variables that number the processes of one machine: Slurm's, torchrun's, Open MPI's.
_LOCAL_RANKS = ("SLURM_LOCALID", "LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")


@dataclass(frozen=True, eq=False)
class Student:
    """A student by its address, and how it is to run.

    Attributes
    ----------
    checkpoint : str
        As `resolve_checkpoint` takes it.
    sha256 : str
        Of its file: a worker that finds another one refuses.
    config : SegmentationConfig
        With a resolved intensity mapping and precision.
    statistics : Statistics, optional
        Where the student is adapted: what was measured, once for the whole run.
    """

    checkpoint: str
    sha256: str
    config: SegmentationConfig
    statistics: Statistics | None = None

    @property
    def key(self) -> str:
        """Tells it from any other."""
        digest = hashlib.sha256(f"{self.sha256} {self.config.to_json()}".encode())
        for name, values in (self.statistics.values if self.statistics else {}).items():
            digest.update(name.encode() + values.numpy().tobytes())
        return digest.hexdigest()


# ---------------------------------------------------------------- before the first section


def prepare_run(
    volume: EMVolume, checkpoint: Checkpoint, config: SegmentationConfig, *, there: bool = False
) -> tuple[SegmentationConfig, dict[str, Any]]:
    """Settle what depends on the volume and the device; reads a few sections.

    Parameters
    ----------
    volume, checkpoint, config
        As for `segment_volume`.
    there : bool
        Whether a limit of memory is one of each worker of a cluster.

    Returns
    -------
    config : SegmentationConfig
        With a resolved intensity mapping, and what its limit of memory leaves for each part.
    signature : dict
        See `run_signature`.

    Raises
    ------
    ConfigError
        If the device is not there, the volume gives no intensity mapping, or the memory is too
        little.
    """
    from napari_cad.core.device import pick_device
    from napari_cad.core.preprocessing import Preprocessing

    config = replace(config, intensity=config.intensity.resolve(volume))
    device = pick_device(config.inference.device, config.inference.precision)
    signature = run_signature(volume, checkpoint.sha256, config, device.precision)
    size = volume.shape[1:]
    network_size = Preprocessing.of(config.intensity, config.fit).network_size(size)
    width = checkpoint.metadata.width if device.kind == "cpu" else 0
    return within_memory(config, size, network_size, width, there=there), signature


def prepare_run_there(
    source: VolumeSource, checkpoint: str, sha256: str, config: SegmentationConfig
) -> tuple[SegmentationConfig, dict[str, Any]]:
    """Settle the same on a worker; its precision becomes that of all workers."""
    found = _find_checkpoint(checkpoint, sha256)
    config, signature = prepare_run(_open(source), found, config, there=True)
    inference = replace(config.inference, precision=signature["precision"])
    return replace(config, inference=inference), signature


def check_worker(store: str, run: str, source: VolumeSource, student: Student | None) -> None:
    """Look whether a worker sees what the run needs; reads metadata only.

    Parameters
    ----------
    store : str
        Address of the store.
    run : str
        What stands in its scratch: a store of that name on a disk of the worker's own will not do.
    source : VolumeSource
        The volume.
    student : Student, optional
        For workers that run the network.

    Raises
    ------
    NapariCadError
        Naming what is missing.
    """
    found = SegmentationStore.open(store, mode="a")
    if found.scratch.run != run:
        raise StoreError(
            f"what it finds at {store} is another store: put the store on a file system that all "
            "workers share, or into an object store"
        )
    shape = _open(source).shape
    if shape != found.shape:
        raise VolumeError(
            f"the volume that it finds at {source.path} has the shape {shape}, expected "
            f"{found.shape}: all workers must see the same files"
        )
    if student is not None:
        from napari_cad.core.device import pick_device

        inference = _on_this_device(student.config).inference
        pick_device(inference.device, inference.precision)
        _find_checkpoint(student.checkpoint, student.sha256)


def measure_statistics(
    volume: EMVolume, checkpoint: Checkpoint, config: SegmentationConfig
) -> Statistics:
    """Measure what adapting the student needs; see `napari_cad.core.adaptation`."""
    from napari_cad.core import adaptation
    from napari_cad.core.device import pick_device
    from napari_cad.core.preprocessing import Preprocessing

    return adaptation.measure_statistics(
        checkpoint.build(),
        volume,
        Preprocessing.of(config.intensity, config.fit),
        config.fit.sampled_sections,
        device=pick_device(config.inference.device, config.inference.precision).name,
    )


def measure_statistics_there(source: VolumeSource, student: Student) -> Statistics:
    """Measure the same on a worker."""
    checkpoint = _find_checkpoint(student.checkpoint, student.sha256)
    return measure_statistics(_open(source), checkpoint, _on_this_device(student.config))


# ---------------------------------------------------------------- affinities


class Predictor:
    """A student that is loaded, and may be adapted.

    Parameters
    ----------
    checkpoint : Checkpoint
        The student.
    config : SegmentationConfig
        With a resolved intensity mapping.
    statistics : Statistics, optional
        See `Student`.
    """

    def __init__(
        self, checkpoint: Checkpoint, config: SegmentationConfig, statistics: Statistics | None
    ) -> None:
        from napari_cad.core.adaptation import blend_statistics
        from napari_cad.core.augmented import AugmentedPredictor
        from napari_cad.core.inference import AffinityPredictor
        from napari_cad.core.preprocessing import Preprocessing

        network = checkpoint.build()
        if statistics is not None:
            network = blend_statistics(network, statistics, config.fit.adapt)
        self.config = config
        self.preprocessing = Preprocessing.of(config.intensity, config.fit)
        self.predictor: AffinityPredictor = AffinityPredictor(network, config.inference)
        self.augmented: AugmentedPredictor = AugmentedPredictor(self.predictor, config.augmentation)

    def predict(
        self, volume: EMVolume, store: SegmentationStore, sections: list[int]
    ) -> Iterator[int]:
        """Write the affinities of sections; yields each when it is in the store."""
        for section in self.augmented.predict(volume, self.preprocessing, sections):
            store.write_affinities(section.z, section.affinities)
            yield section.z

    def judge_fit(self, volume: EMVolume) -> Judgement | None:
        """Judge by the reversed stack; None where there is nothing to judge by."""
        from napari_cad.core.agreement import judge_fit

        try:
            return judge_fit(self.predictor, self.preprocessing, volume, self.config.fragments)
        except VolumeError:  # empty sections wherever it looked
            return None


def predict_sections(
    source: VolumeSource, student: Student, store: str, start: int, stop: int
) -> None:
    """Write the affinities of sections start ≤ z < stop that are not there yet."""
    opened = SegmentationStore.open(store, mode="a")
    done = opened.counts("affinities", slice(start, stop)) >= 0
    missing = [int(z) for z in np.flatnonzero(~done) + start]
    if not missing:
        return
    with _predictor(student) as predictor:
        for _ in predictor.predict(_open(source), opened, missing):
            pass


def judge_fit_there(source: VolumeSource, student: Student) -> Judgement | None:
    """Judge a student by the reversed stack; see `Predictor.judge_fit`."""
    with _predictor(student) as predictor:
        return predictor.judge_fit(_open(source))


#: The predictor that this process used last: the next task most likely wants the same one.
_loaded: dict[str, Predictor] = {}
_loaded_lock = threading.Lock()


@contextlib.contextmanager
def _predictor(student: Student) -> Iterator[Predictor]:
    """Give the predictor of a student to one thread at a time: it computes in its own maps."""
    with _loaded_lock:
        key = student.key
        if key not in _loaded:
            _loaded.clear()
            checkpoint = _find_checkpoint(student.checkpoint, student.sha256)
            config = _on_this_device(student.config)
            _loaded[key] = Predictor(checkpoint, config, student.statistics)
        yield _loaded[key]


def _on_this_device(config: SegmentationConfig) -> SegmentationConfig:
    """Choose one of several GPUs by the number of this process on its machine.

    Whoever starts the workers may also show each of them one GPU (CUDA_VISIBLE_DEVICES).
    """
    import torch

    rank = next((os.environ[name] for name in _LOCAL_RANKS if name in os.environ), "")
    n_gpus = torch.cuda.device_count()
    if config.inference.device not in ("auto", "cuda") or n_gpus < 2 or not rank.isdigit():
        return config
    device = f"cuda:{int(rank) % n_gpus}"
    return replace(config, inference=replace(config.inference, device=device))


def _find_checkpoint(checkpoint: str, sha256: str) -> Checkpoint:
    use_huge_pages()  # before torch is imported
    from napari_cad.core.registry import resolve_checkpoint

    found = resolve_checkpoint(checkpoint)
    if found.sha256 != sha256:
        raise CheckpointError(
            f"the checkpoint {checkpoint} is another file here (expected sha256 {sha256}, got "
            f"{found.sha256}): put it where all workers see the same one"
        )
    return found


def _open(source: VolumeSource) -> EMVolume:
    from napari_cad.core.readers import open_source

    return open_source(source)


# ---------------------------------------------------------------- fragments and edges


class LocalFragments(NamedTuple):
    """What a run needs to know of the fragments of a section, and of its affinities.

    Attributes
    ----------
    n_fragments : int
        How many there are.
    mean_z_affinity : float
        Mean of the affinities to the section before, in [0, 1].
    """

    n_fragments: int
    mean_z_affinity: float


def make_local_fragments(store: str, z: int) -> LocalFragments:
    """Make the fragments of section `z`, with ids 1, 2, … of its own, in the scratch."""
    opened = SegmentationStore.open(store, mode="a")
    affinities = opened.read_affinities(z)
    fragments = section_fragments(affinities, opened.config.fragments)
    count = int(fragments.max(initial=0))
    if not opened.is_done("fragments", z):  # by another, while this one was thought to be lost
        opened.scratch.write(z, fragments, count)
    return LocalFragments(count, float(affinities[0].mean()) / 255)


def number_fragments(store: str, z: int, offset: int) -> None:
    """Write the fragments of section `z` with ids offset + 1, offset + 2 and so on.

    Parameters
    ----------
    store : str
        Address of the store.
    z : int
        Section; its fragments are in the scratch, and will be taken out of it.
    offset : int
        Number of fragments in all sections before.
    """
    opened = SegmentationStore.open(store, mode="a")
    if opened.is_done("fragments", z):
        return
    fragments = opened.scratch.read(z)
    count = int(fragments.max(initial=0))
    fragments[fragments > 0] += np.uint32(offset)
    opened.write_fragments(z, fragments, count)
    opened.scratch.drop(z)


def make_edges(store: str, z: int) -> None:
    """Write the edges of section `z` and the table of its fragments.

    The fragments of `z` and of the section before have their volume-unique ids.

    Raises
    ------
    StoreError
        If the fragments that are read are not as many as there were.
    """
    opened = SegmentationStore.open(store, mode="a")
    if opened.is_done("edges", z):
        return
    current = opened.read_fragments(z)
    table = section_fragment_table(current, z)
    expected = int(opened.counts("fragments", slice(z, z + 1))[0])
    if len(table) != expected:
        raise StoreError(
            f"{store}: section {z} was written with {expected} fragments, and {len(table)} can be "
            "read: napari-cad verify says more"
        )
    prev = opened.read_fragments(z - 1) if z > 0 else None
    edges = section_edges(current, opened.read_affinities(z), z, prev)
    opened.write_edges(z, edges, table)


# ---------------------------------------------------------------- after the last section


def agglomerate_run(
    store: str, chosen: AgglomerationConfig, memory: int | None = None
) -> tuple[Approximated | None, int, int]:
    """Make the merge history, and choose it with its threshold for showing.

    Returns
    -------
    notice : Approximated or None
        See `agglomerate`, which `memory` is for.
    n_fragments, n_segments : int
        Of the volume, at the threshold.
    """
    opened = SegmentationStore.open(store, mode="a")
    notice = agglomerate(opened, chosen.merge_function, memory=memory)
    opened.choose_agglomeration(chosen.merge_function, chosen.threshold, chosen.absorb)
    return notice, opened.n_fragments, len(np.unique(opened.lut()[1:]))


def agglomerate_run_there(
    store: str, chosen: AgglomerationConfig, memory: int | None
) -> tuple[Approximated | None, int, int]:
    """Do the same on a worker, which may have a network that is not needed any more."""
    with _loaded_lock:
        _loaded.clear()
    give_memory_back()
    return agglomerate_run(store, chosen, memory)
