"""Embeddings as colours: three principal components as red, green and blue.

One basis serves the whole volume, so a colour means the same in every section. It is fitted on
a sample, sign and order are fixed, and it can be kept as JSON, so that colours are the same in the
next run too. The components carry no meaning of their own: like colours are like embeddings.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np

from napari_cad.core.errors import ConfigError, ShapeError
from napari_cad.core.seams import unit_length

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    F32 = npt.NDArray[np.float32]

#: Which of a section's two embeddings: as the later section of the pair (z − 1, z), from which its
#: affinities come, or as the earlier one of (z, z + 1). They live in different spaces.
Which = Literal["embedding", "embedding_prev"]

#: Percentiles of the sample that become 0 and 255 in each colour.
_PERCENTILES = (1.0, 99.0)

#: Voxels that are projected at once, to bound the memory.
_CHUNK = 1 << 18


@dataclass(frozen=True)
class EmbeddingBasis:
    """How embeddings become colours; plain numbers only, so that it compares and can be kept.

    Parameters
    ----------
    which : {"embedding", "embedding_prev"}
        Which embedding of a section it was fitted on, and is for.
    normalised : bool
        Whether embeddings are scaled to length 1 first.
    mean : tuple of float
        E numbers, subtracted first.
    components : tuple of tuple of float
        (3, E): directions of red, green and blue, by falling variance; zeros where there are
        fewer than three.
    low, high : tuple of float
        Three numbers each: what becomes 0 and 255.
    explained : tuple of float
        Share of the variance of the sample that each of the three has, in [0, 1].
    sections : tuple of int
        The sections that it was fitted on.
    """

    which: Which
    normalised: bool
    mean: tuple[float, ...]
    components: tuple[tuple[float, ...], ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    explained: tuple[float, ...]
    sections: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.which not in get_args(Which):
            raise ConfigError(
                f"an embedding is one of {', '.join(get_args(Which))}, got {self.which!r}"
            )
        sizes = [len(v) for v in (self.components, self.low, self.high, self.explained)]
        if sizes != [3] * 4 or any(len(c) != len(self.mean) for c in self.components):
            raise ConfigError("a basis has three components, each as long as its mean")

    def project(self, embedding: F32) -> npt.NDArray[np.uint8]:
        """Colour an embedding map.

        Parameters
        ----------
        embedding : ndarray, shape (E, Y, X), float32
            As it leaves the network.

        Returns
        -------
        ndarray, shape (Y, X, 3), uint8
            What lies beyond `low` and `high` is cut off.

        Raises
        ------
        ShapeError
            If it has another number of channels.
        """
        if embedding.ndim != 3 or len(embedding) != len(self.mean):
            raise ShapeError(
                f"this basis is for embeddings of shape ({len(self.mean)}, Y, X), got "
                f"{embedding.shape}"
            )
        flat = embedding.reshape(len(embedding), -1)
        low, high = np.asarray(self.low), np.asarray(self.high)
        scale = np.where(high > low, 255 / np.where(high > low, high - low, 1), 0.0)
        matrix = np.asarray(self.components) * scale[:, None]
        # all of the affine map in two numbers per colour
        offset = -(matrix @ np.asarray(self.mean)) - low * scale
        matrix, offset = matrix.astype(np.float32), offset.astype(np.float32)
        rgb = np.empty((flat.shape[1], 3), np.uint8)
        for start in range(0, flat.shape[1], _CHUNK):
            part = flat[:, start : start + _CHUNK]
            if self.normalised:
                part = unit_length(part)
            levels = matrix @ part + offset[:, None]
            rgb[start : start + _CHUNK] = np.clip(np.rint(levels), 0, 255).T
        return rgb.reshape(*embedding.shape[1:], 3)

    def to_json(self) -> dict[str, Any]:
        """Plain values that `json` can write."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Make a basis from what `to_json` gave.

        Raises
        ------
        ConfigError
            If it is no such thing.
        """
        try:
            made = {key: _tuples(value) for key, value in values.items()}
            return cls(**made)
        except TypeError as error:
            raise ConfigError(f"this is no basis of an embedding map: {error}") from error


def fit_basis(
    samples: Sequence[F32],
    which: Which,
    *,
    normalised: bool = True,
    sections: Sequence[int] = (),
) -> EmbeddingBasis:
    """Fit the principal components of embeddings, incrementally.

    Parameters
    ----------
    samples : sequence of ndarray, each of shape (n, E), float32
        Embeddings of some voxels of each sampled section, as they leave the network; two voxels
        in all at least.
    which : {"embedding", "embedding_prev"}
        Which embedding they are.
    normalised : bool
        Scale them to length 1 first.
    sections : sequence of int
        Where they come from, to be kept with the basis.

    Returns
    -------
    EmbeddingBasis
        The same samples give the same basis: components are ordered by falling variance, and the
        largest entry of each (by magnitude) is positive.

    Raises
    ------
    ShapeError
        If there are fewer than two voxels.

    Notes
    -----
    Ross et al., "Incremental Learning for Robust Visual Tracking", IJCV 2008, in scikit-learn's
    implementation. All E components are carried along, so the result is that of a PCA of all
    samples at once.
    """
    from sklearn.decomposition import IncrementalPCA  # napari's process needs bases, not this

    parts = [np.asarray(part, np.float32) for part in samples if len(part)]
    if sum(len(part) for part in parts) < 2:
        raise ShapeError("a basis is fitted on at least two voxels")
    if normalised:
        parts = [unit_length(part.T).T for part in parts]
    n_channels = parts[0].shape[1]
    pca = IncrementalPCA(n_components=None)
    with np.errstate(invalid="ignore"):  # a sample of equal voxels has no variance to share
        for batch in _batches(parts, n_channels):
            pca.partial_fit(batch.astype(np.float64))
    n = min(3, len(pca.components_))
    components = np.zeros((3, n_channels))
    components[:n] = pca.components_[:n]
    explained = np.zeros(3)
    explained[:n] = np.nan_to_num(pca.explained_variance_ratio_[:n])
    largest = np.take_along_axis(components, np.abs(components).argmax(1)[:, None], axis=1)
    components *= np.where(largest < 0, -1.0, 1.0)
    levels = np.concatenate([(part - pca.mean_) @ components.T for part in parts])
    low, high = np.percentile(levels, _PERCENTILES, axis=0)
    return EmbeddingBasis(
        which,
        normalised,
        mean=_tuples(pca.mean_.tolist()),
        components=_tuples(components.tolist()),
        low=_tuples(low.tolist()),
        high=_tuples(high.tolist()),
        explained=_tuples(explained.tolist()),
        sections=tuple(int(z) for z in sections),
    )


def sample_voxels(embedding: F32, n: int) -> F32:
    """Take about `n` voxels of an embedding map, on a grid.

    Parameters
    ----------
    embedding : ndarray, shape (E, Y, X), float32
        Of one section or a window of it.
    n : int
        How many, at most; always the same ones.

    Returns
    -------
    ndarray, shape (m, E), float32
        A copy.
    """
    _, height, width = embedding.shape
    step = max(1, int(np.ceil(np.sqrt(height * width / n))))
    taken = embedding[:, step // 2 :: step, step // 2 :: step]
    return np.ascontiguousarray(taken.reshape(len(embedding), -1).T)


def _batches(parts: list[F32], n_channels: int) -> list[F32]:
    """Join parts until each batch has as many voxels as the PCA has components."""
    batches: list[F32] = []
    for part in parts:
        if batches and min(len(batches[-1]), len(part)) < n_channels:
            batches[-1] = np.concatenate([batches[-1], part])
        else:
            batches.append(part)
    return batches


def _tuples(value: Any) -> Any:
    """Make tuples of lists, all the way down."""
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value
