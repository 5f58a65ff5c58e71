"""How a layer writes a command: one preamble for all, every value quoted."""

import shlex
from collections.abc import Iterable

PREAMBLE = """\
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 022
"""


def script(*parts: str) -> str:
    """A POSIX sh script of `parts` that stops at the first failure.

    Messages come in C's words, because some of them are read; the path holds the sbin folders,
    because sudo and container execs do not all bring them.
    """
    return PREAMBLE + "".join(part if part.endswith("\n") else part + "\n" for part in parts)


def words(values: Iterable[str]) -> str:
    """Every value quoted, in the given order, as one list of shell words."""
    return " ".join(shlex.quote(value) for value in values)


def assign(**values: str) -> str:
    """One assignment a line; names are ours, values are anybody's."""
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
