"""The way of a volume: sections to affinities, to fragments, to a region graph, to segments.

`segment_volume` is a plain generator. It writes everything into a store as it goes, so it can be
abandoned after any event, or killed at any moment, and goes on from there when it is called again.

While the network is busy with section z, worker processes make the fragments of the sections
before it. Fragment ids are given in the order of the sections, whatever order the workers finish
in, so the result does not depend on their number.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core.agglomerations import agglomerate, check_agglomeration
from napari_cad.core.errors import ConfigError, VolumeError
from napari_cad.core.events import Event, Finished, OutOfDomain, SectionDone, StageStarted
from napari_cad.core.fragments import section_fragments
from napari_cad.core.memory_plan import agglomeration_share, within_memory
from napari_cad.core.region_graph import section_edges, section_fragment_table
from napari_cad.core.store import SegmentationStore, is_store, run_signature
from napari_cad.core.torch_memory import give_memory_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor
    from pathlib import Path

    import numpy.typing as npt

    from napari_cad.core.checkpoint import Checkpoint
    from napari_cad.core.config import SegmentationConfig
    from napari_cad.core.inference import AffinityPredictor
    from napari_cad.core.preprocessing import Preprocessing
    from napari_cad.core.volume import EMVolume

#: Volumes below this are done in the calling process: starting workers would take longer.
_WORKERS_FROM_VOXELS = 4_000_000

#: Mean between-section affinity outside of which the output cannot be right.
_PLAUSIBLE_Z_AFFINITY = (0.03, 0.97)

#: Agreement with the reversed stack (`core.agreement`) below which fitting is advised. Measured:
#: 0.91 to 0.97 for students on the kind of data that they were trained on, 0.60 to 0.88 for five
#: students, as they are, on stacks from elsewhere (docs/fit.md).
_PLAUSIBLE_AGREEMENT = 0.9

_FIT_ADVICE = (
    "Fitting the checkpoint to the volume may help; napari-cad fit suggests how, without labels."
)

#: It is looked at in volumes from this size on: in smaller ones it would be a good part of the run.
_AGREEMENT_FROM_VOXELS = 4_000_000


def segment_volume(
    volume: EMVolume,
    checkpoint: Checkpoint,
    config: SegmentationConfig,
    store_path: str | Path,
    *,
    overwrite: bool = False,
) -> Iterator[Event]:
    """Segment a volume into a store, or go on with a run that was stopped.

    Parameters
    ----------
    volume : EMVolume
        Read one section at a time.
    checkpoint : Checkpoint
        The student to run.
    config : SegmentationConfig
        An intensity mapping without limits is resolved for the volume.
    store_path : path
        The store, made if it is not there.
    overwrite : bool
        Begin anew if there is a store at that place, whatever it was made from.

    Yields
    ------
    Event
        `StageStarted`, `SectionDone` per stage and section, `Warned`, and `Finished` at the end.
        The stages affinities and fragments go on side by side. Where the student is adapted, the
        stage adaptation comes first, as one step.

    Raises
    ------
    ConfigError
        If the merge function is not known or the device is not there; before anything is written.
    StoreMismatchError
        If the store was made from another volume, checkpoint or setting.
    StoreError
        If something else lies at that place.
    """
    started = time.monotonic()
    # these import torch
    from napari_cad.core.adaptation import adapt
    from napari_cad.core.augmented import AugmentedPredictor
    from napari_cad.core.inference import AffinityPredictor, pick_device
    from napari_cad.core.preprocessing import Preprocessing

    merge_function = config.agglomeration.merge_function
    check_agglomeration(merge_function)
    intensity = config.intensity.resolve(volume)
    config = replace(config, intensity=intensity)
    preprocessing = Preprocessing.of(intensity, config.fit)
    network = checkpoint.build()
    device = pick_device(config.inference.device, config.inference.precision)
    config = within_memory(
        config,
        volume.shape[1:],
        preprocessing.network_size(volume.shape[1:]),
        network.width if device.kind == "cpu" else 0,
    )
    if config.fit.adapt > 0:
        yield StageStarted("adaptation", 1)
        network = adapt(
            network,
            volume,
            preprocessing,
            strength=config.fit.adapt,
            n_sections=config.fit.sampled_sections,
            device=device.name,
        )
        yield SectionDone("adaptation", volume.n_sections - 1, 1, 1)
    predictor = AffinityPredictor(network, config.inference)
    signature = run_signature(volume, checkpoint.sha256, config, predictor.device.precision)
    store = _open_or_create(store_path, volume, checkpoint, config, signature, overwrite=overwrite)

    with _executor(config, volume) as executor:
        done = int(store.sections_done("affinities").sum())
        yield StageStarted("affinities", volume.n_sections, done)
        yield StageStarted("fragments", volume.n_sections, int(store.sections_done("edges").sum()))
        missing = [int(z) for z in np.flatnonzero(~store.sections_done("affinities"))]
        fragments = _FragmentStage(store, executor, config)
        check = _PlausibilityCheck()
        augmented = AugmentedPredictor(predictor, config.augmentation)
        for section in augmented.predict(volume, preprocessing, missing):
            store.write_affinities(section.z, section.affinities)
            done += 1
            yield SectionDone("affinities", section.z, done, volume.n_sections)
            yield from check(section.z, section.affinities)
            if done == 3:  # early, but not before something is to be seen
                yield from _check_agreement(volume, predictor, preprocessing, config)
            yield from fragments.advance(section.z)
        yield from fragments.finish()
    # agglomeration takes memory in another process
    del predictor, augmented, network, fragments
    give_memory_back()

    yield StageStarted("agglomeration", 1)
    memory = None if config.memory is None else agglomeration_share(config.memory)
    notice = agglomerate(store, merge_function, memory=memory)
    if notice is not None:
        yield notice
    agglomeration = config.agglomeration
    store.choose_agglomeration(merge_function, agglomeration.threshold, agglomeration.absorb)
    lut = store.lut()
    yield SectionDone("agglomeration", volume.n_sections - 1, 1, 1)
    yield Finished(
        str(store.path), store.n_fragments, len(np.unique(lut[1:])), time.monotonic() - started
    )


def _open_or_create(
    path: str | Path,
    volume: EMVolume,
    checkpoint: Checkpoint,
    config: SegmentationConfig,
    signature: dict[str, Any],
    *,
    overwrite: bool,
) -> SegmentationStore:
    if is_store(path) and not overwrite:
        store = SegmentationStore.open(path, mode="a")
        store.check_signature(signature)
        return store
    return SegmentationStore.create(
        path,
        volume=volume,
        checkpoint=checkpoint.metadata,
        config=config,
        signature=signature,
        overwrite=overwrite,
    )


class _PlausibilityCheck:
    """Warns once when the between-section affinity is near 0 or near 1 everywhere."""

    def __init__(self) -> None:
        self._means: list[float] = []

    def __call__(self, z: int, affinities: npt.NDArray[np.uint8]) -> Iterator[OutOfDomain]:
        if z == 0 or len(self._means) >= 3:  # section 0 is paired with itself
            return
        self._means.append(float(affinities[0].mean()) / 255)
        if len(self._means) < 3:
            return
        mean, (low, high) = sum(self._means) / 3, _PLAUSIBLE_Z_AFFINITY
        if not low < mean < high:
            yield OutOfDomain(
                f"The affinity between sections is {mean:.2f} on average: the network sees "
                f"{'nothing' if mean < 0.5 else 'everything'} as connected. The intensity mapping "
                "or the checkpoint does not fit this volume: check that membranes are dark, the "
                "contrast is that of the training data, and the sections are aligned. "
                f"{_FIT_ADVICE}"
            )


def _check_agreement(
    volume: EMVolume,
    predictor: AffinityPredictor,
    preprocessing: Preprocessing,
    config: SegmentationConfig,
) -> Iterator[OutOfDomain]:
    """Warn where the student sees other neurites when the stack is turned upside down."""
    from napari_cad.core.agreement import reversal_agreement, sample_crops

    if volume.n_sections < 2 or np.prod(volume.shape) < _AGREEMENT_FROM_VOXELS:
        return
    try:
        crops = sample_crops(volume)
    except VolumeError:  # empty sections wherever it looked: nothing to judge by
        return
    agreement = reversal_agreement(predictor, preprocessing, crops, config.fragments)
    if agreement < _PLAUSIBLE_AGREEMENT:
        yield OutOfDomain(
            "Upside down, a small part of this volume gives other neurites than the right way up: "
            f"the agreement is {agreement:.2f}, and on data of the kind that a checkpoint was "
            f"trained on it is above {_PLAUSIBLE_AGREEMENT:g}. {_FIT_ADVICE}"
        )


# -------------------------------------------------------------------- fragments, in workers


def _make_fragments(path: str, z: int, config: SegmentationConfig) -> npt.NDArray[np.uint32]:
    """Fragments of section `z` with ids 1, 2, … of its own."""
    return section_fragments(SegmentationStore.open(path).read_affinities(z), config.fragments)


def _make_edges(path: str, z: int) -> int:
    """Write the edges of section `z` and its fragment table into the store."""
    store = SegmentationStore.open(path, mode="a")
    current = store.read_fragments(z)
    prev = store.read_fragments(z - 1) if z > 0 else None
    edges = section_edges(current, store.read_affinities(z), z, prev)
    store.write_edges(z, edges, section_fragment_table(current, z))
    return z


class _FragmentStage:
    """Fragments and edges of every section, in order, as soon as what they need is there.

    Local fragments are made in any order; ids become global in the order of the sections; then the
    edges of a section follow, which need the fragments of the section before.
    """

    def __init__(
        self, store: SegmentationStore, executor: Executor, config: SegmentationConfig
    ) -> None:
        self._store = store
        self._executor = executor
        self._config = config
        self._path = str(store.path)
        self._has_affinities = store.sections_done("affinities")
        self._counts = store.counts("fragments")
        self._edges_done = store.sections_done("edges")
        self._offset = 0
        self._next_submit = 0  # first section whose fragments have not been asked for
        self._next_number = 0  # first section without global ids
        self._fragments: dict[int, Future[npt.NDArray[np.uint32]]] = {}
        self._edges: deque[Future[int]] = deque()
        self._n_sections = store.n_sections

    def advance(self, z: int) -> Iterator[Event]:
        """Take note that section `z` has affinities, and do what can be done without waiting."""
        self._has_affinities[z] = True
        yield from self._collect(wait=False)

    def finish(self) -> Iterator[Event]:
        """Wait for everything."""
        yield from self._collect(wait=True)

    def _collect(self, *, wait: bool) -> Iterator[Event]:
        while True:
            self._submit()
            numbered = self._number_next(wait=wait)
            while self._edges and (self._edges[0].done() or (wait and not numbered)):
                z = self._edges.popleft().result()
                self._edges_done[z] = True
                done = int(self._edges_done.sum())
                yield SectionDone("fragments", z, done, self._n_sections)
            if not numbered:
                return

    def _submit(self) -> None:
        """Ask for the fragments of the sections ahead, a few at a time to bound the memory."""
        ahead = self._next_number + 2 * max(1, self._config.n_workers)
        while (
            self._next_submit < min(ahead, self._n_sections)
            and self._has_affinities[self._next_submit]
        ):
            z = self._next_submit
            if self._counts[z] < 0:
                self._fragments[z] = self._executor.submit(
                    _make_fragments, self._path, z, self._config
                )
            self._next_submit += 1

    def _number_next(self, *, wait: bool) -> bool:
        """Give the next section its global ids and ask for its edges; False if it must wait."""
        z = self._next_number
        if z >= self._next_submit:
            return False
        if self._counts[z] < 0:
            if not wait and not self._fragments[z].done():
                return False
            fragments = self._fragments.pop(z).result()
            count = int(fragments.max(initial=0))
            if self._offset + count > np.iinfo(np.uint32).max:
                raise ConfigError(
                    f"more than 2³² fragments by section {z}: segment the volume in parts"
                )
            fragments[fragments > 0] += np.uint32(self._offset)
            self._store.write_fragments(z, fragments, count)
            self._counts[z] = count
        self._offset += int(self._counts[z])
        self._next_number += 1
        if not self._edges_done[z]:
            self._edges.append(self._executor.submit(_make_edges, self._path, z))
        return True


class _InlineExecutor:
    """Does the work when it is submitted, in this process."""

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args))
        return future


@contextlib.contextmanager
def _executor(config: SegmentationConfig, volume: EMVolume) -> Iterator[Any]:
    """Worker processes, or none for a small volume; they end with the run, however it ends."""
    small = config.workers is None and np.prod(volume.shape) < _WORKERS_FROM_VOXELS
    if config.n_workers == 0 or small:
        yield _InlineExecutor()
        return
    # loky instead of the standard pool: its workers never import the person's main module again,
    # and one that dies is an error instead of a hang
    from joblib.externals.loky import ProcessPoolExecutor

    executor = ProcessPoolExecutor(max_workers=config.n_workers)
    finished = False
    try:
        yield executor
        finished = True
    finally:
        # what an abandoned run still has in the queue is not worth waiting for
        executor.shutdown(wait=True, kill_workers=not finished)
