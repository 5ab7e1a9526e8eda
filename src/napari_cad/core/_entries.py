"""The entries of a student's weights: their names here and in published files, and their check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from napari_cad.core.checkpoint_metadata import MAX_CHANNELS
from napari_cad.core.errors import CheckpointError
from napari_cad.core.network import StudentNetwork

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

#: Name of a part of our network → prefix of its entries in a published checkpoint.
_PUBLISHED_PREFIXES = {
    "encode_full": "inc.conv.conv",
    "encode_half": "down.0.mpconv.1.conv",
    "encode_quarter": "down.1.mpconv.1.conv",
    "encode_eighth": "down.2.mpconv.1.conv",
    "encode_sixteenth": "down.3.mpconv.1.conv",
    "decode_eighth": "up1.conv.conv",
    "decode_quarter": "up2.conv.conv",
    "decoder_prev.stage_half": "up3_t.conv.conv",
    "decoder.stage_half": "up3_tn.conv.conv",
    "decoder_prev.stage_full": "up4_t.conv.conv",
    "decoder.stage_full": "up4_tn.conv.conv",
    "decoder_prev.head": "outc_t.conv",
    "decoder.head": "outc_tn.conv",
}


def published_keys() -> dict[str, str]:
    """Translate the names of the network's entries.

    Returns
    -------
    dict of str to str
        Our name → the name in a published checkpoint, for all 158 entries.
    """
    keys = {}
    for name in _expected_shapes(16, 16):
        part = next(p for p in _PUBLISHED_PREFIXES if name.startswith(f"{p}."))
        keys[name] = _PUBLISHED_PREFIXES[part] + name[len(part) :]
    return keys


def _expected_shapes(width: int, embedding_dim: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):  # shapes without memory
        network = StudentNetwork(width, embedding_dim)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def size_of(entries: Mapping[str, Tensor]) -> tuple[int, int]:
    """Width and embedding dimension as the shapes of two entries (by our names) say."""
    first, last = entries["encode_full.0.weight"], entries["decoder.head.weight"]
    return (first.shape[0] if first.ndim else 0), (last.shape[0] if last.ndim else 0)


def check_entries(
    entries: Mapping[str, Any], names: Mapping[str, str], where: str
) -> dict[str, Tensor]:
    """Check the entries of a file and bring them into our form.

    Parameters
    ----------
    entries : mapping
        As they stand in the file.
    names : mapping of str to str
        Our name → the name in the file, for every entry that there must be.
    where : str
        What the messages call the file.

    Returns
    -------
    dict of str to Tensor
        By our names, in our order; copies on the CPU, float32, the counters int64.

    Raises
    ------
    CheckpointError
        If an entry is missing, too many, of another shape or type, or holds NaN, infinity or a
        negative variance.
    """
    not_plain = [name for name, value in entries.items() if not _is_plain(value)]
    if not_plain:
        raise CheckpointError(f"{where}: expected plain tensors only, not so {few(not_plain)}")
    if any(tensor.ndim == 5 for tensor in entries.values()):
        raise CheckpointError(
            f"{where} has 3D convolutions: it looks like a teacher, and a 2D student is needed "
            "here. The teacher is used in training only"
        )
    complaints = []
    missing = [name for name in names.values() if name not in entries]
    expected = set(names.values())
    extra = [name for name in entries if name not in expected]
    if missing:
        complaints.append(f"{len(missing)} of {len(names)} entries missing: {few(missing)}")
    if extra:
        complaints.append(f"{len(extra)} entries too many: {few(extra)}")
    if not complaints:
        complaints = _misshaped({ours: entries[name] for ours, name in names.items()}, names)
    if complaints:
        raise CheckpointError(f"{where} does not fit the student network: {'; '.join(complaints)}")
    return _convert(entries, names, where)


def _is_plain(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_nested
        and not value.is_meta
    )


def _convert(
    entries: Mapping[str, Tensor], names: Mapping[str, str], where: str
) -> dict[str, Tensor]:
    state_dict = {}
    bad = []
    for ours, name in names.items():
        given = entries[name]
        if ours.endswith("num_batches_tracked"):
            right, kind, dtype = given.dtype in _INTEGERS, "an integer", torch.int64
        else:
            right, kind, dtype = given.is_floating_point(), "real numbers", torch.float32
        if not right:
            raise CheckpointError(f"{where}: {name} should hold {kind}, got {given.dtype}")
        # a copy: entries of a file may share memory, and those of a network go on being trained
        tensor = torch.empty(given.shape, dtype=dtype).copy_(given.detach())
        negative_variance = ours.endswith("running_var") and bool((tensor < 0).any())
        if negative_variance or not torch.isfinite(tensor).all():
            bad.append(name)
        state_dict[ours] = tensor
    if bad:
        raise CheckpointError(
            f"{where} holds NaN, infinite weights or negative variances in {len(bad)} entries: "
            f"{few(bad)}. Its training went wrong or the file is damaged"
        )
    return state_dict


def _misshaped(entries: Mapping[str, Tensor], names: Mapping[str, str]) -> list[str]:
    width, embedding_dim = size_of(entries)
    if not (1 <= width <= MAX_CHANNELS and 1 <= embedding_dim <= MAX_CHANNELS):
        return [
            f"width {width} and embedding dimension {embedding_dim} by its shapes, expected from 1 "
            f"to {MAX_CHANNELS}"
        ]
    wrong = [
        f"{names[ours]} expected {shape}, got {tuple(entries[ours].shape)}"
        for ours, shape in _expected_shapes(width, embedding_dim).items()
        if tuple(entries[ours].shape) != shape
    ]
    if not wrong:
        return []
    return [f"{len(wrong)} entries of the wrong shape for width {width}: {few(wrong)}"]


def few(names: Iterable[str], at_most: int = 3) -> str:
    """Name the first few, and say how many more there are."""
    names = list(names)
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
