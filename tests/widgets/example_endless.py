"""Stands in for any job: it starts a process of its own, and never ends; imported by a child."""

from __future__ import annotations

import subprocess
import sys
import time

from napari_cad.core.events import Warned


def forever(**_arguments):
    subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    yield Warned("begun")
    while True:
        time.sleep(1)
