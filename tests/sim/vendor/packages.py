"""What a stub package is: control fields, payload and maintainer scripts, as plain data.

The catalogues beside this file (`driver.py`, `toolkit.py`, `libraries.py`, `debian.py`) list
packages in these terms; `deb.py` turns one into a .deb.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

FILES = Path(__file__).with_name("files")


@dataclass(frozen=True)
class Text:
    """A regular file with this content."""

    content: str
    mode: int = 0o644


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True)
class Compiled:
    """A file made by the C compiler from `files/<source>`, the same for equal fields.

    `defines` become -D options; a soname makes it a shared library, none an executable. It names
    the sonames in `needed` as libraries to load with it, found in `runpath` ($ORIGIN allowed).
    """

    source: str
    defines: tuple[tuple[str, str], ...] = ()
    soname: str = ""
    needed: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()

    @property
    def mode(self) -> int:
        return 0o644 if self.soname else 0o755


Payload = Text | Link | Compiled


@dataclass(frozen=True)
class Package:
    """One binary package. Relations are dpkg's own syntax; paths in `payload` are absolute."""

    name: str
    version: str
    description: str
    source: str = ""
    architecture: str = "amd64"
    section: str = "non-free/libs"
    relations: dict[str, str] = field(default_factory=dict)
    payload: Mapping[str, Payload] = field(default_factory=dict)
    scripts: dict[str, str] = field(default_factory=dict)
    triggers: tuple[str, ...] = ()
    installed_kib: int = 64

    @property
    def filename(self) -> str:
        """The vendor's file name: the epoch is left out, as dpkg-name does."""
        return f"{self.name}_{self.version.split(':', 1)[-1]}_{self.architecture}.deb"

    @property
    def conffiles(self) -> list[str]:
        """Everything under /etc is a conffile, as debhelper marks it."""
        return sorted(path for path in self.payload if path.startswith("/etc/"))

    def control(self) -> dict[str, str]:
        """The control stanza, in dpkg's usual order."""
        fields = {"Package": self.name}
        if self.source:
            fields["Source"] = self.source
        fields |= {
            "Version": self.version,
            "Architecture": self.architecture,
            "Maintainer": "Simulated vendor <nobody@localhost>",
            "Installed-Size": str(self.installed_kib),
            **self.relations,
            "Section": self.section,
            "Priority": "optional",
            "Description": f"{self.description} (simulated)",
        }
        return fields


def text_file(name: str, mode: int = 0o644, **values: str) -> Text:
    """`files/<name>` with every @KEY@ replaced; one that is left over is a programming error."""
    content = (FILES / name).read_text()
    for key, value in values.items():
        content = content.replace(f"@{key}@", value)
    if left := re.findall(r"@[A-Z_]+@", content):
        raise ValueError(f"files/{name}: nothing was given for {', '.join(sorted(set(left)))}")
    return Text(content, mode)


def shared_library(
    soname: str,
    version: str,
    function: tuple[str, int] | None = None,
    *,
    out_parameter: bool = False,
) -> Compiled:
    """A tiny real ELF library; `function` is a version query that it exports, with its answer.

    The query returns its answer, or with `out_parameter` stores it and returns 0.
    """
    defines = [("LIBRARY", f'"{soname} {version}"')]
    if function:
        defines += [("VERSION_FUNCTION", function[0]), ("VERSION_ANSWER", str(function[1]))]
    if out_parameter:
        defines.append(("SIGNATURE_OUT", "1"))
    return Compiled("stublib.c", tuple(defines), soname)
