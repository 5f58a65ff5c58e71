"""Runs verify/onhost.py for as long as somebody listens, and ends it when nobody does.

A controller that was interrupted or has died closes the pipe that the answer goes to; what it had
asked for, a training proof above all, would go on under whatever comes next. Travels to the host:
standard library only, Python 3.10. Without a controller, start onhost.py itself.
"""

from __future__ import annotations

import os
import runpy
import select
import signal
import threading
from pathlib import Path


def watch(descriptor: int) -> None:
    """Wait until the other end of a pipe is closed, then stop everything that was started."""
    listener = select.poll()
    listener.register(descriptor, 0)  # errors and hang-ups are told without being asked for
    listener.poll()
    # `timeout` in launch.sh made a group of its own for us: payloads end their commands with it.
    if os.getpgrp() == os.getppid():
        os.killpg(os.getpgrp(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    threading.Thread(target=watch, args=(os.dup(1),), daemon=True).start()
    runpy.run_path(str(Path(__file__).with_name("onhost.py")), run_name="__main__")


if __name__ == "__main__":
    main()
