"""Training of the student and of its teacher: no Qt, no napari."""
