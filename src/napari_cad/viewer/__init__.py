"""Between napari and the core: layers, jobs, readers. No widgets."""
