"""The fixed shell texts of the layers by name, and commands taken apart into them.

A command is a preamble, assignments and fixed texts of `deploy` modules. Shown in full in every
golden file, the texts would hide what differs; `scripts.txt` has a digest of each.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from dataclasses import dataclass
from functools import cache

from deploy.shell import PREAMBLE

LEAST_LINES = 3
"""A shorter text is shown as it is."""
_ASSIGNED = re.compile(r"^([A-Za-z_][A-Za-z0-9_]*)=('[^\n]*'|[^\s'\";&|<>()$`]*)$", re.MULTILINE)


ROOMS = ("", "layers.")
"""Parts of `deploy` whose modules hold such texts."""


def _modules() -> list[tuple[str, str]]:
    """Last name and whole name of every module of these rooms, in the order of the last ones."""
    found = [
        (info.name, f"deploy.{room}{info.name}")
        for room in ROOMS
        for info in pkgutil.iter_modules(
            importlib.import_module(f"deploy.{room}".rstrip(".")).__path__
        )
        if info.name != "site"  # a pyinfra deploy: it acts when it is imported
    ]
    return sorted(found)


@cache
def blocks() -> tuple[tuple[str, str], ...]:
    """Every fixed shell text of the layers with its name, the longest first."""
    found: dict[str, str] = {}
    for short, whole in _modules():
        for name, value in vars(importlib.import_module(whole)).items():
            own = name.strip("_").isupper() and isinstance(value, str)
            if own and value.count("\n") >= LEAST_LINES and value != PREAMBLE:
                found.setdefault(value, f"{short}.{name.strip('_').lower()}")
    return tuple(sorted(((n, t) for t, n in found.items()), key=lambda pair: -len(pair[1])))


def unquoted(word: str) -> str:
    """The inverse of shlex.quote. shlex itself reads a megabyte a second."""
    return word[1:-1].replace("'\"'\"'", "'") if word.startswith("'") else word


@dataclass(frozen=True)
class Parts:
    """One command in readable parts."""

    text: str
    """The script without its preamble, every fixed text replaced by <name>."""
    names: tuple[str, ...]
    """Fixed texts in it, in order."""
    values: dict[str, str]
    """What is assigned outside the fixed texts."""


@cache
def parts(shell: str) -> Parts:
    """Take a command apart. Raises AssertionError when it does not begin with the preamble."""
    assert shell.startswith(PREAMBLE), f"a command without the common preamble: {shell[:200]}"
    text = shell.removeprefix(PREAMBLE)
    for name, fixed in blocks():
        text = text.replace(fixed, f"<{name}>\n")
    values = {found[1]: unquoted(found[2]) for found in _ASSIGNED.finditer(text)}
    names = tuple(re.findall(r"^<([a-z0-9_]+\.[a-z0-9_]+)>$", text, re.MULTILINE))
    return Parts(text=text, names=names, values=values)
