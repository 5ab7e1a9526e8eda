"""Dock widgets: each reads a form, starts a job and shows what comes."""
