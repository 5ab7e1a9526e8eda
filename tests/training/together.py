"""One of two processes that train together; arguments are rank, port, and the run's folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from tiny import make_config, make_volume  # type: ignore[import-not-found]

from napari_cad.training.loop import Trainer

if __name__ == "__main__":
    rank, port, run = sys.argv[1:]
    os.environ |= {
        "RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
    }  # fmt: skip
    torch.set_num_threads(1)
    config = make_config(steps=2)
    trainer = Trainer.start(config, run, volumes=[make_volume()])
    events = list(trainer.run())
    weights = {k: v.clone() for k, v in trainer.learner.networks.named_parameters()}
    torch.save({"events": len(events), "weights": weights}, f"{run}.{rank}.pt")
