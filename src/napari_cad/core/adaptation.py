"""Batch-norm statistics measured again on the stack at hand, without labels.

The students normalise nothing on their way in, so a stack with another contrast or another
preparation moves what every batch norm sees, and the trained statistics no longer describe it.
They are measured again on a handful of section pairs and blended with the trained ones.

Li et al., "Revisiting Batch Normalization For Practical Domain Adaptation", 2016 (AdaBN).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from napari_cad.core.errors import ConfigError, VolumeError
from napari_cad.core.tiling import ALIGNMENT, Padding
from napari_cad.core.volume import spread_sections
from napari_cad.core.windows import window_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy.typing as npt

    from napari_cad.core.network import StudentNetwork
    from napari_cad.core.preprocessing import Preprocessing
    from napari_cad.core.volume import EMVolume

#: Longest side of the window of a section that is measured on, in voxels of the section: it bounds
#: the memory, and a batch norm needs no more to see.
WINDOW = 512

#: Pairs tried for each one wanted, where sections are missing.
_TRIES = 4


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and variance of what every batch norm of a student sees on a stack.

    Attributes
    ----------
    values : mapping of str to Tensor
        By the names that `running_mean` and `running_var` have in the network's `state_dict`;
        float32 on the CPU.
    sections : tuple of int
        The later sections of the pairs that they were measured on.
    """

    values: Mapping[str, Tensor]
    sections: tuple[int, ...]


def measure_statistics(
    network: StudentNetwork,
    volume: EMVolume,
    preprocessing: Preprocessing,
    n_sections: int = 6,
    *,
    device: str = "cpu",
) -> Statistics:
    """Measure the batch-norm statistics of a student on a stack.

    Pairs spread over the stack, each with a window of its own, go through the network in training
    mode, without gradients; the statistics are the average over them. The same volume and settings
    give the same pairs.

    Parameters
    ----------
    network : StudentNetwork
        Left as it is.
    volume : EMVolume
        Only the windows are read where the data allow it.
    preprocessing : Preprocessing
        What the network will see when it runs.
    n_sections : int
        How many pairs; fewer where the stack is shorter. Pairs with a section of one value (a
        missing one) are passed over for others.
    device : str
        Where the network runs.

    Returns
    -------
    Statistics

    Raises
    ------
    VolumeError
        If every section looked at is of one value.
    """
    *_, measured = measured_so_far(network, volume, preprocessing, n_sections, device=device)
    return measured


def measured_so_far(
    network: StudentNetwork,
    volume: EMVolume,
    preprocessing: Preprocessing,
    n_sections: int = 6,
    *,
    window: int = WINDOW,
    device: str = "cpu",
) -> Iterator[Statistics]:
    """Measure one pair at a time, so that whoever waits can do something else in between.

    Parameters
    ----------
    network, volume, preprocessing, n_sections, device
        See `measure_statistics`.
    window : int
        Longest side of what is looked at of a section, in voxels of the section.

    Yields
    ------
    Statistics
        After each pair, over the pairs so far.

    Raises
    ------
    VolumeError
        If every section looked at is of one value.
    """
    measuring = copy.deepcopy(network).to(device).train().requires_grad_(False)
    for norm in _norms(measuring):
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average: every pair counts the same
    names = statistic_names(network)
    used: list[int] = []
    for z, pair in _sampled_pairs(volume, preprocessing, n_sections, window):
        with torch.inference_mode():
            measuring(torch.from_numpy(pair)[None].to(device))
        used.append(z)
        state = measuring.state_dict()
        # clone: tensors made in inference mode cannot take part in anything that records gradients
        values = {name: state[name].detach().cpu().clone() for name in names}
        yield Statistics(values, tuple(used))
    if not used:
        raise VolumeError(
            f"{volume.name}: all sections looked at hold one value only, so there is nothing to "
            "adapt to: leave the empty ones out, or run without adapting"
        )


def statistic_names(network: StudentNetwork) -> list[str]:
    """Names of all batch-norm means and variances in a network's `state_dict`."""
    return [
        f"{name}.{kind}"
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for kind in ("running_mean", "running_var")
    ]


def blend_statistics(
    network: StudentNetwork, statistics: Statistics, strength: float
) -> StudentNetwork:
    """Copy a student with its batch-norm statistics moved towards measured ones.

    Parameters
    ----------
    network : StudentNetwork
        Left as it is.
    statistics : Statistics
        Of this network, from `measure_statistics`.
    strength : float in [0, 1]
        s in (1 − s) · trained + s · measured, for means and variances alike.

    Returns
    -------
    StudentNetwork
        On the same device, in evaluation mode.

    Raises
    ------
    ConfigError
        If `strength` is outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise ConfigError(f"the strength of an adaptation must be from 0 to 1, got {strength}")
    blended = copy.deepcopy(network).eval()
    state = blended.state_dict()
    with torch.no_grad():
        for name, measured in statistics.values.items():
            state[name].lerp_(measured.to(state[name].device), strength)
    return blended


def adapt(
    network: StudentNetwork,
    volume: EMVolume,
    preprocessing: Preprocessing,
    *,
    strength: float,
    n_sections: int = 6,
    device: str = "cpu",
) -> StudentNetwork:
    """Measure and blend in one; the network itself where `strength` is 0.

    See `measure_statistics` and `blend_statistics`.
    """
    if strength == 0:
        return network
    statistics = measure_statistics(network, volume, preprocessing, n_sections, device=device)
    return blend_statistics(network, statistics, strength)


def _norms(network: StudentNetwork) -> Iterable[nn.BatchNorm2d]:
    return (module for module in network.modules() if isinstance(module, nn.BatchNorm2d))


def _sampled_pairs(
    volume: EMVolume, preprocessing: Preprocessing, n: int, window: int
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """At most `n` pairs: (z, shape (2, H, W) float32), H and W multiples of 32."""
    first = min(1, volume.n_sections - 1)  # section 0 has no section before it
    candidates = _candidates(volume.n_sections - first, n)
    found = 0
    for i, z in enumerate(candidates):
        if found == n:
            return
        rows, columns = window_at(volume.shape[1:], i, window)
        z += first
        pair = [_prepared(volume, max(z - 1, 0), rows, columns, preprocessing)]
        pair.append(_prepared(volume, z, rows, columns, preprocessing))
        if any(section.min() == section.max() for section in pair):
            continue
        found += 1
        yield z, np.stack(pair)


def _candidates(n_sections: int, n: int) -> list[int]:
    """`n` sections spread over the stack, then others in case some of them are missing."""
    wanted = spread_sections(n_sections, n)
    more = spread_sections(n_sections, _TRIES * n)
    return wanted + [z for z in more if z not in set(wanted)]


def _prepared(
    volume: EMVolume, z: int, rows: slice, columns: slice, preprocessing: Preprocessing
) -> npt.NDArray[np.float32]:
    section = np.ascontiguousarray(np.asarray(volume.data[z, rows, columns]), dtype=volume.dtype)
    prepared = preprocessing(section, z=z)
    # twice the alignment: the deepest batch norm needs more than one pixel to measure
    pads = [Padding.to_multiple(n, 2 * ALIGNMENT) for n in prepared.shape]
    return np.pad(prepared, [(pad.before, pad.after) for pad in pads], mode="reflect")
