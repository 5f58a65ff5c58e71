"""Wheel files and the index pages that offer them.

Layout under `wheels/`: `files/`, one PEP 503 index of everything in `simple/`, and as on
download.pytorch.org one per build in `whl/cu126/`, `whl/cu130/` and, when the machine has a real
CPU wheel of torch, `whl/cpu/`. Metadata is served beside each wheel (PEP 658).
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

from .packages import Compiled
from .wheels import Wheel, wheels


def write(wheel: Wheel, artefacts: dict[Compiled, Path], directory: Path) -> Path:
    """Write one wheel and its .metadata; the same input gives the same bytes."""
    info = f"{wheel.stem}.dist-info"
    members: dict[str, bytes] = {path: text.encode() for path, text in wheel.texts.items()}
    members |= {path: artefacts[lib].read_bytes() for path, lib in wheel.libraries.items()}
    members[f"{info}/METADATA"] = wheel.metadata().encode()
    members[f"{info}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: gpufleet-simulation\n"
        f"Root-Is-Purelib: {'true' if wheel.tag.endswith('any') else 'false'}\n"
        + "".join(
            f"Tag: {tag}-{wheel.tag.split('-', 1)[1]}\n"
            for tag in wheel.tag.split("-")[0].split(".")
        )
    ).encode()
    record = f"{info}/RECORD"
    rows = [f"{path},sha256={_digest(data)},{len(data)}" for path, data in members.items()]
    members[record] = "\n".join([*rows, f"{record},,", ""]).encode()
    target = directory / wheel.filename
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in members.items():
            entry = zipfile.ZipInfo(path, (2025, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    target.with_name(target.name + ".metadata").write_text(wheel.metadata())
    return target


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def build(root: Path, artefacts: dict[Compiled, Path], real: Iterable[Path]) -> None:
    """Fill `root`: stub wheels, links to the machine's `real` wheels, and every index."""
    files = root / "files"
    files.mkdir(parents=True)
    pages: dict[tuple[str, str], list[Path]] = {}
    for wheel in wheels():
        path = write(wheel, artefacts, files)
        for index in ("simple", *(f"whl/{variant}" for variant in wheel.variants)):
            pages.setdefault((index, wheel.name), []).append(path)
    for found in real:
        path = files / found.name
        path.symlink_to(found)
        with zipfile.ZipFile(found) as archive:
            (member,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
            path.with_name(path.name + ".metadata").write_bytes(archive.read(member))
        for index in ("simple", "whl/cpu"):
            pages.setdefault((index, "torch"), []).append(path)
    hashes = {path: _sha256(path) for paths in pages.values() for path in paths}
    for (index, name), paths in pages.items():
        up = "../" * (index.count("/") + 2)
        links = "".join(_link(path, up, hashes) for path in sorted(set(paths)))
        _page(root / index / name, f"Links for {name}", links)
    for index in {index for index, _ in pages}:
        names = sorted(name for other, name in pages if other == index)
        _page(root / index, "Simple index", "".join(f'<a href="{n}/">{n}</a><br>\n' for n in names))


def _link(path: Path, up: str, hashes: dict[Path, str]) -> str:
    metadata = path.with_name(path.name + ".metadata")
    text = metadata.read_text()
    python = re.search(r"^Requires-Python: (.*)$", text, re.MULTILINE)
    attributes = f' data-core-metadata="sha256={_sha256(metadata)}"'
    if python:
        attributes += f' data-requires-python="{html.escape(python[1])}"'
    href = f"{up}files/{path.name.replace('+', '%2B')}#sha256={hashes[path]}"
    return f'<a href="{href}"{attributes}>{path.name}</a><br>\n'


def _page(directory: Path, title: str, body: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "index.html").write_text(
        '<!DOCTYPE html>\n<html><head><meta name="pypi:repository-version" content="1.0">'
        f"<title>{title}</title></head><body>\n{body}</body></html>\n"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
