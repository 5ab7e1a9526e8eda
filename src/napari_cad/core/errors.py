"""Errors a person can act on.

Each is also the builtin that a caller would expect to catch. A message says what was expected,
what came and what to do, in that order.
"""

from __future__ import annotations


class NapariCadError(Exception):
    """Base of every error that this package raises on purpose."""


class VolumeError(NapariCadError, ValueError):
    """A file or an array is no EM volume that can be read."""


class ShapeError(NapariCadError, ValueError):
    """Arrays that belong together differ in shape."""


class ConfigError(NapariCadError, ValueError):
    """A setting is outside what is allowed."""


class CheckpointError(NapariCadError, ValueError):
    """A file is no checkpoint, or not one for this network."""


class StoreError(NapariCadError, OSError):
    """A store cannot be read or written."""


class StoreMismatchError(StoreError):
    """A store was made from another volume, checkpoint or setting than the one given."""


class DeviceMemoryError(NapariCadError, MemoryError):
    """A device has too little memory even for the smallest piece of work."""


class ClusterError(NapariCadError, ConnectionError):
    """A cluster cannot be reached, or its workers cannot do this run."""


class SectionError(NapariCadError, RuntimeError):
    """A stage of a run failed for a section, for good."""


class JobError(NapariCadError, RuntimeError):
    """A child process failed.

    Attributes
    ----------
    details : str
        The child's traceback or the last lines it wrote; may be empty.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details

    def __reduce__(self) -> tuple[type[JobError], tuple[str, str]]:
        return type(self), (str(self), self.details)
