"""Whether NVIDIA's DCGM can be asked: a part of the report."""

from __future__ import annotations

import os
import shutil
from typing import Any

from verify.payload.reading import PATH, text_of

ENGINE = "nv-hostengine"
"""DCGM's host engine; dcgmi asks it (NVIDIA, "dcgmi diag")."""


def dcgm() -> dict[str, Any]:
    """Whether dcgmi is installed, and whether its host engine runs."""
    running = any(
        text_of(f"/proc/{entry}/comm") == ENGINE for entry in os.listdir("/proc") if entry.isdigit()
    )
    installed = shutil.which("dcgmi", path=PATH) is not None
    return {"installed": installed, "running": running, "error": ""}
