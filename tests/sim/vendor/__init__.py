"""The simulated vendor: a signed apt repository with real names and stub contents, and wheels.

`build` makes it (once per content), `serve_command` is how to serve it. What is simulated is what
the packages contain; packages, signatures, dependencies and dpkg transactions are real.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .assemble import PACKAGES, PLACES, VendorRepo, build

__all__ = ["PACKAGES", "PLACES", "VendorRepo", "build", "serve_command"]


def serve_command(root: Path, address: str, port: int) -> list[str]:
    """The command that serves a built repository until it is killed; works from any directory."""
    script = Path(__file__).with_name("serve.py")
    return [sys.executable, "-I", str(script), str(root), address, str(port)]
