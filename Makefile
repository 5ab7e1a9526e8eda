# Thin names for `python3 dev.py ...`, for those who have make; dev.py does the work.
PYTHON ?= python3

.PHONY: demo test lint setup

demo test lint setup:
	$(PYTHON) dev.py $@ $(ARGS)
