"""Cross-dimension affinity distillation for 3D EM neuron segmentation, as a napari plugin."""

__version__ = "0.1.0"
