"""python -m tests.sim.vendor build DIR [KERNEL] | serve DIR ADDRESS PORT"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from . import build, serve


def main(arguments: list[str]) -> int:
    """Run one command; exit 2 on a wrong one."""
    match arguments:
        case ["build", directory, *kernel] if len(kernel) < 2:
            started = time.monotonic()
            made = build(Path(directory), *(kernel or [os.uname().release]))
            print(f"{made.root}  key {made.key_fingerprint}  {time.monotonic() - started:.1f} s")
            return 0
        case ["serve", *rest]:
            return serve.main(rest)
    print(__doc__, file=sys.stderr)
    return 2


sys.exit(main(sys.argv[1:]))
