"""Cross-dimension affinity distillation for 3D EM neuron segmentation, as a napari plugin.

`napari_cad.segment`, `train`, `resume_training` and `open_volume` are imported when they are first
used, so that `import napari_cad` costs nothing.
"""

__version__ = "0.1.0"

__all__ = ["__version__", "open_volume", "resume_training", "segment", "train"]


def __getattr__(name: str) -> object:
    if name in ("open_volume", "resume_training", "segment", "train"):
        # by name: the rooms below must not seem to depend on the one that this leads to
        from importlib import import_module

        attribute: object = getattr(import_module("napari_cad.api"), name)
        return attribute
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
