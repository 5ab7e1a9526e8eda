"""`napari-cad info` and `napari-cad download`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_cad.cli._options import Json


def info(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="A volume, a checkpoint, a store or the folder of a training run."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Say what a file is: a volume, a checkpoint, a store or a training run."""
    from napari_cad.core.store import is_store

    if is_store(file):
        facts = _store_facts(file)
    elif (Path(file) / "config.json").is_file() and (Path(file) / "run.json").is_file():
        facts = _run_facts(file)
    elif Path(file).suffix in (".ckpt", ".safetensors", ".pt", ".pth") or _is_known(file):
        facts = _checkpoint_facts(file)
    else:
        facts = _volume_facts(file)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    if facts["kind"] == "training run":  # what it has not, or not yet, is left out
        facts = {key: value for key, value in facts.items() if value not in (None, [])}
    width = max(len(key) for key in facts)
    for key, value in facts.items():
        typer.echo(f"{key.replace('_', ' '):<{width}}  {_readable(value)}")


def _is_known(name: str) -> bool:
    from napari_cad.core.registry import PUBLISHED

    return not Path(name).exists() and (name == "default" or name in PUBLISHED)


def _volume_facts(file: str) -> dict[str, Any]:
    from napari_cad.core.readers import open_volume

    volume = open_volume(file)
    z, y, x = volume.shape
    return {
        "kind": "volume",
        "name": volume.name,
        "shape_zyx": [z, y, x],
        "dtype": volume.dtype.name,
        "voxel_size_nm_zyx": volume.voxel_size,
        "origin_nm_zyx": volume.origin,
        "megavoxels": round(z * y * x / 1e6, 3),
    }


def _checkpoint_facts(file: str) -> dict[str, Any]:
    from napari_cad.core.registry import resolve_checkpoint
    from napari_cad.core.teacher import is_teacher

    if is_teacher(file):
        return _teacher_facts(file)
    checkpoint = resolve_checkpoint(file)
    return {
        "kind": "checkpoint",
        **checkpoint.metadata.to_json(),
        "parameters": sum(tensor.numel() for tensor in checkpoint.state_dict.values()),
        "sha256": checkpoint.sha256,
    }


def _teacher_facts(file: str) -> dict[str, Any]:
    from dataclasses import asdict

    from napari_cad.core.teacher import load_teacher

    teacher, metadata = load_teacher(file)
    return {
        "kind": "teacher",
        **asdict(metadata),
        "parameters": sum(parameter.numel() for parameter in teacher.parameters()),
    }


def _store_facts(file: str) -> dict[str, Any]:
    from napari_cad.core.store import STAGES, SegmentationStore

    store = SegmentationStore.open(file)
    source = store.settings["volume"]["source"]
    return {
        "kind": "store",
        "volume": store.name,
        "volume_path": source and source["path"],
        "shape_zyx": list(store.shape),
        "voxel_size_nm_zyx": store.voxel_size,
        "bin": store.bin,
        "checkpoint": store.settings["checkpoint"]["name"],
        "intensity": store.settings["config"]["intensity"],
        "merge_function": store.merge_function,
        "threshold": store.threshold,
        "absorb": store.absorb,
        **{f"sections_with_{stage}": int(store.sections_done(stage).sum()) for stage in STAGES},
        "fragments": store.n_fragments,
        "agglomerated": store.has_agglomeration(store.merge_function),
    }


def _run_facts(file: str) -> dict[str, Any]:
    from napari_cad.training.summary import run_summary

    facts = run_summary(file)
    unfinished = facts["steps_done"] < facts["steps"]
    again = shlex.join(["napari-cad", "train", "--resume", file]) if unfinished else None
    return {**facts, "go_on": again}


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_readable(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return " × ".join(_readable(item) for item in value)
    if value is None:
        return "not known"
    return f"{value:g}" if isinstance(value, float) else str(value)


def download(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="One of the published checkpoints; none lists them."),
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Take it from a mirror at this address.")
    ] = None,
) -> None:
    """Download a published checkpoint of the method's authors; they attached no licence to it."""
    from napari_cad.core.registry import PUBLISHED, download_published

    if name is None:
        for key, published in PUBLISHED.items():
            voxel_size = _readable(list(published.voxel_size))
            typer.echo(f"{key:<8} trained at {voxel_size} nm (z, y, x)")
        typer.echo("Their authors attached no licence: ask them before you build on results.")
        return
    path = download_published(name, base_url=base_url)
    typer.echo(f"{path}\nUse it: napari-cad segment VOLUME --checkpoint {name}")
