"""The 3D teacher network: a residual symmetric 3D U-Net.

Lee et al., "Superhuman Accuracy on the SNEMI3D Connectomics Challenge", 2017 (arXiv 1706.00120),
with batch norm and additive skips, in the size that Liu et al. (CVPR 2024) distil from. Written
from the published descriptions; it maps a stack of sections to one embedding per voxel.

The teacher serves training, and the comparison of its embeddings with the student's; segmenting
never needs it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_cad import __version__
from napari_cad.core.errors import CheckpointError, ConfigError
from napari_cad.core.intensity import IntensityMapping

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Neighbour vectors (dz, dy, dx) in voxels of the teacher's affinities: channel i relates p to
#: p + TEACHER_OFFSETS[i]. The first three are those of the student.
TEACHER_OFFSETS = (
    *((-1, 0, 0), (0, -1, 0), (0, 0, -1)),
    *((-2, 0, 0), (0, -3, 0), (0, 0, -3)),
    *((-3, 0, 0), (0, -9, 0), (0, 0, -9)),
    *((-4, 0, 0), (0, -27, 0), (0, 0, -27)),
)

#: Channels of the five levels as published: 1,478,036 parameters.
PUBLISHED_WIDTHS = (28, 36, 48, 64, 80)

#: Says in a file that it holds this network.
ARCHITECTURE = "residual-unet-3d"

_HEADER_KEY = "napari_cad"
_FORMAT_VERSION = 1


class ResidualBlock(nn.Module):
    """One convolution within the section, then two in 3D around which it is passed on."""

    def __init__(self, in_channels: int, out_channels: int, norm_momentum: float) -> None:
        super().__init__()

        def norm() -> nn.BatchNorm3d:
            return nn.BatchNorm3d(out_channels, momentum=norm_momentum)

        self.first = nn.Sequential(
            nn.Conv3d(in_channels, out_channels, (1, 3, 3), padding=(0, 1, 1), bias=False),
            norm(),
            nn.ELU(inplace=True),
        )
        self.residual = nn.Sequential(
            nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False),
            norm(),
            nn.ELU(inplace=True),
            nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False),
        )
        self.norm = norm()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, D, H, W) to (B, out, D, H, W)."""
        x = self.first(x)
        return F.elu(self.norm(x + self.residual(x)))


class UpBlock(nn.Module):
    """Double height and width, add the skip, and refine."""

    def __init__(self, in_channels: int, out_channels: int, norm_momentum: float) -> None:
        super().__init__()
        self.project = nn.Conv3d(in_channels, out_channels, 1)
        self.norm = nn.BatchNorm3d(out_channels, momentum=norm_momentum)
        self.block = ResidualBlock(out_channels, out_channels, norm_momentum)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (B, in, D, H, W) and the skip (B, out, D, 2H, 2W) to (B, out, D, 2H, 2W)."""
        # a 1×1×1 convolution and an interpolation whose weights sum to 1 commute: projecting
        # first gives the same with a quarter of the multiplications
        x = F.interpolate(
            self.project(x), scale_factor=(1, 2, 2), mode="trilinear", align_corners=True
        )
        refined: Tensor = self.block(F.elu(self.norm(x + skip)))
        return refined


class TeacherNetwork(nn.Module):
    """The 3D teacher: a stack of sections in, an embedding of every voxel out.

    Parameters
    ----------
    widths : sequence of int
        Channels of the levels from full resolution down; each further level halves height and
        width, never the number of sections. The published teacher has (28, 36, 48, 64, 80).
    embedding_dim : int
        Channels E of an embedding.
    norm_momentum : float
        Of the running statistics of the batch norms. 0.001 as published forgets nothing for
        thousands of steps; short trainings want more.

    Raises
    ------
    ConfigError
        If there are no widths, or a number is not positive.

    Notes
    -----
    The embeddings leave the network as they are: neither normalised nor squashed.
    """

    def __init__(
        self,
        widths: Sequence[int] = PUBLISHED_WIDTHS,
        embedding_dim: int = 16,
        norm_momentum: float = 0.001,
    ) -> None:
        super().__init__()
        self.widths = tuple(int(width) for width in widths)
        if not self.widths or min(*self.widths, embedding_dim) < 1:
            raise ConfigError(
                f"a teacher has at least one level and positive numbers of channels, got widths "
                f"{self.widths} and embedding dimension {embedding_dim}"
            )
        self.embedding_dim = embedding_dim
        self.norm_momentum = norm_momentum
        first = self.widths[0]
        self.embed_in = nn.Conv3d(1, first, (1, 5, 5), padding=(0, 2, 2))
        self.encoder = nn.ModuleList(
            ResidualBlock(a, b, norm_momentum)
            for a, b in zip((first, *self.widths), self.widths, strict=False)
        )
        self.decoder = nn.ModuleList(
            UpBlock(b, a, norm_momentum)
            for a, b in reversed(list(zip(self.widths, self.widths[1:], strict=False)))
        )
        self.embed_out = nn.Conv3d(first, first, (1, 5, 5), padding=(0, 2, 2))
        self.head = nn.Conv3d(first, embedding_dim, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def size_multiple(self) -> int:
        """Height and width of the input must be multiples of this: 16 with five levels."""
        return int(2 ** (len(self.widths) - 1))

    def forward(self, stack: Tensor) -> Tensor:
        """Embed the voxels of a stack.

        Parameters
        ----------
        stack : Tensor, shape (B, 1, D, H, W), float
            Intensities in [0, 1]; any number of sections D, height and width multiples of
            `size_multiple`. Published: 18 × 160 × 160.

        Returns
        -------
        Tensor, shape (B, E, D, H, W), float
            Not normalised.

        Raises
        ------
        ValueError
            If `stack` does not have one channel, or its height or width is no such multiple.
        """
        if stack.ndim != 5 or stack.shape[1] != 1:
            raise ValueError(
                "a stack of sections has shape (batch, 1, sections, height, width), got "
                f"{tuple(stack.shape)}"
            )
        if stack.shape[3] % self.size_multiple or stack.shape[4] % self.size_multiple:
            raise ValueError(
                f"height and width must be multiples of {self.size_multiple}, got "
                f"{tuple(stack.shape[3:])}: pad the sections first"
            )
        x = F.elu(self.embed_in(stack))
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            if level:
                skips.append(x)
                x = F.max_pool3d(x, (1, 2, 2))
            x = block(x)
        for block in self.decoder:
            x = block(x, skips.pop())
        embedding: Tensor = self.head(F.elu(self.embed_out(x)))
        return embedding


def offset_cosine(normalised: Tensor, offset: Sequence[int]) -> Tensor:
    """Cosine similarity of every voxel p with its neighbour p + offset.

    Parameters
    ----------
    normalised : Tensor, shape (B, E, D, H, W), float
        Embeddings of length 1 along axis 1.
    offset : sequence of int
        (dz, dy, dx) in voxels, each 0 or negative.

    Returns
    -------
    Tensor, shape (B, D − |dz|, H − |dy|, W − |dx|), float in [−1, 1]
        Only voxels whose neighbour exists; element 0 belongs to voxel −offset. Empty where no
        voxel has one.
    """
    sizes = normalised.shape[2:]
    later, earlier = normalised, normalised
    for axis, (size, step) in enumerate(zip(sizes, offset, strict=True), start=2):
        length = max(0, size + step)
        later = later.narrow(axis, size - length, length)
        earlier = earlier.narrow(axis, 0, length)
    return (later * earlier).sum(1)


def teacher_affinities(embedding: Tensor) -> Tensor:
    """Affinities of the three nearest neighbours, as the student has them.

    Parameters
    ----------
    embedding : Tensor, shape (B, E, D, H, W), float
        Of the teacher; need not be normalised.

    Returns
    -------
    Tensor, shape (B, 3, D, H, W), float32 in [0, 1]
        Channels z, y, x: cosine similarities with their negative part cut off. The first section,
        row and column, which have no neighbour, repeat the second (1 where there is none).
    """
    normalised = F.normalize(embedding.float(), dim=1, eps=1e-12)
    channels = []
    for axis, offset in enumerate(TEACHER_OFFSETS[:3], start=1):
        cosine = offset_cosine(normalised, offset)
        if cosine.shape[axis]:
            first = cosine.narrow(axis, 0, 1)
        else:
            first = torch.ones_like(normalised[:, 0].narrow(axis, 0, 1))
        channels.append(torch.cat([first, cosine], dim=axis))
    return torch.stack(channels, dim=1).clamp(0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class TeacherMetadata:
    """What is needed to use a teacher rightly, and where it comes from.

    Parameters
    ----------
    name : str
        Short name, for lists.
    widths : tuple of int
        Channels of its levels.
    embedding_dim : int
        Channels of an embedding.
    norm_momentum : float
        Of its batch norms, for training on.
    voxel_size : tuple of float, optional
        (z, y, x) in nm of the training data; None = not known.
    intensity : IntensityMapping
        How the numbers in a file become the intensities that it was trained on.
    training_data, licence, code_version, notes : str
        As of a student's checkpoint.
    """

    name: str
    widths: tuple[int, ...] = PUBLISHED_WIDTHS
    embedding_dim: int = 16
    norm_momentum: float = 0.001
    voxel_size: tuple[float, float, float] | None = None
    intensity: IntensityMapping = field(default_factory=IntensityMapping)
    training_data: str = ""
    licence: str = ""
    code_version: str = __version__
    notes: str = ""


def save_teacher(
    path: str | os.PathLike[str], teacher: TeacherNetwork, metadata: TeacherMetadata
) -> None:
    """Save a teacher as safetensors with its metadata as JSON in the header.

    Parameters
    ----------
    path : str or Path
        By convention `NAME.safetensors`; an existing file is replaced, whole or not at all.
    teacher : TeacherNetwork
        Of the widths and the embedding dimension that the metadata say.
    metadata : TeacherMetadata
        What stands beside the weights.

    Raises
    ------
    CheckpointError
        If the metadata say another size than the network has, or a weight is not finite.
    """
    path = Path(path).expanduser()
    told = (tuple(metadata.widths), metadata.embedding_dim)
    if told != (teacher.widths, teacher.embedding_dim):
        raise CheckpointError(
            f"metadata with widths {told[0]} and embedding dimension {told[1]} for a teacher with "
            f"{teacher.widths} and {teacher.embedding_dim}"
        )
    state_dict = {k: v.detach().cpu().contiguous() for k, v in teacher.state_dict().items()}
    bad = [name for name, value in state_dict.items() if not torch.isfinite(value).all()]
    if bad:
        raise CheckpointError(
            f"a teacher with NaN or infinite weights was to be saved as {path.name} ({bad[0]}, "
            f"{len(bad)} entries in all): its training went wrong"
        )
    values = asdict(metadata) | {
        "architecture": ARCHITECTURE,
        "format_version": _FORMAT_VERSION,
        "intensity": metadata.intensity.to_json(),
    }
    text = json.dumps(values, sort_keys=True, allow_nan=False)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(safetensors.torch.save(state_dict, metadata={_HEADER_KEY: text}))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def is_teacher(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file was written by `save_teacher`; its weights are not read."""
    try:
        with safetensors.safe_open(Path(path).expanduser(), framework="pt") as file:
            values = json.loads((file.metadata() or {}).get(_HEADER_KEY, "null"))
    except (OSError, ValueError, safetensors.SafetensorError):
        return False
    return isinstance(values, dict) and values.get("architecture") == ARCHITECTURE


def load_teacher(path: str | os.PathLike[str]) -> tuple[TeacherNetwork, TeacherMetadata]:
    """Load a teacher that `save_teacher` wrote.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    teacher : TeacherNetwork
        On the CPU, in evaluation mode.
    metadata : TeacherMetadata
        What stands beside the weights.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or no teacher.
    """
    path = Path(path).expanduser()
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_HEADER_KEY)
            state_dict = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a teacher's file (safetensors): {error}"
        ) from error
    metadata = _parse_metadata(text, path)
    teacher = TeacherNetwork(metadata.widths, metadata.embedding_dim, metadata.norm_momentum)
    try:
        teacher.load_state_dict(state_dict, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its weights do not fit the teacher: {error}") from error
    return teacher.eval(), metadata


def _parse_metadata(text: str | None, path: Path) -> TeacherMetadata:
    try:
        values: dict[str, Any] = json.loads(text) if text else {}
    except ValueError as error:
        raise CheckpointError(f"{path}: its metadata are no JSON ({error})") from error
    if not isinstance(values, dict) or values.pop("architecture", None) != ARCHITECTURE:
        raise CheckpointError(
            f"{path} is no 3D teacher: expected a file written by save_teacher, with architecture "
            f"{ARCHITECTURE!r} in its header"
        )
    if values.pop("format_version", None) != _FORMAT_VERSION:
        raise CheckpointError(
            f"{path} was written by another version of napari-cad: install a newer one"
        )
    try:
        values["widths"] = tuple(int(width) for width in values["widths"])
        values["intensity"] = IntensityMapping.from_json(values["intensity"])
        if values.get("voxel_size") is not None:
            values["voxel_size"] = tuple(float(v) for v in values["voxel_size"])
        return TeacherMetadata(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its metadata are not understood ({error})") from error
