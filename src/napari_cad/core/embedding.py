"""Embeddings of single sections, for looking at them.

A section has two embeddings: `embedding`, as the later section of the pair (z − 1, z), from which
its affinities come, and `embedding_prev`, as the earlier one of (z, z + 1). They come from two
decoders and live in different spaces. Only the two embeddings that one pair gives its two sections
may be compared with each other: that is how the network is trained, and what an affinity along z
is.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from napari_cad.core.config import InferenceConfig
from napari_cad.core.device import pick_device
from napari_cad.core.errors import ShapeError
from napari_cad.core.memory_plan import STEP_PER_VOXEL_AND_CHANNEL
from napari_cad.core.network import ShallowFeatures, StudentNetwork, TileWindow, fold_batch_norm
from napari_cad.core.preprocessing import Preprocessing
from napari_cad.core.projection import EmbeddingBasis, Which, fit_basis, sample_voxels
from napari_cad.core.seams import unit_length
from napari_cad.core.tiling import Padding, largest_tile, tile_spans
from napari_cad.core.volume import spread_sections

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_cad.core.intensity import IntensityMapping
    from napari_cad.core.volume import EMVolume

    F32 = npt.NDArray[np.float32]

#: What a basis is fitted on: sections spread over the stack, the middle of each, voxels on a grid.
SAMPLED_SECTIONS = 6
SAMPLED_WINDOW = 384
SAMPLED_VOXELS = 16_384

#: Shallow features that are kept: those of a pair and of the section after it.
_KEPT_SECTIONS = 3

#: Share of the free memory that a pair may take.
_MEMORY_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class PairEmbeddings:
    """What one pair gives its two sections.

    Attributes
    ----------
    z_prev, z : int
        The earlier and the later section.
    embedding_prev, embedding : ndarray, shape (E, Y, X), float32
        Of section `z_prev` and of section `z`; not normalised.
    """

    z_prev: int
    z: int
    embedding_prev: F32
    embedding: F32

    def of(self, which: Which) -> F32:
        """Give one of the two embeddings by name."""
        return self.embedding if which == "embedding" else self.embedding_prev


def pair_of(z: int, which: Which, n_sections: int) -> tuple[int, int]:
    """Which pair gives section `z` its embedding.

    Parameters
    ----------
    z : int
        The section.
    which : {"embedding", "embedding_prev"}
        As the later or as the earlier section of a pair.
    n_sections : int
        Of the volume.

    Returns
    -------
    (z_prev, z_later)
        (z − 1, z) or (z, z + 1); where there is no such neighbour, the section with itself, as
        the method does with the first one.
    """
    if which == "embedding":
        return max(z - 1, 0), z
    return z, min(z + 1, n_sections - 1)


class SectionEmbedder:
    """Embeds single sections of one volume with one student.

    Parameters
    ----------
    network : StudentNetwork
        Left as it is; a folded copy runs.
    volume : EMVolume
        Read one section at a time.
    preprocessing : Preprocessing or IntensityMapping
        Resolved for this volume.
    config : InferenceConfig, optional
        Device, precision, tile and halo.
    """

    def __init__(
        self,
        network: StudentNetwork,
        volume: EMVolume,
        preprocessing: Preprocessing | IntensityMapping,
        config: InferenceConfig | None = None,
    ) -> None:
        config = config or InferenceConfig()
        if not isinstance(preprocessing, Preprocessing):
            preprocessing = Preprocessing(preprocessing)
        self.volume = volume
        self.preprocessing = preprocessing
        self.device = pick_device(config.device, config.precision)
        self.network = fold_batch_norm(network).to(self.device.name)
        self._config = config
        self._height, self._width = preprocessing.network_size(volume.shape[1:])
        self._pads = Padding.to_multiple(self._height), Padding.to_multiple(self._width)
        self._features: OrderedDict[int, ShallowFeatures] = OrderedDict()

    def pair(self, z_prev: int, z: int) -> PairEmbeddings:
        """Embed both sections of a pair.

        Parameters
        ----------
        z_prev, z : int
            Consecutive sections of the volume, or one section twice.

        Returns
        -------
        PairEmbeddings
            Of the volume's own height and width.

        Raises
        ------
        ShapeError
            If the two are not consecutive: the network knows nothing about others.
        """
        return PairEmbeddings(z_prev, z, *self._embed(z_prev, z, ("embedding_prev", "embedding")))

    def one(self, z_prev: int, z: int, which: Which) -> F32:
        """Embed one section of a pair, in little more than half the time that both take.

        Parameters
        ----------
        z_prev, z : int
            See `pair`.
        which : {"embedding", "embedding_prev"}
            That of section `z`, or that of section `z_prev`.

        Returns
        -------
        ndarray, shape (E, Y, X), float32
            Not normalised.
        """
        return self._embed(z_prev, z, (which,))[0]

    @torch.inference_mode()
    def _embed(self, z_prev: int, z: int, wanted: tuple[Which, ...]) -> list[F32]:
        if z - z_prev not in (0, 1):
            raise ShapeError(f"a pair is made of consecutive sections, got {z_prev} and {z}")
        pad_y, pad_x = self._pads
        height = self._height + pad_y.before + pad_y.after
        width = self._width + pad_x.before + pad_x.after
        tile = self._tile(height * width)
        with self.device.autocast():
            if tile is None or tile >= max(height, width):
                made = self._decoded(self._encoded(z_prev), self._encoded(z), wanted)
            else:
                made = self._tiled(z_prev, z, (height, width), tile, wanted)
        return [self._crop(embedding) for embedding in made]

    def _decoded(
        self,
        prev: ShallowFeatures,
        current: ShallowFeatures,
        wanted: tuple[Which, ...],
        window: TileWindow | None = None,
    ) -> list[torch.Tensor]:
        """Run the joint half of the network, and only those decoders that are wanted."""
        network = self.network
        joint = network.join_pair(prev, current, window)
        return [
            network.decoder(joint, current, window)
            if which == "embedding"
            else network.decoder_prev(joint, prev, window)
            for which in wanted
        ]

    def _tile(self, voxels: int) -> int | None:
        """Give the side of a tile; None where the section goes through in one go."""
        if self._config.tile is not None:
            return self._config.tile
        per_voxel = STEP_PER_VOXEL_AND_CHANNEL * self.network.width
        budget = _MEMORY_SHARE * self.device.free_memory()
        if voxels * per_voxel <= budget:
            return None
        return largest_tile(budget / per_voxel, self._config.halo)

    def _encoded(self, z: int) -> ShallowFeatures:
        """Shallow features of a section; the next pair has one of its two sections in common."""
        if z not in self._features:
            self._features[z] = self.network.encode_section(self._load(z).to(self.device.name))
            while len(self._features) > _KEPT_SECTIONS:
                self._features.popitem(last=False)
        self._features.move_to_end(z)
        return self._features[z]

    def _tiled(
        self, z_prev: int, z: int, size: tuple[int, int], tile: int, wanted: tuple[Which, ...]
    ) -> list[torch.Tensor]:
        """Embed tile by tile, each with a halo; the features would fill the memory."""
        sections = torch.cat([self._load(z_prev), self._load(z)])
        out = [torch.empty((1, self.network.embedding_dim, *size)) for _ in wanted]
        for row in tile_spans(size[0], tile, self._config.halo):
            for column in tile_spans(size[1], tile, self._config.halo):
                part = sections[:, :, row.read, column.read].to(self.device.name)
                window = TileWindow(row.read_start, column.read_start, *size)
                full, half = self.network.encode_section(part)
                made = self._decoded(
                    ShallowFeatures(full[:1], half[:1]),
                    ShallowFeatures(full[1:], half[1:]),
                    wanted,
                    window,
                )
                for whole, piece in zip(out, made, strict=True):
                    kept = piece[:, :, row.keep_in_read, column.keep_in_read]
                    whole[:, :, row.keep, column.keep] = kept.float().cpu()
        return out

    def _load(self, z: int) -> torch.Tensor:
        """Read, prepare and pad a section: (1, 1, H, W) float32 in [0, 1]."""
        mapped = self.preprocessing(self.volume.section(z), z=z)
        pads = [(pad.before, pad.after) for pad in self._pads]
        return torch.from_numpy(np.pad(mapped, pads, mode="reflect")[None, None])

    def _crop(self, embedding: torch.Tensor) -> F32:
        """Take the padding off, and go back to the volume's own size."""
        y, x = (pad.before for pad in self._pads)
        kept = embedding[:, :, y : y + self._height, x : x + self._width].float()
        own = self.volume.shape[1:]
        if own != (self._height, self._width):
            kept = F.interpolate(kept, own, mode="bilinear", align_corners=False)
        made: F32 = np.ascontiguousarray(kept[0].cpu().numpy())
        return made


@dataclass(frozen=True, eq=False)
class EmbeddingSamples:
    """Voxels of the sampled sections, for both embeddings; bases are fitted on them when asked.

    Attributes
    ----------
    sections : tuple of int
        The later sections of the sampled pairs.
    embedding, embedding_prev : tuple of ndarray, each of shape (n, E), float32
        Of the later and of the earlier sections.
    """

    sections: tuple[int, ...]
    embedding: tuple[F32, ...]
    embedding_prev: tuple[F32, ...]

    def basis(self, which: Which, *, normalised: bool) -> EmbeddingBasis:
        """Fit the basis of one of the two embeddings; see `fit_basis`."""
        later = which == "embedding"
        return fit_basis(
            self.embedding if later else self.embedding_prev,
            which,
            normalised=normalised,
            sections=self.sections if later else [max(z - 1, 0) for z in self.sections],
        )


class EmbeddingSampler:
    """Embeds a sample of a volume, section by section: sections spread over it, the middle of each.

    The same volume and settings give the same sample.

    Parameters
    ----------
    network, volume, preprocessing, config
        See `SectionEmbedder`.

    Attributes
    ----------
    sections : tuple of int
        The later sections of the pairs to be sampled.
    """

    def __init__(
        self,
        network: StudentNetwork,
        volume: EMVolume,
        preprocessing: Preprocessing | IntensityMapping,
        config: InferenceConfig | None = None,
    ) -> None:
        height, width = volume.shape[1:]
        middle = volume.crop(y=_middle(height), x=_middle(width))
        self._embedder = SectionEmbedder(network, middle, preprocessing, config)
        self._n_sections = volume.n_sections
        # section 0 has nobody before it, and its pair with itself is not like the others
        first = min(1, volume.n_sections - 1)
        chosen = [z + first for z in spread_sections(volume.n_sections - first, SAMPLED_SECTIONS)]
        # a missing section has one colour, which must not take part in choosing the others
        self.sections = tuple(z for z in chosen if np.ptp(middle.section(z)) > 0) or tuple(chosen)
        self._later: list[F32] = []
        self._earlier: list[F32] = []

    @property
    def done(self) -> int:
        """Number of sections that have been sampled."""
        return len(self._later)

    def step(self) -> int:
        """Sample the next section, and give its index."""
        z = self.sections[self.done]
        pair = self._embedder.pair(*pair_of(z, "embedding", self._n_sections))
        self._later.append(sample_voxels(pair.embedding, SAMPLED_VOXELS))
        self._earlier.append(sample_voxels(pair.embedding_prev, SAMPLED_VOXELS))
        return z

    def samples(self) -> EmbeddingSamples:
        """Give what has been sampled, when all has."""
        return EmbeddingSamples(self.sections, tuple(self._later), tuple(self._earlier))


def sample_embeddings(
    network: StudentNetwork,
    volume: EMVolume,
    preprocessing: Preprocessing | IntensityMapping,
    config: InferenceConfig | None = None,
) -> EmbeddingSamples:
    """Embed a sample of a volume in one go; see `EmbeddingSampler`."""
    sampler = EmbeddingSampler(network, volume, preprocessing, config)
    while sampler.done < len(sampler.sections):
        sampler.step()
    return sampler.samples()


def similarity_maps(
    pair: PairEmbeddings, which: Which, y: int, x: int
) -> tuple[dict[int, F32], F32]:
    """Cosine similarity of one voxel to all voxels of its section and of the pair's other one.

    Parameters
    ----------
    pair : PairEmbeddings
        The one pair that holds both sections.
    which : {"embedding", "embedding_prev"}
        In which of its two sections the voxel lies: the later or the earlier one.
    y, x : int
        The voxel.

    Returns
    -------
    maps : dict of int to ndarray, shape (Y, X), float32 in [−1, 1]
        By section. Where a section is paired with itself, there is only that to itself.
    vector : ndarray, shape (E,), float32
        The voxel's embedding, of length 1.

    Raises
    ------
    ShapeError
        If the voxel lies outside.

    Notes
    -----
    Where positive, the similarity to the same voxel of the other section is the affinity along z.
    """
    own = pair.of(which)
    _, height, width = own.shape
    if not (0 <= y < height and 0 <= x < width):
        raise ShapeError(f"voxel ({y}, {x}) lies outside of a section of {height} × {width}")
    vector = unit_length(own[:, y, x])
    z_own, z_other = (pair.z, pair.z_prev) if which == "embedding" else (pair.z_prev, pair.z)
    other = pair.of("embedding_prev" if which == "embedding" else "embedding")
    maps = {z_other: _cosine(other, vector)}
    maps[z_own] = _cosine(own, vector)
    return maps, vector


def _cosine(embedding: F32, vector: F32) -> F32:
    length = np.sqrt(np.einsum("eyx,eyx->yx", embedding, embedding))
    dot = np.tensordot(vector, embedding, axes=1)
    cosine: F32 = np.clip(dot / np.maximum(length, np.float32(1e-12)), -1, 1)
    return cosine


def _middle(length: int) -> tuple[int, int]:
    size = min(length, SAMPLED_WINDOW)
    start = (length - size) // 2
    return start, start + size
