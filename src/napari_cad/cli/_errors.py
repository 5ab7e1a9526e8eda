"""Errors as one line that a person understands, and exit codes."""

from __future__ import annotations

import contextlib
import sys
import traceback
from typing import TYPE_CHECKING

from napari_cad.core.errors import JobError, NapariCadError

if TYPE_CHECKING:
    from collections.abc import Iterator

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn our own errors and those of the disk into a line on stderr and an exit code."""
    try:
        yield
    except NapariCadError as error:
        _say(f"error: {error}")
        if isinstance(error, JobError) and error.details:
            _say(error.details)
        sys.exit(EXIT_ERROR)
    except OSError as error:
        _say(f"error: {error}")
        sys.exit(EXIT_ERROR)
    except MemoryError:
        _say("error: not enough memory; a smaller --crop or fewer --sections need less")
        traceback.print_exc()
        sys.exit(EXIT_ERROR)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
