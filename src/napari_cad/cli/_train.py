"""`napari-cad train`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_cad.cli._options import Json, parse_range

if TYPE_CHECKING:
    from napari_cad.training.config import TrainingConfig
    from napari_cad.training.loop import Trainer

_DATA = "What it learns from (or in the TOML file)"
_WHAT = "What learns"
_RUN = "Where and how it runs"


def train(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="TRAIN.toml", help="Settings; docs/training.md lists them all."
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="RUN",
            help="Go on with this run, exactly as if it had not been stopped.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="RUN",
            help="Folder of the new run; by default NAME-training here.",
        ),
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="VOLUME", help="The EM stack.", rich_help_panel=_DATA)
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="VOLUME", help="Its labels, of the same shape.", rich_help_panel=_DATA
        ),
    ] = None,
    folder: Annotated[
        list[str] | None,
        typer.Option(
            "--folder",
            metavar="DIR",
            help="A folder of training data, as the Proofread widget saves it; give several.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    sections: Annotated[
        str | None,
        typer.Option(
            metavar="A:B", help="Sections A to B − 1 only; by default all.", rich_help_panel=_DATA
        ),
    ] = None,
    validation_sections: Annotated[
        str | None,
        typer.Option(
            metavar="A:B",
            help="Sections of the same stack that choose the best weights.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    sparse: Annotated[
        bool,
        typer.Option(
            "--sparse",
            help="Label 0 is not labelled, instead of the border between neurites.",
            rich_help_panel=_DATA,
        ),
    ] = False,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            "-c",
            help="Fine-tune this one: a file, or default. Without one the weights are random.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Distil from this 3D teacher, or from a new one that learns along with the "
            "student: new. It learns on unless --frozen.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    frozen: Annotated[
        bool,
        typer.Option("--frozen", help="Keep the teacher as it is.", rich_help_panel=_WHAT),
    ] = False,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Steps of the whole run; with --resume, a longer run than it was.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Stop after this time; --resume goes on.", rich_help_panel=_RUN),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cuda, cuda:N, mps or cpu.", rich_help_panel=_RUN)
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads; by default all cores.", rich_help_panel=_RUN),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any other setting, such as optimiser.learning_rate=0.001 or "
            "data.patch=[8,160,160]. Give it as often as you like.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a student, alone or with a 3D teacher, or fine-tune one.

    Settings come from a TOML file, from options, or from both (an option wins). Ctrl-C stops
    after the step at hand, with everything saved, and says how to go on. Distillation is the same
    loop with --teacher, which is why it is no command of its own. On several GPUs: torchrun
    --nproc-per-node N --no-python napari-cad train ….
    """
    from napari_cad.core.torch_memory import use_huge_pages

    use_huge_pages()
    from napari_cad.training.loop import Trainer

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    if resume is not None:
        given = (
            *(config, output, image, labels, folder, sections, validation_sections),
            *(checkpoint, teacher),
        )
        if any(value is not None for value in given) or sparse or frozen or settings:
            raise typer.BadParameter(
                "a run goes on with the settings it has; only --steps, --minutes, --device and "
                "--threads may be given with it",
                param_hint="--resume",
            )
        trainer = Trainer.resume(resume, steps=steps, device=device)
    else:
        changes = _options(
            image, labels, sections, validation_sections, sparse, checkpoint, teacher, frozen
        )
        _add_folders(changes, folder or [])
        for name, value in (("steps", steps), ("device", device)):
            if value is not None:
                changes[name] = value
        for text in settings or ():
            _set(changes, *_parse_setting(text))
        made = _configure(config, changes)
        trainer = Trainer.start(made, output or Path(f"{made.name}-training"))
    _run(trainer, minutes, as_json=as_json)


def _options(
    image: str | None,
    labels: str | None,
    sections: str | None,
    validation_sections: str | None,
    sparse: bool,
    checkpoint: str | None,
    teacher: str | None,
    frozen: bool,
) -> dict[str, Any]:
    """Write the options as settings; the keys are paths such as data.volumes."""
    changes: dict[str, Any] = {}
    if (image is None) != (labels is None):
        raise typer.BadParameter(
            "an image needs its labels, and labels their image", param_hint="--image, --labels"
        )
    if image is not None:
        volume = {"image": image, "labels": labels, "truth": "sparse" if sparse else "dense"}
        for key, text, option in (
            ("volumes", sections, "--sections"),
            ("validation", validation_sections, "--validation-sections"),
        ):
            chosen = parse_range(text, option)
            if chosen is not None:
                if chosen[1] is None:
                    raise typer.BadParameter("name the end, such as 0:70", param_hint=option)
                _set(changes, f"data.{key}", [volume | {"sections": [chosen[0] or 0, chosen[1]]}])
            elif key == "volumes":
                _set(changes, "data.volumes", [volume])
    elif sections or validation_sections or sparse:
        raise typer.BadParameter(
            "they belong to --image; in a TOML file, write them beside the volume",
            param_hint="--sections, --validation-sections, --sparse",
        )
    if checkpoint is not None:
        _set(changes, "student.checkpoint", checkpoint)
    if teacher is not None:
        _set(changes, "teacher.checkpoint", None if teacher == "new" else teacher)
    if frozen:
        _set(changes, "teacher.frozen", True)
    return changes


def _add_folders(changes: dict[str, Any], folders: list[str]) -> None:
    """Learn from folders of training data too, beside the image and the labels of the options."""
    from napari_cad.training.data_config import VolumeConfig

    if folders:
        given = changes.get("data", {}).get("volumes", [])
        read = [VolumeConfig.from_folder(folder).to_json() for folder in folders]
        _set(changes, "data.volumes", [*given, *read])


def _parse_setting(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE; a value that is no TOML is taken as text."""
    import tomllib

    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise typer.BadParameter(f"expected KEY=VALUE, got {text!r}", param_hint="--set")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Put a value at the end of a path of tables."""
    *tables, name = key.split(".")
    for table in tables:
        inner = values.get(table)
        if not isinstance(inner, dict):
            inner = values[table] = {}
        values = inner
    values[name] = value


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, change in changes.items():
        inner = merged.get(key)
        merged[key] = (
            _merged(inner if isinstance(inner, dict) else {}, change)
            if isinstance(change, dict)
            else change
        )
    return merged


def _configure(path: Path | None, changes: dict[str, Any]) -> TrainingConfig:
    from napari_cad.training.config import TrainingConfig

    values = TrainingConfig.from_toml(path).to_json() if path is not None else {}
    return TrainingConfig.from_json(_merged(values, changes))


def _run(trainer: Trainer, minutes: float | None, *, as_json: bool) -> None:
    from napari_cad.cli._train_progress import follow, stop_on_interrupt

    with stop_on_interrupt(trainer):
        finished = follow(trainer.run(minutes=minutes), as_json=as_json)
    if finished is None:  # one of several processes, and not the one that reports
        return
    again = shlex.join(["napari-cad", "train", "--resume", finished.run])
    if finished.reason in ("stopped", "time"):
        typer.echo(f"Stopped at step {finished.step}. Go on: {again}", err=True)
    elif not as_json:
        early = ", no better validation for long" if finished.reason == "patience" else ""
        typer.echo(
            f"{finished.step} steps in {finished.seconds / 60:.1f} minutes{early}\n"
            f"Use it: napari-cad segment VOLUME --checkpoint {shlex.quote(finished.checkpoint)}"
        )
    if finished.reason == "stopped":
        raise typer.Exit(130)
