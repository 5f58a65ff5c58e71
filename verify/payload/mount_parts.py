"""One mount point, asked in a process of its own: a server that is gone hangs whoever asks."""

from __future__ import annotations

import os
import sys
from typing import Any

from verify.payload.reading import text_of

TABLE = "/proc/self/mountinfo"


def mount(path: str, table: str = TABLE) -> dict[str, Any]:
    """Whether something is mounted there that answers; `mounted` False when nothing is.

    Looking comes before reading the table: an automounter mounts when somebody looks.
    """
    print(f"stage: statvfs {path}", file=sys.stderr, flush=True)
    try:
        real = os.path.realpath(path)
        status = os.statvfs(real)
    except OSError as error:
        gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        return {
            "mounted": False if gone else None,
            "error": f"{error.strerror or error}",
        }
    print(f"stage: listing {path}", file=sys.stderr, flush=True)
    try:
        with os.scandir(real) as entries:
            next(entries, None)
    except PermissionError:
        pass  # it answers, only not to this user
    except OSError as error:
        return {"mounted": True, "error": f"{error.strerror or error}"}
    found = _entry(real, table)
    if found is None:
        return {"mounted": False, "error": "nothing is mounted there"}
    kind, source, options = found
    readonly = bool(status.f_flag & os.ST_RDONLY) or "ro" in options
    return {"mounted": True, "type": kind, "source": source, "readonly": readonly, "error": ""}


def _entry(path: str, table: str) -> tuple[str, str, list[str]] | None:
    """Type, source and options of what is on top at a mount point; an automounter alone is
    nothing. The table's form: proc(5), /proc/pid/mountinfo."""
    found = None
    for line in text_of(table, 4_000_000).splitlines():
        left, _, right = line.partition(" - ")
        before, after = left.split(), right.split()
        if len(before) < 6 or len(after) < 2 or _plain(before[4]) != path:
            continue
        kind, source = after[0], _plain(after[1])
        if kind != "autofs":
            found = (kind, source, before[5].split(","))
    return found


def _plain(text: str) -> str:
    r"""A path as it is: the table writes a blank as \040."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
