"""Stub packages become .deb files: compile what needs it, lay out a tree, run dpkg-deb."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .packages import FILES, Compiled, Link, Package, Text

EPOCH = 1735689600
"""Time stamp of every packaged file (2025-01-01), so that equal sources give equal files."""


def compile_all(wanted: Iterable[Compiled], directory: Path, workers: int) -> dict[Compiled, Path]:
    """Compile each distinct artefact once into `directory`; RuntimeError carries gcc's words."""

    def build(artefact: Compiled) -> tuple[Compiled, Path]:
        name = hashlib.sha256(repr(artefact).encode()).hexdigest()[:16]
        target = directory / name
        command = ["gcc", "-O1", "-Wall", "-Werror", "-s", "-Wl,-z,noseparate-code", f"-I{FILES}"]
        command += [f"-D{key}={value}" for key, value in artefact.defines]
        if artefact.soname:
            command += ["-shared", "-fPIC", f"-Wl,-soname,{artefact.soname}"]
        if artefact.source == "stublib.c":
            command.append("-nostdlib")
        if artefact.source == "module.c":
            command += ["-c", "-ffreestanding"]
        with tempfile.TemporaryDirectory(prefix="needed-", dir=directory) as beside:
            needed = [_named(soname, Path(beside)) for soname in artefact.needed]
            if needed:
                path = ":".join(artefact.runpath)
                needed = ["-Wl,--no-as-needed", f"-Wl,--enable-new-dtags,-rpath,{path}", *needed]
            run([*command, str(FILES / artefact.source), *needed, "-o", str(target)])
        return artefact, target

    with ThreadPoolExecutor(workers) as pool:
        return dict(pool.map(build, dict.fromkeys(wanted)))


def _named(soname: str, directory: Path) -> str:
    """An empty library of this name, to be linked against and thrown away."""
    target = str(directory / soname)
    kind = ("-shared", "-nostdlib", f"-Wl,-soname,{soname}")
    run(["gcc", *kind, "-x", "c", os.devnull, "-o", target])
    return target


def build_all(
    packages: Iterable[Package], artefacts: dict[Compiled, Path], directory: Path, workers: int
) -> None:
    """Write one .deb per package into `directory`."""

    def build(package: Package) -> None:
        with tempfile.TemporaryDirectory(prefix="deb-", dir=directory) as tree:
            lay_out(package, artefacts, Path(tree))
            # no compression: the files are tiny and there are many
            run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree,
                 str(directory / package.filename)])  # fmt: skip

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(build, packages))


def lay_out(package: Package, artefacts: dict[Compiled, Path], root: Path) -> None:
    """The package's files and its DEBIAN directory under `root`."""
    for path, content in package.payload.items():
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            target.symlink_to(content.target)
        elif isinstance(content, Text):
            target.write_text(content.content)
            target.chmod(content.mode)
        else:
            os.link(artefacts[content], target)
            target.chmod(content.mode)
    meta = root / "DEBIAN"
    meta.mkdir()
    lines = [f"{key}: {value}\n" for key, value in package.control().items()]
    (meta / "control").write_text("".join(lines))
    if package.conffiles:
        (meta / "conffiles").write_text("".join(f"{path}\n" for path in package.conffiles))
    if package.triggers:
        (meta / "triggers").write_text("".join(f"{trigger}\n" for trigger in package.triggers))
    for name, script in package.scripts.items():
        (meta / name).write_text(script)
        (meta / name).chmod(0o755)
    for directory in (root, *(path for path in root.rglob("*") if path.is_dir())):
        if not directory.is_symlink():
            directory.chmod(0o755)  # whatever this process's umask is


def run(command: list[str], **more: object) -> str:
    """Run a build tool; its output is in the exception when it fails."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        **more,  # type: ignore[call-overload]
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)}\nexit {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return str(done.stdout)
