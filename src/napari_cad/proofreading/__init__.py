"""Correcting a segmentation by edits of its region graph; no display, no voxels written."""
