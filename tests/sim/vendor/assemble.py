"""The whole vendor repository as one content-addressed directory, built once and shared."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pysequoia import Tsk

from tests.sim import machine

from . import branches, deb, debian, driver, libraries, repo, toolkit, wheelhouse, wheels
from .packages import Compiled, Package

PACKAGES = ("apt-utils", "gcc", "gpgv", "libc6-dev")
"""Debian packages that building the repository needs beside dpkg and Python."""

KEY_NAME = "3bf863cc.pub"
"""The vendor's file name for its public key (research: provisioning 2.5); the key is ours."""

HERE = Path(__file__).parent


@dataclass(frozen=True)
class VendorRepo:
    """A built repository. The paths are relative to `root` and to the server's address alike."""

    root: Path
    key_fingerprint: str
    key_file: Path
    cuda: str = "cuda/debian12/x86_64/"
    extra: str = "extra/"
    wheels: str = "wheels/simple/"
    wheels_by_build: str = "wheels/whl/"


def vendor_packages() -> list[Package]:
    """The catalogue of the vendor's repository."""
    return driver.packages() + branches.packages() + toolkit.packages() + libraries.packages()


def build(cache_dir: Path, kernel_release: str) -> VendorRepo:
    """Return the repository for this kernel, building it below `cache_dir` unless it is there.

    The directory's name is a hash of everything that decides its content: this package's files, the
    kernel, the key and the machine's own torch wheels. It appears whole or not at all; a build that
    was killed is removed by the next one. Raises RuntimeError with a build tool's output.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    key_file = cache_dir / "keys" / "vendor-repository.pgp"
    with _lock(cache_dir / "vendor.lock"):
        key = repo.signing_key(key_file)
        certificate = key.extract_certificate()
        real = cpu_wheels()
        name = f"vendor-{_digest(kernel_release, certificate.fingerprint, real)}"
        root = cache_dir / name
        if not root.is_dir():
            for stale in cache_dir.glob("vendor-*.tmp*"):
                shutil.rmtree(stale)
            with tempfile.TemporaryDirectory(prefix=f"{name}.tmp-", dir=cache_dir) as partial:
                tree = Path(partial) / "root"
                _build(tree, kernel_release, key, real)
                public = tree / VendorRepo.cuda / KEY_NAME
                public.write_text(str(certificate))
                public.chmod(0o644)  # a user without root reads what root has built
                tree.rename(root)
    return VendorRepo(root, certificate.fingerprint.upper(), root / VendorRepo.cuda / KEY_NAME)


def cpu_wheels() -> list[Path]:
    """The machine's own CPU wheels of torch, from the folders that pip is told to look in."""
    return sorted(w for folder in machine.folders() for w in folder.glob("torch-*+cpu-*linux*.whl"))


def _build(tree: Path, kernel_release: str, key: Tsk, real: list[Path]) -> None:
    cuda, extra = tree / VendorRepo.cuda, tree / VendorRepo.extra
    catalogue = {cuda: vendor_packages(), extra: debian.packages(kernel_release)}
    workers = min(4, os.cpu_count() or 1)
    with tempfile.TemporaryDirectory(prefix="compiled-", dir=tree.parent) as compiled:
        artefacts = deb.compile_all(_artefacts(catalogue), Path(compiled), workers)
        for directory, packages in catalogue.items():
            directory.mkdir(parents=True)
            deb.build_all(packages, artefacts, directory, workers)
        wheelhouse.build(tree / "wheels", artefacts, real)
    repo.index(cuda, key, origin="NVIDIA", label="NVIDIA CUDA")
    repo.index(extra, key, origin="gpufleet simulation", label="Simulated Debian extra")


def _artefacts(catalogue: dict[Path, list[Package]]) -> Iterator[Compiled]:
    for packages in catalogue.values():
        for package in packages:
            yield from (p for p in package.payload.values() if isinstance(p, Compiled))
    for wheel in wheels.wheels():
        yield from wheel.libraries.values()


def _digest(kernel_release: str, fingerprint: str, real: list[Path]) -> str:
    found = hashlib.sha256(f"{kernel_release}\0{fingerprint}\0".encode())
    for file in real:
        status = file.stat()
        found.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    for file in sorted(p for p in HERE.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        found.update(f"{file.relative_to(HERE)}\0".encode() + file.read_bytes() + b"\0")
    return found.hexdigest()[:12]


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    with file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
