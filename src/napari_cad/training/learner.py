"""What learns: the networks with their optimiser and averages, and one step of it."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch

from napari_cad.core._entries import size_of
from napari_cad.core.device import ran_out_of_memory
from napari_cad.core.errors import DeviceMemoryError, NapariCadError
from napari_cad.core.network import StudentNetwork
from napari_cad.training.average import WeightAverage
from napari_cad.training.build import build_optimiser, build_student, build_teacher
from napari_cad.training.step import DistillationStep

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from napari_cad.core.device import Device
    from napari_cad.core.teacher import TeacherNetwork
    from napari_cad.training.config import TrainingConfig


class TrainingDivergedError(NapariCadError, ArithmeticError):
    """The loss or a gradient is NaN or infinite; the last saved weights are still good."""


class Learner:
    """Student and teacher in training.

    Parameters
    ----------
    config : TrainingConfig
        The settings. Torch's generator is seeded with `seed` for the random weights.
    device : Device
        Where to learn, and in which arithmetic.
    entries : mapping, optional
        Those of the student in a saved state, which is loaded afterwards: they say its size, and
        the checkpoint that it came from is not needed.

    Attributes
    ----------
    networks : DistillationStep
        Student, teacher and losses, as one module.
    """

    def __init__(
        self, config: TrainingConfig, device: Device, entries: Mapping[str, Tensor] | None = None
    ) -> None:
        self.config = config
        self.device = device
        torch.manual_seed(config.seed)
        student = build_student(config) if entries is None else StudentNetwork(*size_of(entries))
        teacher = build_teacher(config, student.embedding_dim)
        frozen = config.teacher is not None and config.teacher.frozen
        start = copy.deepcopy(student) if config.loss.retention > 0 else None
        self.networks = DistillationStep(student, teacher, config.loss, frozen=frozen, start=start)
        self.networks.to(device.name).train()
        # on a CPU, torch takes its slowest 3D convolutions for small maps in the usual layout
        for network in (student, start):
            if network is not None:
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if teacher is not None:
            teacher.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.optimiser = build_optimiser(self.networks, config.optimiser)
        self.scaler = torch.amp.GradScaler(device.kind, enabled=device.precision == "float16")
        self._learning: dict[str, nn.Module] = {"student": student}
        if teacher is not None and not frozen:
            self._learning["teacher"] = teacher
        self._averages = {
            name: WeightAverage(network, config.optimiser.average)
            for name, network in self._learning.items()
        }

    def step(
        self, module: nn.Module, image: Tensor, labels: Tensor, number: int
    ) -> dict[str, float]:
        """Learn from a batch.

        Parameters
        ----------
        module : Module
            `networks`, or what wraps it to average gradients over processes.
        image : Tensor, shape (B, D, H, W), float32 in [0, 1]
            Patches, in main memory.
        labels : Tensor, shape (B, D, H, W), int32
            Their truth.
        number : int
            Of the step, from 0.

        Returns
        -------
        dict of str to float
            "loss", which is descended, and its parts without their weights.

        Raises
        ------
        TrainingDivergedError
            If the loss or a gradient is not finite; the weights are as they were then.
        DeviceMemoryError
            If the step does not fit into memory.
        """
        rate = self.config.optimiser.learning_rate_at(number, self.config.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["rate"]
        self.optimiser.zero_grad(set_to_none=True)
        try:
            image = image.to(self.device.name, non_blocking=True)
            labels = labels.to(self.device.name, non_blocking=True)
            with self.device.autocast():
                distil = number >= self.config.loss.start_distillation
                loss, parts = module(image, labels, distil)
            self.scaler.scale(loss).backward()
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            data = self.config.data
            raise DeviceMemoryError(
                f"{self.device.name} has too little memory for a step with data.batch "
                f"{data.batch} and data.patch {data.patch}: lower data.batch, then data.patch"
                + ("" if self.config.teacher is None else ", then teacher.widths")
            ) from error
        self.scaler.unscale_(self.optimiser)
        values = {"loss": loss.item(), **{name: part.item() for name, part in parts.items()}}
        norms = [self._clip(network) for network in self._learning.values()]
        # in float16 the scaler itself looks for gradients that overflow, and skips the step
        checked = [values["loss"]] if self.scaler.is_enabled() else [values["loss"], *norms]
        if not all(math.isfinite(value) for value in checked):
            found = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise TrainingDivergedError(
                f"training diverged at step {number + 1}: {found}, gradient norms "
                f"{', '.join(f'{norm:g}' for norm in norms)}"
            )
        self.scaler.step(self.optimiser)
        self.scaler.update()
        for name, network in self._learning.items():
            self._averages[name].update(network)
        return values

    def _clip(self, network: nn.Module) -> float:
        most = self.config.optimiser.clip or math.inf
        return float(torch.nn.utils.clip_grad_norm_(network.parameters(), most))

    def averaged_student(self) -> StudentNetwork:
        """Make a student with the averaged weights, in evaluation mode on the CPU."""
        student = self.networks.student
        averaged = StudentNetwork(student.width, student.embedding_dim)
        averaged.load_state_dict(self._averages["student"].entries)
        return averaged.eval()

    def averaged_teacher(self) -> TeacherNetwork | None:
        """Make a teacher with the averaged weights; None if no teacher learns."""
        if "teacher" not in self._averages or self.networks.teacher is None:
            return None
        teacher = copy.deepcopy(self.networks.teacher)
        teacher.load_state_dict(self._averages["teacher"].entries)
        return teacher.eval()

    def state_dict(self) -> dict[str, Any]:
        """Give all that the next step depends on, besides its number and its data."""
        on_cuda = self.device.kind == "cuda"
        start = self.networks.start
        return {
            "networks": {name: n.state_dict() for name, n in self._learning.items()},
            # the checkpoint it came from may be another one by then
            "start": None if start is None else start.state_dict(),
            "averages": {name: a.state_dict() for name, a in self._averages.items()},
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if on_cuda else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        for name, network in self._learning.items():
            network.load_state_dict(state["networks"][name])
            self._averages[name].load_state_dict(state["averages"][name])
        if self.networks.start is not None:
            self.networks.start.load_state_dict(state["start"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["torch_rng"])
        if self.device.kind == "cuda" and len(state["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
