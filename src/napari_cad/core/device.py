"""Where and in which arithmetic networks run, and how a full memory is told there."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from napari_cad.core.errors import ConfigError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Device:
    """Where and in which arithmetic the network runs.

    Attributes
    ----------
    name : str
        As torch knows it: cuda, cuda:1, mps or cpu.
    precision : str
        float32, bfloat16 or float16; anything but float32 is autocast.
    """

    name: str
    precision: str

    @property
    def kind(self) -> str:
        """The name without its number."""
        return self.name.partition(":")[0]

    def autocast(self) -> Any:
        """Context in which the network runs."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.kind, dtype=_DTYPES[self.precision])

    def free_memory(self) -> int:
        """Bytes that can still be allocated there."""
        if self.kind == "cuda":
            return int(torch.cuda.mem_get_info(torch.device(self.name))[0])
        return int(psutil.virtual_memory().available)


def pick_device(device: str = "auto", precision: str = "auto") -> Device:
    """Choose where to run: CUDA, then MPS, then the CPU.

    Parameters
    ----------
    device : str
        auto, cuda, cuda:N, mps or cpu.
    precision : str
        auto, float32, bfloat16 or float16. auto is half precision on CUDA (bfloat16 where the
        hardware has it, float16 elsewhere) and float32 everywhere else.

    Returns
    -------
    Device

    Raises
    ------
    ConfigError
        If this machine has no such device, or the device no such arithmetic.
    """
    if device == "auto":
        if torch.cuda.is_available():
            device = "cuda"
        else:
            device = "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = device.partition(":")
    if kind == "cuda":
        n_gpus = torch.cuda.device_count()
        if not number.isdigit() and number:
            raise ConfigError(f"a GPU is named cuda or cuda:N, got {device!r}")
        if int(number or 0) >= n_gpus:
            raise ConfigError(
                f"expected {device}, but torch finds {n_gpus} CUDA GPUs here: choose auto or cpu, "
                "or install a torch with CUDA"
            )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("torch finds no Apple GPU (mps) here: choose auto or cpu")
    if precision == "auto":
        precision = "float32"
        if kind == "cuda":
            precision = "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    elif precision != "float32" and kind == "cpu" and not _cpu_has(precision):
        # measured: emulated bfloat16 is 17 times slower than float32
        raise ConfigError(
            f"this CPU has no native {precision}, which would be many times slower than float32: "
            "choose auto or float32"
        )
    return Device(device, precision)


def _cpu_has(precision: str) -> bool:
    if precision != "bfloat16":
        return False
    capabilities = torch.backends.cpu.get_cpu_capability()
    return "AMX" in capabilities or bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


def ran_out_of_memory(error: Exception) -> bool:
    """Tell a full memory from other failures: off CUDA torch only says so in words.

    Parameters
    ----------
    error : Exception
        What a step with torch raised.

    Returns
    -------
    bool
    """
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        words in str(error) for words in ("out of memory", "can't allocate memory")
    )
