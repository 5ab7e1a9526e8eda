"""Training on several GPUs, through torch's own launcher.

`torchrun --nproc-per-node 4 --no-python napari-cad train …` starts four processes that train one
network together: each draws its own patches, torch averages the gradients, and the first process
validates, saves and reports. Started in the ordinary way, there is one process.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from torch import nn

#: How long processes wait for each other: the others do, while the first one validates.
_PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class Processes:
    """Those that train together, seen from one of them.

    Parameters
    ----------
    rank, world : int
        Number of this process, and how many there are.
    local_rank : int
        Number of this process on its machine: the GPU it takes.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> Processes:
        """Read what torchrun says; one process where it says nothing."""
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            return cls()
        return cls(
            int(os.environ["RANK"]),
            int(os.environ["WORLD_SIZE"]),
            int(os.environ.get("LOCAL_RANK", "0")),
        )

    @property
    def is_first(self) -> bool:
        """Whether this process validates, saves and reports."""
        return self.rank == 0

    def own_gpu(self, device: str) -> str:
        """Name the GPU of this process, where a GPU is wanted and there are several processes."""
        if self.world > 1 and device in ("auto", "cuda") and torch.cuda.is_available():
            return f"cuda:{self.local_rank}"
        return device

    def join(self, device: str) -> None:
        """Meet the others, if there are any and it was not done yet."""
        if self.world > 1 and not dist.is_initialized():
            on_gpu = device.startswith("cuda")
            if on_gpu:  # what is exchanged must lie on this process's own GPU
                torch.cuda.set_device(torch.device(device))
            dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)

    def leave(self) -> None:
        """Part from the others."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def wrap(self, module: nn.Module, device: str, *, unused: bool = False) -> nn.Module:
        """Make a module whose gradients are averaged over the processes.

        `unused` says that some parameters may have no part in a step.
        """
        if self.world == 1:
            return module
        # batch norms see their own process's patches; buffers are the first process's
        return DistributedDataParallel(
            module,
            device_ids=[torch.device(device)] if device.startswith("cuda") else None,
            find_unused_parameters=unused,
        )

    def agree(self, value: int) -> int:
        """Give all processes the first one's value."""
        if self.world == 1:
            return value
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        shared = torch.tensor([value], device=device)
        dist.broadcast(shared, src=0)
        return int(shared.item())
