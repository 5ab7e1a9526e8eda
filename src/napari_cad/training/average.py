"""The running average of a network's weights, which generalises better than the last ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of all entries of a network, batch norm statistics included.

    Parameters
    ----------
    network : Module
        Whose weights are averaged; the average starts as a copy of them.
    decay : float
        Highest part of the old average that stays in a step. In the first steps it is less,
        (1 + n) / (10 + n), so that the average leaves the random start soon. 0 is no average.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.n_updates = 0
        self.entries = {name: value.clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take the network's weights of now into the average."""
        self.n_updates += 1
        decay = min(self.decay, (1 + self.n_updates) / (10 + self.n_updates))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self.entries[name].lerp_(value, 1 - decay)
            else:
                self.entries[name].copy_(value)

    def state_dict(self) -> dict[str, Tensor | int | dict[str, Tensor]]:
        """Give what `load_state_dict` needs to go on."""
        return {"n_updates": self.n_updates, "entries": self.entries}

    def load_state_dict(self, state: dict[str, Tensor | int | dict[str, Tensor]]) -> None:
        """Go on from what `state_dict` gave."""
        n_updates, entries = state["n_updates"], state["entries"]
        if not isinstance(n_updates, int) or not isinstance(entries, dict):
            raise TypeError("a state of a WeightAverage has n_updates and entries")
        self.n_updates = n_updates
        for name, value in entries.items():
            self.entries[name].copy_(value)
