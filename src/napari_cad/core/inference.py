"""The student over a volume: section pairs in, stored affinities out, one section at a time.

METHOD: section z is always predicted from the pair (z − 1, z), the first one from the pair with
itself. Its in-section affinities and the affinity to section z − 1 come from that one pair;
embeddings of different pairs never meet. Embeddings live on the device for the length of a step
and are not kept.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_cad.core.affinity import LEVELS, pair_affinities, quantise
from napari_cad.core.config import InferenceConfig
from napari_cad.core.device import Device, pick_device, ran_out_of_memory
from napari_cad.core.errors import DeviceMemoryError
from napari_cad.core.fast_cpu import FastStudent
from napari_cad.core.memory_plan import (
    STEP_PER_VOXEL_AND_CHANNEL,
    TILE_PER_VOXEL_AND_CHANNEL,
)
from napari_cad.core.network import (
    ShallowFeatures,
    StudentNetwork,
    TileWindow,
    fold_batch_norm,
)
from napari_cad.core.preprocessing import Preprocessing
from napari_cad.core.tiling import ALIGNMENT, Padding, Span, largest_tile, smallest_tile, tile_spans

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

    from napari_cad.core.intensity import IntensityMapping
    from napari_cad.core.volume import EMVolume

#: Share of the free memory that a step may plan with.
_MEMORY_SHARE = 0.5


@dataclass(frozen=True)
class SectionAffinities:
    """Affinities of one section.

    Attributes
    ----------
    z : int
        The section's index in the volume.
    affinities : ndarray, shape (3, Y, X), uint8
        Channels z, y, x; level q stands for (q + 0.5) / 256.
    """

    z: int
    affinities: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Plan:
    """How much goes through the network at once."""

    batch: int
    tile: int | None

    def smaller(self, halo: int, longest: int) -> _Plan:
        """Half the batch, or half the tile where the batch is 1.

        Raises
        ------
        DeviceMemoryError
            If the tile is as small as its halo allows.
        """
        if self.batch > 1:
            return _Plan(self.batch // 2, self.tile)
        half = min(self.tile or longest, longest) // 2 // ALIGNMENT * ALIGNMENT
        if half < smallest_tile(halo):
            raise DeviceMemoryError(
                f"the device has too little memory for a tile of {self.tile or longest} voxels "
                f"with a halo of {halo}: free some, choose the CPU, or set a smaller halo"
            )
        return _Plan(1, half)


def _plan(config: InferenceConfig, device: Device, width: int, height: int, length: int) -> _Plan:
    """Choose batch and tile so that a step stays within its share of the free memory."""
    budget = _MEMORY_SHARE * device.free_memory()
    if config.memory is not None and device.kind == "cpu":
        budget = config.memory
    channels = width if device.precision == "float32" else width / 2
    per_voxel = STEP_PER_VOXEL_AND_CHANNEL * channels
    tile = config.tile
    if tile is None and height * length * per_voxel > budget:
        tile = largest_tile(budget / (TILE_PER_VOXEL_AND_CHANNEL * channels), config.halo)
    batch = config.batch
    if batch is None:
        voxels = min(height, tile or height) * min(length, tile or length)
        fitting = int(budget / (voxels * per_voxel))
        batch = max(1, min(8, fitting)) if device.kind == "cuda" else 1
    return _Plan(batch, tile)


class AffinityPredictor:
    """Runs one student on one device.

    Parameters
    ----------
    network : StudentNetwork
        Left as it is; a folded copy runs.
    config : InferenceConfig

    Attributes
    ----------
    device : Device
        What "auto" came to.
    """

    def __init__(self, network: StudentNetwork, config: InferenceConfig | None = None) -> None:
        self.config = config or InferenceConfig()
        self.device = pick_device(self.config.device, self.config.precision)
        folded = fold_batch_norm(network).to(self.device.name)
        folded = folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        fast = self.device.kind == "cpu" and self.device.precision == "float32"
        self.network: StudentNetwork | FastStudent = FastStudent(folded) if fast else folded

    def pair_affinities(
        self,
        prev: ShallowFeatures,
        current: ShallowFeatures,
        window: TileWindow | None = None,
    ) -> torch.Tensor:
        """Affinities of pairs from the shallow features of their sections, as they are stored.

        Parameters
        ----------
        prev, current : ShallowFeatures
            Of the earlier and of the later section of every pair.
        window : TileWindow, optional
            Where the features lie in the whole section, if they are those of a tile.

        Returns
        -------
        Tensor, shape (B, 3, H, W), uint8
        """
        if not isinstance(self.network, FastStudent):
            return quantise(pair_affinities(*self.network.embed_pair(prev, current, window)))
        pairs = zip(prev.single(), current.single(), strict=True)
        return torch.cat([self.network.pair_affinities(*pair, window) for pair in pairs])

    def predict(
        self,
        volume: EMVolume,
        intensity: IntensityMapping | Preprocessing,
        sections: Iterable[int] | None = None,
    ) -> Iterator[SectionAffinities]:
        """Predict the affinities of sections of a volume, in the order given.

        Parameters
        ----------
        volume : EMVolume
            Read one section at a time.
        intensity : IntensityMapping or Preprocessing
            Resolved for this volume. Affinities have the volume's own size, whatever size the
            network sees.
        sections : iterable of int, optional
            Which ones; all by default. Consecutive ones share the encoding of a section.

        Yields
        ------
        SectionAffinities

        Raises
        ------
        DeviceMemoryError
            If even one small tile does not fit on the device.
        """
        wanted = list(range(volume.n_sections) if sections is None else sections)
        if not isinstance(intensity, Preprocessing):
            intensity = Preprocessing(intensity)
        step = _SectionStep(self, volume, intensity)
        # a GPU is told what to do and does it later: while it computes one batch, the next one is
        # read here, and the caller writes the one before
        ahead = 1 if self.device.kind == "cuda" else 0
        in_flight: deque[_Batch] = deque()
        begun = 0
        while begun < len(wanted):
            batch = wanted[begun : begun + step.plan.batch]
            try:
                in_flight.append(step.begin(batch))
            except (RuntimeError, MemoryError) as error:
                if not ran_out_of_memory(error):
                    raise
                step.shrink()
                continue
            begun += len(batch)
            while len(in_flight) > ahead:
                yield from step.finish(in_flight.popleft())
        while in_flight:
            yield from step.finish(in_flight.popleft())


@dataclass(frozen=True)
class _Batch:
    """Affinities of some sections, on their way from the device.

    Attributes
    ----------
    sections : list of int
        Which ones.
    affinities : Tensor, shape (n, 3, H, W), uint8
        In main memory; padded as the network sees them.
    arrived : cuda.Event or None
        Until it has happened they are not there yet.
    """

    sections: list[int]
    affinities: torch.Tensor
    arrived: torch.cuda.Event | None = None


class _SectionStep:
    """One batch of sections of one volume through the network; remembers the last encoding."""

    def __init__(
        self, predictor: AffinityPredictor, volume: EMVolume, preprocessing: Preprocessing
    ) -> None:
        self.predictor = predictor
        self.network = predictor.network
        self.device = predictor.device
        self.config = predictor.config
        self.volume = volume
        self.preprocessing = preprocessing
        height, width = self.size = preprocessing.network_size(volume.shape[1:])
        self.pad_y, self.pad_x = Padding.to_multiple(height), Padding.to_multiple(width)
        self.padded = (
            height + self.pad_y.before + self.pad_y.after,
            width + self.pad_x.before + self.pad_x.after,
        )
        self.plan = _plan(self.config, self.device, self.network.width, *self.padded)
        self._encoded: tuple[int, ShallowFeatures] | None = None
        self._spare: ShallowFeatures | None = None

    def shrink(self) -> None:
        """After running out of memory: forget everything, plan with less."""
        self._encoded = self._spare = None
        self.plan = self.plan.smaller(self.config.halo, max(self.padded))
        if self.device.kind == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def begin(self, sections: list[int]) -> _Batch:
        """Tell the device to predict `sections`; a CPU has done it on return."""
        tile = self.plan.tile
        rows = tile_spans(self.padded[0], tile, self.config.halo)
        columns = tile_spans(self.padded[1], tile, self.config.halo)
        with self.device.autocast():
            if len(rows) == len(columns) == 1:
                return self._on_its_way(sections, self._whole(sections))
            return _Batch(sections, self._tiled(sections, rows, columns))

    def _on_its_way(self, sections: list[int], made: torch.Tensor) -> _Batch:
        """Let the result follow the computation into main memory, without waiting for it."""
        if self.device.kind != "cuda":
            return _Batch(sections, made.cpu())
        # only pinned memory is copied to while the host goes on
        affinities = torch.empty(made.shape, dtype=made.dtype, pin_memory=True)
        affinities.copy_(made, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(torch.cuda.current_stream(made.device))
        return _Batch(sections, affinities, arrived)

    def finish(self, batch: _Batch) -> Iterator[SectionAffinities]:
        """Wait for a batch, and give it section by section at the volume's own size."""
        if batch.arrived is not None:
            batch.arrived.synchronize()
        cropped = self._crop(batch.affinities.numpy())
        for z, affinities in zip(batch.sections, cropped, strict=True):
            yield SectionAffinities(z, affinities)

    def _whole(self, sections: list[int]) -> torch.Tensor:
        """Whole sections at once; the encoding of a section serves both of its pairs."""
        features: dict[int, ShallowFeatures] = dict([self._encoded] if self._encoded else [])
        needed = dict.fromkeys(p for z in sections for p in (max(z - 1, 0), z))
        missing = [z for z in needed if z not in features]
        # never more at once than the plan says: on a CPU, the result of a resumed run then has
        # the same bits as that of one that was never stopped
        for start in range(0, len(missing), self.plan.batch):
            chunk = missing[start : start + self.plan.batch]
            encoded = self._encode(self._load(chunk))
            for i, z in enumerate(chunk):
                features[z] = ShallowFeatures(encoded.full[i : i + 1], encoded.half[i : i + 1])
        prev = _stack([features[max(z - 1, 0)] for z in sections])
        current = _stack([features[z] for z in sections])
        out = self.predictor.pair_affinities(prev, current)
        self._encoded = sections[-1], features.pop(sections[-1])
        self._spare = next(iter(features.values()), None)
        return out

    def _encode(self, image: torch.Tensor) -> ShallowFeatures:
        """Encode sections; on a CPU in the place of features that nobody needs any more."""
        if not isinstance(self.network, FastStudent):
            return self.network.encode_section(image)
        spare, self._spare = self._spare, None
        return self.network.encode_section(image, overwrite=spare)

    def _tiled(self, sections: list[int], rows: list[Span], columns: list[Span]) -> torch.Tensor:
        """Tile by tile; the encodings are made anew, since they would fill the memory."""
        out = torch.empty((len(sections), 3, *self.padded), dtype=torch.uint8)
        needed = list(dict.fromkeys(p for z in sections for p in (max(z - 1, 0), z)))
        image = self._load(needed, on_device=False)
        prev_index = [needed.index(max(z - 1, 0)) for z in sections]
        index = [needed.index(z) for z in sections]
        for row in rows:
            for column in columns:
                tile = image[:, :, row.read, column.read].to(
                    self.device.name, memory_format=torch.channels_last
                )
                window = TileWindow(row.read_start, column.read_start, *self.padded)
                features = self.network.encode_section(tile)
                prev = ShallowFeatures(features.full[prev_index], features.half[prev_index])
                current = ShallowFeatures(features.full[index], features.half[index])
                made = self.predictor.pair_affinities(prev, current, window)
                kept = made[:, :, row.keep_in_read, column.keep_in_read]
                out[:, :, row.keep, column.keep] = kept.cpu()
        return out

    def _load(self, sections: list[int], *, on_device: bool = True) -> torch.Tensor:
        """Read, map and pad sections: (n, 1, H, W) float32 in [0, 1]."""
        pads = (
            (self.pad_y.before, self.pad_y.after),
            (self.pad_x.before, self.pad_x.after),
        )
        # numpy's reflection goes on beyond one length and repeats a single row or column
        mapped = [self.preprocessing(self.volume.section(z), z=z) for z in sections]
        padded = np.stack([np.pad(section, pads, mode="reflect") for section in mapped])
        batch = torch.from_numpy(padded[:, None])
        if not on_device:
            return batch
        if self.device.kind == "cuda":
            batch = batch.pin_memory()  # or the copy waits for what the GPU is at
        return batch.to(self.device.name, memory_format=torch.channels_last, non_blocking=True)

    def _crop(self, out: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Take the padding off, and fill the first row and column of what is left.

        They hold affinities to the padding; the published fill is by reflection. Then back to the
        volume's own size.
        """
        height, width = self.size
        y, x = self.pad_y.before, self.pad_x.before
        kept = np.ascontiguousarray(out[:, :, y : y + height, x : x + width])
        kept[:, 1, 0, :] = kept[:, 1, min(2, height - 1), :] if height > 1 else LEVELS - 1
        kept[:, 2, :, 0] = kept[:, 2, :, min(2, width - 1)] if width > 1 else LEVELS - 1
        own = self.volume.shape[1:]
        if own == self.size:
            return kept
        return np.stack([self.preprocessing.affinities_back(one, own) for one in kept])


def _stack(features: list[ShallowFeatures]) -> ShallowFeatures:
    if len(features) == 1:
        return features[0]
    return ShallowFeatures(
        torch.cat([f.full for f in features]), torch.cat([f.half for f in features])
    )
