"""The 2D Y-shape student network.

Liu et al., "Cross-Dimension Affinity Distillation for 3D EM Neuron Segmentation", CVPR 2024,
section 3.1 and its supplement: two consecutive sections enter through one shared shallow encoder,
are joined for the deep half of a U-Net, and leave through two separate decoders, one per section.

Written from the published description; the parameter names are ours. `published_keys` in
`napari_cad.core.checkpoint` translates them to the names of the published checkpoints.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

#: Height and width of the input must be multiples of this: the network pools four times.
SIZE_MULTIPLE = 16

#: Channels of the last decoder stage. The published network has 32 whatever its width.
_LAST_STAGE_CHANNELS = 32


class DoubleConv(nn.Sequential):
    """Twice a 3×3 convolution, batch norm and ReLU; height and width stay as they are."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


def _halve(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2)


class TileWindow(NamedTuple):
    """Where a tile lies in the whole (padded) section, in voxels; all multiples of 16.

    Convolution and pooling do not care, but bilinear up-sampling with aligned corners samples at
    positions that depend on the length of the whole axis: it drifts by half a voxel from one end
    to the other. A tile computes what the whole section would only if it knows where it is.
    """

    y_start: int
    x_start: int
    section_height: int
    section_width: int


def double(x: Tensor, stride: int, window: TileWindow | None = None) -> Tensor:
    """Up-sample by two, bilinearly, corners aligned.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W), float
        A feature map.
    stride : int
        How many voxels of the section one pixel of `x` stands for.
    window : TileWindow, optional
        Where `x` lies in the whole section, if it is that of a tile.

    Returns
    -------
    Tensor, shape (B, C, 2 H, 2 W)
    """
    if window is None:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    x = _double_axis(x, 2, window.y_start // stride, window.section_height // stride)
    return _double_axis(x, 3, window.x_start // stride, window.section_width // stride)


def _double_and_join(skip: Tensor, x: Tensor, stride: int, window: TileWindow | None) -> Tensor:
    """Up-sample `x` to the size of `skip` and put it behind `skip` on the channel axis."""
    return torch.cat([skip, double(x, stride, window)], dim=1)


def _double_axis(x: Tensor, dim: int, start: int, full_length: int) -> Tensor:
    """Up-sample one axis of a tile as if the whole axis of `full_length` were up-sampled."""
    length = x.shape[dim]
    step = (full_length - 1) / (2 * full_length - 1)
    at = torch.arange(2 * start, 2 * (start + length), dtype=torch.float64) * step - start
    at = at.clamp_(0, length - 1)  # only in the halo does a tile look beyond itself
    low = at.floor().long()
    weight = (at - low).to(x.dtype).view([-1 if d == dim else 1 for d in range(x.ndim)])
    high = (low + 1).clamp_(max=length - 1)
    low, high, weight = low.to(x.device), high.to(x.device), weight.to(x.device)
    return torch.lerp(x.index_select(dim, low), x.index_select(dim, high), weight)


class ShallowFeatures(NamedTuple):
    """What the shared shallow encoder makes of one section.

    `full` has shape (B, f, H, W), `half` has shape (B, 2f, H/2, W/2). They depend on that section
    alone, so those of section z serve both the pair (z − 1, z) and the pair (z, z + 1).
    """

    full: Tensor
    half: Tensor

    def single(self) -> list[ShallowFeatures]:
        """Those of every section of the batch, each a batch of one."""
        pairs = zip(torch.split(self.full, 1), torch.split(self.half, 1), strict=True)
        return [ShallowFeatures(full, half) for full, half in pairs]


class SectionDecoder(nn.Module):
    """The shallow half of the decoder for one of the two sections of a pair."""

    def __init__(self, width: int, embedding_dim: int) -> None:
        super().__init__()
        self.stage_half = DoubleConv(4 * width, width)
        self.stage_full = DoubleConv(2 * width, _LAST_STAGE_CHANNELS)
        self.head = nn.Conv2d(_LAST_STAGE_CHANNELS, embedding_dim, 1)

    def forward(
        self, joint: Tensor, skip: ShallowFeatures, window: TileWindow | None = None
    ) -> Tensor:
        """Decode the joint features (B, 2f, H/4, W/4) to an embedding (B, E, H, W)."""
        x = self.stage_half(_double_and_join(skip.half, joint, 4, window))
        x = self.stage_full(_double_and_join(skip.full, x, 2, window))
        embedding: Tensor = self.head(x)
        return embedding


class StudentNetwork(nn.Module):
    """The 2D Y-shape student: a pair of sections in, an embedding map of each out.

    Parameters
    ----------
    width : int
        Channels of the first stage, f. The published students have 16.
    embedding_dim : int
        Channels E of an embedding. The published students have 16.

    Notes
    -----
    The embeddings leave the network as they are: neither normalised nor squashed. Section z has
    two of them, one as the later section of the pair (z − 1, z) and one as the earlier section of
    (z, z + 1); they live in different spaces and must not be compared with each other.
    """

    def __init__(self, width: int = 16, embedding_dim: int = 16) -> None:
        super().__init__()
        self.width = width
        self.embedding_dim = embedding_dim
        f = width
        self.encode_full = DoubleConv(1, f)
        self.encode_half = DoubleConv(f, 2 * f)
        self.encode_quarter = DoubleConv(4 * f, 4 * f)
        self.encode_eighth = DoubleConv(4 * f, 8 * f)
        self.encode_sixteenth = DoubleConv(8 * f, 8 * f)
        self.decode_eighth = DoubleConv(16 * f, 4 * f)
        self.decode_quarter = DoubleConv(8 * f, 2 * f)
        self.decoder_prev = SectionDecoder(f, embedding_dim)
        self.decoder = SectionDecoder(f, embedding_dim)

    def encode_section(self, section: Tensor) -> ShallowFeatures:
        """Encode one section of a pair.

        Parameters
        ----------
        section : Tensor, shape (B, 1, H, W), float
            Intensities in [0, 1]; H and W multiples of 16.

        Returns
        -------
        ShallowFeatures
        """
        full = self.encode_full(section)
        return ShallowFeatures(full, self.encode_half(_halve(full)))

    def embed_pair(
        self,
        prev: ShallowFeatures,
        current: ShallowFeatures,
        window: TileWindow | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Embed both sections of a pair from their shallow features.

        Parameters
        ----------
        prev, current : ShallowFeatures
            Of section z − 1 and of section z.
        window : TileWindow, optional
            Where the features lie in the whole section, if they are those of a tile.

        Returns
        -------
        embedding_prev, embedding : Tensor, shape (B, E, H, W)
            Of section z − 1 and of section z; not normalised.
        """
        joint = self.join_pair(prev, current, window)
        return self.decoder_prev(joint, prev, window), self.decoder(joint, current, window)

    def join_pair(
        self,
        prev: ShallowFeatures,
        current: ShallowFeatures,
        window: TileWindow | None = None,
    ) -> Tensor:
        """Give what both decoders start from, (B, 2f, H/4, W/4); arguments as of `embed_pair`."""
        half = torch.cat([prev.half, current.half], dim=1)
        quarter = self.encode_quarter(_halve(half))
        eighth = self.encode_eighth(_halve(quarter))
        joint = self.encode_sixteenth(_halve(eighth))
        joint = self.decode_eighth(_double_and_join(eighth, joint, 16, window))
        decoded: Tensor = self.decode_quarter(_double_and_join(quarter, joint, 8, window))
        return decoded

    def forward(self, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Embed a pair of sections.

        Parameters
        ----------
        pair : Tensor, shape (B, 2, H, W), float
            Section z − 1 and section z, intensities in [0, 1]; H and W multiples of 16.

        Returns
        -------
        embedding_prev, embedding : Tensor, shape (B, E, H, W)
            Of section z − 1 and of section z; not normalised.

        Raises
        ------
        ValueError
            If `pair` does not have two channels, or H or W is no multiple of 16.
        """
        if pair.ndim != 4 or pair.shape[1] != 2:
            raise ValueError(
                f"a pair of sections has shape (batch, 2, height, width), got {tuple(pair.shape)}"
            )
        if pair.shape[2] % SIZE_MULTIPLE or pair.shape[3] % SIZE_MULTIPLE:
            raise ValueError(
                f"height and width must be multiples of {SIZE_MULTIPLE}, got "
                f"{tuple(pair.shape[2:])}: pad the section first"
            )
        return self.embed_pair(self.encode_section(pair[:, :1]), self.encode_section(pair[:, 1:]))


def fold_batch_norm(network: StudentNetwork) -> StudentNetwork:
    """Copy a network with every batch norm folded into the convolution before it.

    In evaluation mode a batch norm is an affine map per channel, so the folded network computes
    the same up to rounding, with a third of the memory traffic.

    Parameters
    ----------
    network : StudentNetwork
        Left as it is.

    Returns
    -------
    StudentNetwork
        On the same device, in evaluation mode; it can neither be trained nor saved as a
        checkpoint.
    """
    folded = copy.deepcopy(network).eval()
    for module in list(folded.modules()):
        if isinstance(module, DoubleConv):
            for conv_index in (0, 3):
                conv, norm = module[conv_index], module[conv_index + 1]
                assert isinstance(conv, nn.Conv2d)
                assert isinstance(norm, nn.BatchNorm2d)
                module[conv_index] = fuse_conv_bn_eval(conv, norm)
                module[conv_index + 1] = nn.Identity()
    return folded.requires_grad_(False)
