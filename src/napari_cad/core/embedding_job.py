"""Embedding maps in a child process: a server for the section on screen, and all sections at once.

The server goes on until it is cancelled. It answers the last request only: whoever scrolls through
a stack wants the section where they stop. What it is asked for beyond the first section (the
neighbours) is made while nobody waits for anything else.

The colours of a stack are chosen from several sections of it, which takes some seconds. Until then
sections come in provisional colours, chosen from the first one that was asked for.
"""

from __future__ import annotations

import queue
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core.events import Event, SectionDone, StageStarted
from napari_cad.core.volume import VolumeSource

# what imports torch is imported where it is needed: the viewer imports the messages

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from napari_cad.core.config import InferenceConfig
    from napari_cad.core.embedding import EmbeddingSampler, SectionEmbedder
    from napari_cad.core.network import StudentNetwork
    from napari_cad.core.preprocessing import Preprocessing
    from napari_cad.core.projection import EmbeddingBasis, Which
    from napari_cad.core.segmentation_job import SegmentationOptions
    from napari_cad.core.store import SegmentationStore
    from napari_cad.core.volume import EMVolume

#: Names of the jobs, as `JobProcess` wants them.
SERVE = f"{__name__}:serve_embeddings"
STORE_MAP = f"{__name__}:store_embedding_map"

#: Stages of their events.
COLOURS, MAP = "colours", "embedding map"

#: Embeddings that are kept for clicks, in bytes; those of one pair in any case.
_KEPT_BYTES = 512 << 20


# -------------------------------------------------------------------- what goes to and fro


@dataclass(frozen=True)
class WantedMaps:
    """Ask for maps; replaces the request before, as far as it has not been answered.

    Attributes
    ----------
    sections : tuple of int
        In the order in which they are wanted: the one on screen, then its neighbours.
    which : {"embedding", "embedding_prev"}
        Which embedding of a section.
    normalised : bool
        Whether embeddings are scaled to length 1.
    """

    sections: tuple[int, ...]
    which: Which
    normalised: bool


@dataclass(frozen=True)
class PickedVoxel:
    """Ask for the similarity of all voxels to this one; replaces the voxel before."""

    z: int
    y: int
    x: int
    which: Which


@dataclass(frozen=True, eq=False)
class BasisReady(Event):
    """The colours of one kind of map are fixed."""

    basis: EmbeddingBasis


@dataclass(frozen=True, eq=False)
class SectionMap(Event):
    """The map of a section, `rgb` of shape (Y, X, 3), uint8.

    `provisional` where its colours are not those of the stack, which come later.
    """

    z: int
    which: Which
    normalised: bool
    rgb: npt.NDArray[np.uint8]
    provisional: bool = False


@dataclass(frozen=True, eq=False)
class Similarities(Event):
    """Cosine similarities to a voxel: section → (Y, X) float32 in [−1, 1]."""

    picked: PickedVoxel
    maps: dict[int, npt.NDArray[np.float32]]


# -------------------------------------------------------------------- the jobs


def serve_embeddings(
    volume: EMVolume | VolumeSource,
    checkpoint: str,
    options: SegmentationOptions,
    requests: queue.SimpleQueue[Any],
    run: str | None = None,
) -> Iterator[Event]:
    """Answer requests for maps and similarities until there comes a None.

    Parameters
    ----------
    volume : EMVolume or VolumeSource
        The volume, or where to open it.
    checkpoint : str
        default, the name of a published checkpoint, or a path.
    options : SegmentationOptions
        Intensity mapping, device, and how the student is fitted to the stack.
    requests : queue
        Of `WantedMaps` and `PickedVoxel`; see `napari_cad.core.jobs.Requests`.
    run : str, optional
        Path of a store that was made from this volume with this checkpoint: it has the settings,
        and keeps the basis.

    Yields
    ------
    Event
        Before the basis of a kind of map is there, provisional `SectionMap`s of the sections that
        are asked for first, with `StageStarted` and `SectionDone` of the stage "colours" while
        the basis is fitted; then `BasisReady`, and `SectionMap`. `Similarities` at any time.

    Raises
    ------
    StoreMismatchError
        If the run was made from another volume or checkpoint.
    NapariCadError
        See `open_source`, `resolve_checkpoint` and `IntensityMapping`.
    """
    server = _Server(_Setting.open(volume, checkpoint, options, run))
    wanted: deque[int] = deque()
    kind: tuple[Which, bool] = ("embedding", True)
    while True:
        newest = _newest(requests, wait=not wanted)
        if newest is None:
            return
        if newest.wanted is not None:
            wanted = deque(newest.wanted.sections)
            kind = (newest.wanted.which, newest.wanted.normalised)
        if newest.picked is not None:
            yield server.similarities(newest.picked)
        elif wanted:
            if server.has_basis(*kind):
                yield server.section_map(wanted.popleft(), *kind)
            elif server.finds_basis(*kind):
                yield server.basis_ready(*kind)
            elif not server.has_provisional(wanted[0], *kind):
                yield server.provisional_map(wanted[0], *kind)
            else:
                # one section of the sample only: then somebody may want something else
                yield from server.sample()


def store_embedding_map(
    volume: EMVolume | VolumeSource,
    checkpoint: str,
    options: SegmentationOptions,
    run: str,
    which: Which = "embedding",
    normalised: bool = True,
) -> Iterator[Event]:
    """Write the maps of all sections into the store of a run, or go on with it.

    Parameters
    ----------
    volume, checkpoint, options, run
        See `serve_embeddings`.
    which, normalised
        See `WantedMaps`.

    Yields
    ------
    Event
        `StageStarted` and `SectionDone` of the stages "colours" and "embedding map".

    Raises
    ------
    NapariCadError
        See `serve_embeddings`.
    """
    server = _Server(_Setting.open(volume, checkpoint, options, run))
    stored = server.stored(which, normalised)
    while not server.finds_basis(which, normalised):
        yield from server.sample()
    yield server.basis_ready(which, normalised)
    done = stored.sections_done()
    yield StageStarted(MAP, len(done), int(done.sum()))
    for z in np.flatnonzero(~done).tolist():
        stored.write(z, server.section_map(z, which, normalised).rgb)
        done[z] = True
        yield SectionDone(MAP, z, int(done.sum()), len(done))


# -------------------------------------------------------------------- how they do it


@dataclass(frozen=True)
class _Newest:
    """The last request of each kind that has not been looked at."""

    wanted: WantedMaps | None
    picked: PickedVoxel | None


def _newest(requests: queue.SimpleQueue[Any], *, wait: bool) -> _Newest | None:
    """Empty the queue, keeping what has not been replaced; None where it is to end."""
    found: dict[type, Any] = {}
    try:
        while True:
            request = requests.get(block=wait)
            if request is None:
                return None
            found[type(request)] = request
            wait = False
    except queue.Empty:
        return _Newest(found.get(WantedMaps), found.get(PickedVoxel))


@dataclass(frozen=True)
class _Setting:
    """Everything that decides the embeddings of a volume."""

    volume: EMVolume
    network: StudentNetwork
    preprocessing: Preprocessing
    inference: InferenceConfig
    store: SegmentationStore | None

    @classmethod
    def open(
        cls,
        volume: EMVolume | VolumeSource,
        checkpoint: str,
        options: SegmentationOptions,
        run: str | None,
    ) -> _Setting:
        from napari_cad.core.adaptation import adapt
        from napari_cad.core.device import pick_device
        from napari_cad.core.preprocessing import Preprocessing
        from napari_cad.core.readers import open_source
        from napari_cad.core.registry import resolve_checkpoint
        from napari_cad.core.store import SegmentationStore

        if isinstance(volume, VolumeSource):
            volume = open_source(volume)
        loaded = resolve_checkpoint(checkpoint)
        store = None if run is None else SegmentationStore.open(run, mode="a")
        if store is None:
            config = options.config(volume, loaded.metadata)
        else:
            made_from = {"volume": volume.signature(), "checkpoint": loaded.sha256}
            store.check_signature({**store.signature, **made_from})
            config = store.config
        preprocessing = Preprocessing.of(config.intensity.resolve(volume), config.fit)
        network = adapt(
            loaded.build(),
            volume,
            preprocessing,
            strength=config.fit.adapt,
            n_sections=config.fit.sampled_sections,
            device=pick_device(options.inference.device, options.inference.precision).name,
        )
        return cls(volume, network, preprocessing, options.inference, store)

    def embedder(self) -> SectionEmbedder:
        from napari_cad.core.embedding import SectionEmbedder

        return SectionEmbedder(self.network, self.volume, self.preprocessing, self.inference)


class _Server:
    """Makes maps of a volume, with the bases and the last embeddings at hand."""

    def __init__(self, setting: _Setting) -> None:
        self._setting = setting
        self._embedder = setting.embedder()
        self._sampler: EmbeddingSampler | None = None
        self._provisional: dict[tuple[Which, bool], EmbeddingBasis] = {}
        self._shown: set[tuple[int, Which, bool]] = set()
        self._bases: dict[tuple[Which, bool], EmbeddingBasis] = {}
        self._kept: OrderedDict[tuple[int, int, Which], npt.NDArray[np.float32]] = OrderedDict()

    def stored(self, which: Which, normalised: bool) -> Any:
        store = self._setting.store
        return None if store is None else store.embedding_map(which, normalised=normalised)

    def has_basis(self, which: Which, normalised: bool) -> bool:
        return (which, normalised) in self._bases

    def finds_basis(self, which: Which, normalised: bool) -> bool:
        """Whether there is a basis now: in the store, or from a sample that is complete."""
        stored = self.stored(which, normalised)
        basis: EmbeddingBasis | None = None if stored is None else stored.basis
        sampler = self._sampler
        if basis is None and sampler is not None and sampler.done == len(sampler.sections):
            basis = sampler.samples().basis(which, normalised=normalised)
            if stored is not None:
                stored.keep_basis(basis)
        if basis is not None:
            self._bases[which, normalised] = basis
        return basis is not None

    def basis_ready(self, which: Which, normalised: bool) -> BasisReady:
        """Tell of a basis that has been found."""
        return BasisReady(self._bases[which, normalised])

    def sample(self) -> Iterator[Event]:
        """Sample one more section for the bases."""
        from napari_cad.core.embedding import EmbeddingSampler

        if self._sampler is None:
            setting = self._setting
            self._sampler = EmbeddingSampler(
                setting.network, setting.volume, setting.preprocessing, setting.inference
            )
            yield StageStarted(COLOURS, len(self._sampler.sections))
        z = self._sampler.step()
        yield SectionDone(COLOURS, z, self._sampler.done, len(self._sampler.sections))

    def has_provisional(self, z: int, which: Which, normalised: bool) -> bool:
        """Whether a section has been given in provisional colours."""
        return (z, which, normalised) in self._shown

    def provisional_map(self, z: int, which: Which, normalised: bool) -> SectionMap:
        """Colour a section as the first one of its kind that was asked for needs it."""
        from napari_cad.core.embedding import SAMPLED_VOXELS, pair_of
        from napari_cad.core.projection import fit_basis, sample_voxels

        kind = (which, normalised)
        embedding = self._embedding(*pair_of(z, which, self._setting.volume.n_sections), which)
        if kind not in self._provisional:
            sample = sample_voxels(embedding, SAMPLED_VOXELS)
            self._provisional[kind] = fit_basis([sample], which, normalised=normalised)
        self._shown.add((z, *kind))
        return SectionMap(z, *kind, self._provisional[kind].project(embedding), provisional=True)

    def section_map(self, z: int, which: Which, normalised: bool) -> SectionMap:
        from napari_cad.core.embedding import pair_of

        pair = pair_of(z, which, self._setting.volume.n_sections)
        rgb = self._bases[which, normalised].project(self._embedding(*pair, which))
        return SectionMap(z, which, normalised, rgb)

    def similarities(self, picked: PickedVoxel) -> Similarities:
        from napari_cad.core.embedding import PairEmbeddings, pair_of, similarity_maps

        pair = pair_of(picked.z, picked.which, self._setting.volume.n_sections)
        prev, later = (self._embedding(*pair, w) for w in ("embedding_prev", "embedding"))
        maps, _ = similarity_maps(
            PairEmbeddings(*pair, prev, later), picked.which, picked.y, picked.x
        )
        return Similarities(picked, maps)

    def _embedding(self, z_prev: int, z: int, which: Which) -> npt.NDArray[np.float32]:
        """Embed one section of a pair, unless it is one of the last ones."""
        key = (z_prev, z, which)
        if key not in self._kept:
            made = self._kept[key] = self._embedder.one(z_prev, z, which)
            while len(self._kept) > max(2, _KEPT_BYTES // made.nbytes):
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
