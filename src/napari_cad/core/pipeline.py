"""The way of a volume: sections to affinities, to fragments, to a region graph, to segments.

`segment_volume` is a plain generator. It writes everything into a store as it goes, so it can be
abandoned after any event, or killed at any moment, and goes on from there when it is called again.

It is the coordinator of the tasks of `core.section_tasks`: it decides what is done next from the
marks in the store and from what tasks return, which are counts, and leaves voxels to the tasks.
While the network is busy with section z, others make the fragments of the sections before it. The
result does not depend on who they are (`core.engines`), how many, and which is the fastest.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core import section_tasks
from napari_cad.core._fragment_stage import FragmentStage
from napari_cad.core._prediction_stage import (
    PredictionHere,
    PredictionStage,
    PredictionThere,
)
from napari_cad.core.agglomerations import check_agglomeration
from napari_cad.core.cluster import GPU, DaskEngine, open_cluster
from napari_cad.core.engines import Task
from napari_cad.core.events import (
    Event,
    Finished,
    OutOfDomain,
    SectionDone,
    StageStarted,
    Warned,
)
from napari_cad.core.local_engines import open_local
from napari_cad.core.memory_plan import agglomeration_share
from napari_cad.core.store import SegmentationStore, is_store
from napari_cad.core.store_lock import sole_run
from napari_cad.core.torch_memory import give_memory_back

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_cad.core.agreement import Judgement
    from napari_cad.core.checkpoint import Checkpoint
    from napari_cad.core.config import SegmentationConfig
    from napari_cad.core.engines import Engine
    from napari_cad.core.volume import EMVolume

#: Volumes below this are done in the calling process: starting workers would take longer.
_WORKERS_FROM_VOXELS = 4_000_000

#: Mean between-section affinity outside of which the output cannot be right.
_PLAUSIBLE_Z_AFFINITY = (0.03, 0.97)

_FIT_ADVICE = (
    "Fitting the checkpoint to the volume may help; napari-cad fit suggests how, without labels."
)

#: Whether the student fits is judged (`core.agreement`) in volumes from this size on: in smaller
#: ones that would be a good part of the run.
_JUDGED_FROM_VOXELS = 4_000_000

#: Seconds that a scheduler may be without workers before that is said.
_PATIENCE = 5.0


def segment_volume(
    volume: EMVolume,
    checkpoint: Checkpoint,
    config: SegmentationConfig,
    store_path: str | Path,
    *,
    overwrite: bool = False,
    scheduler: str | None = None,
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
    store_path : path or URL
        The store, made if it is not there. One that is takes over another voxel size and origin,
        which no voxel depends on.
    overwrite : bool
        Begin anew if there is a store at that place, whatever it was made from; but never where the
        volume lies in it, or anything else that no run has made.
    scheduler : str, optional
        Address of a dask scheduler, whose workers do everything then; they open store, volume and
        checkpoint by their addresses.

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
        If something else lies at that place, or another run is at it.
    SectionError
        If a task failed for good; what is done stays.
    ClusterError
        If the scheduler does not answer, or a worker cannot do its part.
    """
    started = time.monotonic()
    check_agglomeration(config.agglomeration.merge_function)
    n_sections = volume.n_sections
    with contextlib.ExitStack() as alone, contextlib.ExitStack() as stack:
        engine: Engine
        prediction: PredictionStage
        if scheduler is None:
            prediction = PredictionHere(volume, checkpoint, config)
            config, signature = prediction.prepare()
            engine = stack.enter_context(open_local(_n_processes(config, volume)))
        else:
            engine = cluster = stack.enter_context(open_cluster(scheduler))
            prediction = PredictionThere(cluster, volume, checkpoint, config)
            yield from _wait_for_workers(cluster, scheduler, config.inference.device)
            config, signature = prediction.prepare()
        alone.enter_context(sole_run(store_path))
        # before anything that takes long: whether it can be is what a person wants to know first
        store = _open_or_create(
            store_path, volume, checkpoint, config, signature, overwrite=overwrite
        )
        yield from map(Warned, store.update_place(volume))
        if config.fit.adapt > 0:
            yield StageStarted("adaptation", 1)
            prediction.adapt()
            yield SectionDone("adaptation", n_sections - 1, 1, 1)
        run = uuid.uuid4().hex
        store.scratch.make(run)
        prediction.begin(store, run)

        done = store.sections_done("affinities")
        yield StageStarted("affinities", n_sections, int(done.sum()))
        yield StageStarted("fragments", n_sections, int(store.sections_done("edges").sum()))
        fragments = FragmentStage(store, engine, _PlausibilityCheck())
        judgement = None
        for z in prediction.sections([int(z) for z in np.flatnonzero(~done)]):
            if z is not None:
                done[z] = True
                yield SectionDone("affinities", z, int(done.sum()), n_sections)
                if done.sum() == 3 and _is_worth_judging(volume):  # early, but not too early
                    judgement = prediction.judge_fit()
                fragments.has_affinities(z)
            if judgement is not None and judgement.done():
                yield from _warn_of_misfit(judgement.result())
                judgement = None
            yield from fragments.advance()
            yield from map(Warned, engine.notices())
        yield from fragments.finish()
        if judgement is not None:
            yield from _warn_of_misfit(judgement.result())
        store.scratch.remove()
        # agglomeration takes memory in another process
        del prediction, fragments
        if scheduler is None:
            stack.close()
        give_memory_back()

        yield StageStarted("agglomeration", 1)
        there = isinstance(engine, DaskEngine)
        share = None if config.memory is None else agglomeration_share(config.memory, there=there)
        arguments = (store.address, config.agglomeration, share)
        if there:
            made = Task(engine, "agglomeration", section_tasks.agglomerate_run_there, *arguments)
            notice, n_fragments, n_segments = made.result()
        else:
            notice, n_fragments, n_segments = section_tasks.agglomerate_run(*arguments)
        yield from map(Warned, engine.notices())
        if notice is not None:
            yield notice
        yield SectionDone("agglomeration", n_sections - 1, 1, 1)
    yield Finished(str(store.path), n_fragments, n_segments, time.monotonic() - started)


def _n_processes(config: SegmentationConfig, volume: EMVolume) -> int:
    if config.workers is None and np.prod(volume.shape) < _WORKERS_FROM_VOXELS:
        return 0
    return config.n_workers


def _wait_for_workers(engine: DaskEngine, scheduler: str, device: str) -> Iterator[Warned]:
    """Wait for workers, which a queue may let in much later, and ask them for their versions."""
    gpu = device.startswith("cuda")
    if not engine.wait_for_workers(_PATIENCE, gpu=gpu):
        kind = f"workers with the resource {GPU} (--resources {GPU}=1)" if gpu else "workers"
        yield Warned(f"The scheduler {scheduler} has no {kind} yet; the run waits for the first.")
        while not engine.wait_for_workers(_PATIENCE, gpu=gpu):
            pass
    engine.check_versions()


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

    def __call__(self, z: int, mean_z_affinity: float) -> Iterator[OutOfDomain]:
        if z == 0 or len(self._means) >= 3:  # section 0 is paired with itself
            return
        self._means.append(mean_z_affinity)
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


def _is_worth_judging(volume: EMVolume) -> bool:
    return volume.n_sections > 1 and int(np.prod(volume.shape)) >= _JUDGED_FROM_VOXELS


def _warn_of_misfit(judgement: Judgement | None) -> Iterator[OutOfDomain]:
    """Warn where the student sees other neurites when the stack is turned upside down."""
    if judgement is not None and not judgement.fits:
        yield OutOfDomain(
            "Upside down, small parts of this volume give other neurites than the right way up: "
            f"the agreement is {judgement.agreement:.2f}, and on data of the kind that a "
            f"checkpoint was trained on it is {judgement.limit:.2f} or more, even in parts that "
            f"are hard. {_FIT_ADVICE}"
        )
