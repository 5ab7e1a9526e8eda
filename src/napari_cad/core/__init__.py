"""The method on plain arrays: no Qt, no napari."""
