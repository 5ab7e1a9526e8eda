"""A training run that takes seconds: tiny volumes, tiny networks, few steps."""

from __future__ import annotations

import numpy as np

from napari_cad.core.volume import EMVolume
from napari_cad.training.config import (
    DataConfig,
    OptimiserConfig,
    StudentConfig,
    TeacherConfig,
    TrainingConfig,
    ValidationConfig,
)
from napari_cad.training.data import TrainingVolume

SHAPE = (6, 48, 48)


def make_volume(seed: int = 0, shape: tuple[int, int, int] = SHAPE, **settings) -> TrainingVolume:
    """Cells of a grid that drifts from section to section, with dark borders."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    row, column = (y + z + 3 * seed) // 12, (x + 2 * z) // 12
    labels = (1 + row * 10 + column).astype(np.uint16)
    border = ((y + z + 3 * seed) % 12 == 0) | ((x + 2 * z) % 12 == 0)
    labels[border] = 0
    image = np.where(border, 60, 180) + rng.normal(0, 15, shape)
    return TrainingVolume(
        EMVolume(image.clip(0, 255).astype(np.uint8), (30, 6, 6), name="tiny"),
        EMVolume(labels, name="tiny labels"),
        **settings,
    )


def make_config(teacher: bool = True, **changes) -> TrainingConfig:
    settings = {
        "steps": 8,
        "device": "cpu",
        "save_every": 3,
        "log_every": 1,
        "data": DataConfig(patch=(3, 16, 32), margin=4, batch=2),
        "student": StudentConfig(width=2, embedding_dim=3),
        "teacher": TeacherConfig(widths=(2, 3)) if teacher else None,
        "optimiser": OptimiserConfig(warmup=2),
        "validation": ValidationConfig(every=4, size=32),
    }
    return TrainingConfig(**{**settings, **changes})
