"""Train a tiny run and wait to be killed; an argument is the folder of the run."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from tiny import make_config, make_volume  # type: ignore[import-not-found]

from napari_cad.training.events import StepsDone
from napari_cad.training.loop import train

if __name__ == "__main__":
    torch.set_num_threads(1)
    for event in train(make_config(), sys.argv[1], volumes=[make_volume()]):
        if isinstance(event, StepsDone) and event.step >= 4:
            time.sleep(60)  # in the midst of it, with steps done that are not in the saved state
