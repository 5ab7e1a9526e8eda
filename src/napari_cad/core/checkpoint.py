"""Checkpoints: the weights of a student and what is needed to use them rightly.

Two file formats are read, told apart by their first bytes: the published one (what `torch.save`
writes, with an entry `model_weights`) and ours (safetensors with a JSON text in its header).
Neither reader executes anything that a file brings along.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from napari_cad.core._entries import check_entries, few, published_keys, size_of
from napari_cad.core.checkpoint_metadata import ARCHITECTURE, CheckpointMetadata
from napari_cad.core.errors import CheckpointError
from napari_cad.core.network import StudentNetwork
from napari_cad.core.published import find_published

__all__ = [
    "ARCHITECTURE",
    "FORMAT_VERSION",
    "Checkpoint",
    "CheckpointMetadata",
    "load_checkpoint",
    "published_keys",
    "save_checkpoint",
]

#: Version of our file format; a file with a higher one is refused.
FORMAT_VERSION = 1

#: Key of our JSON text in the safetensors header.
_HEADER_KEY = "napari_cad"

#: How a file from `torch.save` starts: a zip archive, or before PyTorch 1.6, and in the published
#: files, its magic number pickled. Other pickles are not even looked into.
_TORCH_STARTS = (b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")

#: What PyTorch's reader was seen to raise on damaged and on forged files.
_BROKEN_FILE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded checkpoint.

    Parameters
    ----------
    metadata : CheckpointMetadata
        What it is and what it needs.
    state_dict : mapping
        The network's entries by our names: float32 tensors on the CPU (the counters
        `num_batches_tracked` int64).
    sha256 : str
        Of the file, 64 hexadecimal digits.
    path : Path, optional
        The file.
    """

    metadata: CheckpointMetadata
    state_dict: Mapping[str, Tensor]
    sha256: str
    path: Path | None = None

    def build(self) -> StudentNetwork:
        """Make the network with these weights.

        Returns
        -------
        StudentNetwork
            On the CPU, in evaluation mode; its weights are a copy.
        """
        network = StudentNetwork(self.metadata.width, self.metadata.embedding_dim)
        network.load_state_dict(dict(self.state_dict), strict=True)
        return network.eval()


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Load a checkpoint, without executing anything that the file brings along.

    Parameters
    ----------
    path : str or Path
        A published checkpoint, a file in its format (any width), or one of ours.

    Returns
    -------
    Checkpoint
        The metadata of the five published files are those of the registry; of other files in
        their format only the shapes are known.

    Raises
    ------
    CheckpointError
        If there is no such file, it is no checkpoint of a student, it is damaged, or a weight is
        NaN or infinite.
    """
    path = Path(path).expanduser()
    data = _read_file(path)
    sha256 = hashlib.sha256(data).hexdigest()
    if data.startswith(_TORCH_STARTS):
        metadata, state_dict = _parse_published(data, path, sha256)
    elif data[8:9] == b"{":
        metadata, state_dict = _parse_ours(data, path)
    elif data.startswith(b"\x80"):
        raise CheckpointError(
            f"{path} is no checkpoint but some other Python pickle. It is not opened, because "
            "unpickling can run code: expected a file from torch.save or a safetensors file"
        )
    else:
        raise CheckpointError(
            f"{path} is no checkpoint: expected a file from torch.save or a safetensors file, "
            + (f"got a file that starts with {data[:8]!r}" if data else "got an empty file")
        )
    return Checkpoint(metadata, state_dict, sha256, path)


def save_checkpoint(
    path: str | os.PathLike[str],
    network_or_state_dict: StudentNetwork | Mapping[str, Tensor],
    metadata: CheckpointMetadata,
    *,
    half: bool = False,
) -> None:
    """Save a student in our format: safetensors with the metadata as JSON in its header.

    The file appears whole or not at all. The same content gives the same bytes.

    Parameters
    ----------
    path : str or Path
        By convention `NAME.safetensors`; an existing file is replaced.
    network_or_state_dict : StudentNetwork or mapping
        The network, or its entries by our names. Batch norms must not be folded.
    metadata : CheckpointMetadata
        Its width and embedding dimension must be those of the weights.
    half : bool
        Store the convolution kernels as float16: half the size. Biases and batch norms, which
        are few, stay float32. It is loaded as float32 again. On the published students the
        affinities of a real pair changed by 0.0002 to 0.001 on average, by 0.06 at most.

    Raises
    ------
    CheckpointError
        If the weights are not those of a student, do not fit the metadata, or are not finite
        (also: not finite as float16).
    OSError
        If the file cannot be written.
    """
    path = Path(path).expanduser()
    if isinstance(network_or_state_dict, StudentNetwork):
        network_or_state_dict = network_or_state_dict.state_dict()
    where = f"what was to be saved as {path.name}"
    state_dict = check_entries(network_or_state_dict, {k: k for k in published_keys()}, where)
    _check_size(metadata, state_dict, where)
    if half:
        for name, tensor in state_dict.items():
            if tensor.ndim == 4:
                state_dict[name] = tensor.half()
                if not torch.isfinite(state_dict[name]).all():
                    raise CheckpointError(
                        f"{where}: {name} holds values beyond the range of float16 (65504): "
                        "save it with half=False"
                    )
    text = json.dumps(
        metadata.to_json() | {"format_version": FORMAT_VERSION}, sort_keys=True, allow_nan=False
    )
    data = safetensors.torch.save(state_dict, metadata={_HEADER_KEY: text})
    # in the same folder, so that the move below is one step
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _read_file(path: Path) -> bytes:
    """Read it once: what is hashed is what is loaded."""
    try:
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder: expected the file of a checkpoint")
        with path.open("rb") as file:
            start = file.read(16)
            # of something else the first bytes are enough to name it: it may be gigabytes
            return start + file.read() if _looks_like_checkpoint(start) else start
    except FileNotFoundError as error:
        raise CheckpointError(f"no such checkpoint: the file {path} does not exist") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _looks_like_checkpoint(start: bytes) -> bool:
    return start.startswith(_TORCH_STARTS) or start[8:9] == b"{"


def _parse_published(
    data: bytes, path: Path, sha256: str
) -> tuple[CheckpointMetadata, dict[str, Tensor]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with the file is said below
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except _BROKEN_FILE as error:
        # PyTorch's own error is not passed on: it recommends the way that runs code
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise CheckpointError(
                f"{path} is not loaded: besides weights it holds {refused[1]}, and loading that "
                "could run code. Expected a file with tensors only"
            ) from None
        raise CheckpointError(
            f"{path} is damaged or no checkpoint: expected tensors from torch.save, and they "
            f"could not be read ({type(error).__name__}). Copy or download it again"
        ) from None
    weights = content.get("model_weights") if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping):
        found = (
            f"entries {few([str(k) for k in content])}"
            if isinstance(content, Mapping)
            else f"a {type(content).__name__}"
        )
        raise CheckpointError(
            f"{path} is no student checkpoint: expected an entry 'model_weights', got {found}"
        )
    entries = {str(key).removeprefix("module."): value for key, value in weights.items()}
    state_dict = check_entries(entries, published_keys(), str(path))
    known = find_published(sha256)
    if known is not None:
        metadata = CheckpointMetadata(
            name=known.name,
            voxel_size=known.voxel_size,
            training_data=known.training_data,
            licence=known.licence,
            code_version="",
            notes=known.notes,
        )
    else:
        width, embedding_dim = size_of(state_dict)
        metadata = CheckpointMetadata(
            name=path.stem,
            width=width,
            embedding_dim=embedding_dim,
            training_data="not known",
            licence="not known",
            code_version="",
            notes="In the format of the published checkpoints, but none of the five known files.",
        )
    return metadata, state_dict


def _parse_ours(data: bytes, path: Path) -> tuple[CheckpointMetadata, dict[str, Tensor]]:
    try:
        entries = safetensors.torch.load(data)
        # the library checked the header, but gives its metadata only for files it opens itself
        length = int.from_bytes(data[:8], "little")
        text = (json.loads(data[8 : 8 + length]).get("__metadata__") or {}).get(_HEADER_KEY)
    except (safetensors.SafetensorError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged or no checkpoint: expected a safetensors file, and it could not "
            f"be read as one ({error}). Copy or download it again"
        ) from error
    if text is None:
        raise CheckpointError(
            f"{path} is a safetensors file, but no checkpoint of napari-cad: expected metadata "
            f"under {_HEADER_KEY!r} in its header. Save it with save_checkpoint"
        )
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata is no JSON text ({error})") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if type(version) is not int or version < 1:
        raise CheckpointError(
            f"{path}: expected metadata with a format version, got {version!r} for it"
        )
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, this napari-cad reads up to {FORMAT_VERSION}: "
            "install a newer napari-cad"
        )
    try:
        metadata = CheckpointMetadata.from_json(values)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    state_dict = check_entries(entries, {k: k for k in published_keys()}, str(path))
    _check_size(metadata, state_dict, str(path))
    return metadata, state_dict


def _check_size(metadata: CheckpointMetadata, state_dict: Mapping[str, Tensor], where: str) -> None:
    told, found = (metadata.width, metadata.embedding_dim), size_of(state_dict)
    if told != found:
        raise CheckpointError(
            f"{where}: its metadata say width {told[0]} and embedding dimension {told[1]}, its "
            f"weights have {found[0]} and {found[1]}"
        )
