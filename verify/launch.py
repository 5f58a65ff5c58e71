"""What is run on a host: launch.sh with its values in front, and what its own lines mean. Pure."""

import re
import secrets
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from deploy.fleet.runs import printable

Action = Literal["run", "push", "check", "keep", "start", "poll", "stop", "gather"]

_PREAMBLE = """\
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
export PATH LC_ALL
umask 022
"""
_LINE = re.compile(r"GPUFLEET-LAUNCH (\S+) ([a-z-]+) (\d{1,10}) ?(.*)")
MOST_TEXT = 600
MISSING = "missing"
DAMAGED = "damaged"
PUSHED = "pushed"
READY = "ready"
KEPT = "kept"


@dataclass(frozen=True)
class Said:
    """One line of launch.sh."""

    word: str
    """missing, damaged, unsafe, no-python, cannot, ended, pushed, ready or kept."""
    uid: int
    """Of the user that it ran as."""
    text: str


def new_nonce() -> str:
    """A word that no host can know before it is asked."""
    return secrets.token_hex(8)


def script(
    action: Action,
    *,
    id: str,
    prefix: str,
    privileged: bool,
    nonce: str,
    limit_s: int = 0,
    request: str = "",
    archive: str = "",
) -> str:
    """A POSIX sh script that pushes, checks or runs the bundle `id`, or has the host keep figures.

    For `push` the bundle's text comes on standard input, or from the host's file `archive`.
    """
    values = {
        "action": action,
        "id": id,
        "prefix": prefix,
        "privileged": "yes" if privileged else "no",
        "nonce": nonce,
        "limit": str(limit_s),
        "request": request,
        "archive": archive,
    }
    assigned = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    return _PREAMBLE + assigned + _text()


@cache
def _text() -> str:
    lines = (Path(__file__).parent / "launch.sh").read_text().splitlines()
    return "".join(f"{line}\n" for line in lines if not line.lstrip().startswith("#"))


def said(output: str, nonce: str) -> Said | None:
    """The last line of launch.sh in what a host printed, None when there is none."""
    found = None
    for line in output.splitlines():
        # Not from the line's start: a login banner may end without a newline.
        match = _LINE.search(line)
        if match and match[1] == nonce:
            found = Said(match[2], int(match[3]), printable(match[4])[:MOST_TEXT].strip())
    return found
