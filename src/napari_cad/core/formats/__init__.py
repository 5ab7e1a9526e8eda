"""One module per family of files. `napari_cad.core.readers` chooses among them."""
