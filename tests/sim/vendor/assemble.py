"""The whole vendor repository as one content-addressed directory, built once and shared."""

from __future__ import annotations

import email.utils
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pysequoia import Tsk

from tests.sim import machine

from . import (
    branches,
    containers,
    deb,
    debian,
    driver,
    el,
    el_base,
    libraries,
    repo,
    rpm,
    toolkit,
    ubuntu,
    wheelhouse,
    wheels,
)
from .packages import Compiled, Package
from .rpm import Rpm

PACKAGES = ("apt-utils", "gcc", "gpgv", "libc6-dev", *rpm.TOOLS)
"""Debian packages that building the repository needs beside dpkg and Python."""

KEY_NAME = "3bf863cc.pub"
RPM_KEY_NAME = "D42D0685.pub"
"""The vendor's file names for its public keys (research: provisioning 2.5); the keys are ours."""

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Place:
    """Where one system's packages are in a built repository, and which key signs them."""

    cuda: str
    """The vendor's."""
    extra: str
    """The system's own."""
    key_name: str
    """File of the vendor's key, in `cuda`."""
    extra_key: str
    """The key of `extra`, from the repository's root."""


PLACES = {
    "debian12": Place(
        "cuda/debian12/x86_64/", "extra/", KEY_NAME, f"cuda/debian12/x86_64/{KEY_NAME}"
    ),
    "ubuntu2404": Place(
        "cuda/ubuntu2404/x86_64/", "ubuntu2404/", KEY_NAME, f"cuda/ubuntu2404/x86_64/{KEY_NAME}"
    ),
    "rhel9": Place("cuda/rhel9/x86_64/", "rhel9/", RPM_KEY_NAME, f"rhel9/{el_base.KEY_NAME}"),
}
EPEL = "epel9/"
EARLIER = "earlier/"
"""Below it every vendor's repository once more, as it was before its newest drivers came."""
NEWEST = ("580.178.04", "595.91.07")
SIGNED_AS = {
    "debian12": ("gpufleet simulation", "Simulated Debian extra"),
    "ubuntu2404": ("Ubuntu", "Ubuntu"),
}
"""Origin and label of a system's own repository of debs."""


@dataclass(frozen=True)
class VendorRepo:
    """A built repository. The paths are relative to `root` and to the server's address alike."""

    root: Path
    fingerprints: dict[str, str]
    """Primary key of each system's repositories."""
    cuda: str = PLACES["debian12"].cuda
    extra: str = PLACES["debian12"].extra
    wheels: str = "wheels/simple/"
    wheels_by_build: str = "wheels/whl/"

    @property
    def key_fingerprint(self) -> str:
        """The key of the repositories of debs."""
        return self.fingerprints["debian12"]

    @property
    def key_file(self) -> Path:
        """The public key of the repositories of debs."""
        return self.key_of("debian12")

    def key_of(self, system: str) -> Path:
        """The public key of one system's repositories."""
        place = PLACES[system]
        return self.root / place.cuda / place.key_name


def vendor_packages() -> list[Package]:
    """The catalogue of the vendor's repository for Debian."""
    return driver.packages() + branches.packages() + common_packages()


def common_packages() -> list[Package]:
    """What the vendor's repositories of debs have in common."""
    return toolkit.packages() + libraries.packages() + containers.packages()


def debs(kernel_release: str) -> dict[str, list[Package]]:
    """Every repository of debs by its place."""
    return {
        PLACES["debian12"].cuda: vendor_packages(),
        PLACES["debian12"].extra: debian.packages(kernel_release),
        PLACES["ubuntu2404"].cuda: ubuntu.packages() + common_packages(),
        PLACES["ubuntu2404"].extra: debian.system(kernel_release) + ubuntu.archive(kernel_release),
    }


def rpms(kernel_release: str) -> dict[str, list[Rpm]]:
    """Every repository of rpms by its place."""
    return {
        PLACES["rhel9"].cuda: el.packages(),
        PLACES["rhel9"].extra: el_base.packages(kernel_release),
        EPEL: el_base.epel(),
    }


def build(cache_dir: Path, kernel_release: str) -> VendorRepo:
    """Return the repository for this kernel, building it below `cache_dir` unless it is there.

    The directory's name is a hash of everything that decides its content: this package's files, the
    kernel, the key and the machine's own torch wheels. It appears whole or not at all; a build that
    was killed is removed by the next one. Raises RuntimeError with a build tool's output.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    keys = cache_dir / "keys"
    with _lock(cache_dir / "vendor.lock"):
        key = repo.signing_key(keys / "vendor-repository.pgp")
        rpm_key = _rpm_key(keys / "vendor-rpm.pgp", "Simulated NVIDIA CUDA rpm repository")
        own_key = _rpm_key(keys / "system-rpm.pgp", "Simulated Enterprise Linux")
        certificates = {
            system: (rpm_key if place.key_name == RPM_KEY_NAME else key).extract_certificate()
            for system, place in PLACES.items()
        }
        fingerprints = {name: str(one.fingerprint).upper() for name, one in certificates.items()}
        real = cpu_wheels()
        every = " ".join((*fingerprints.values(), str(own_key.extract_certificate().fingerprint)))
        name = f"vendor-{_digest(kernel_release, every, real)}"
        root = cache_dir / name
        if not root.is_dir():
            for stale in cache_dir.glob("vendor-*.tmp*"):
                shutil.rmtree(stale)
            with tempfile.TemporaryDirectory(prefix=f"{name}.tmp-", dir=cache_dir) as partial:
                tree = Path(partial) / "root"
                _build(tree, kernel_release, key, keys, real)
                public = {tree / PLACES["rhel9"].extra_key: own_key.extract_certificate()}
                for system, place in PLACES.items():
                    for cuda in (tree / place.cuda, tree / EARLIER / place.cuda):
                        public[cuda / place.key_name] = certificates[system]
                for file, certificate in public.items():
                    file.write_text(str(certificate))
                    file.chmod(0o644)  # a user without root reads what root has built
                tree.rename(root)
    return VendorRepo(root, fingerprints)


def cpu_wheels() -> list[Path]:
    """The machine's own CPU wheels of torch, from the folders that pip is told to look in."""
    return sorted(w for folder in machine.folders() for w in folder.glob("torch-*+cpu-*linux*.whl"))


def _rpm_key(file: Path, owner: str) -> Tsk:
    return Tsk.from_bytes(rpm.signing_key(file, f"{owner} <nobody@localhost>"))


def _build(tree: Path, kernel_release: str, key: Tsk, keys: Path, real: list[Path]) -> None:
    catalogue = {tree / place: packages for place, packages in debs(kernel_release).items()}
    of_rpms = {tree / place: packages for place, packages in rpms(kernel_release).items()}
    workers = min(4, os.cpu_count() or 1)
    with tempfile.TemporaryDirectory(prefix="compiled-", dir=tree.parent) as compiled:
        wanted = (*catalogue.values(), *of_rpms.values())
        artefacts = deb.compile_all(_artefacts(wanted), Path(compiled), workers)
        for directory, packages in catalogue.items():
            directory.mkdir(parents=True)
            deb.build_all(packages, artefacts, directory, workers)
        for directory, of_one in of_rpms.items():
            directory.mkdir(parents=True)
            rpm.build_all(of_one, artefacts, directory, workers)
        wheelhouse.build(tree / "wheels", artefacts, real)
    for system, (origin, label) in SIGNED_AS.items():
        repo.index(tree / PLACES[system].cuda, key, origin="NVIDIA", label="NVIDIA CUDA")
        repo.index(tree / PLACES[system].extra, key, origin=origin, label=label)
    with ThreadPoolExecutor(workers) as pool:
        vendors, own = tree / PLACES["rhel9"].cuda, keys / "system-rpm.pgp"
        signed = [pool.submit(rpm.index, vendors, keys / "vendor-rpm.pgp", el.modules())]
        signed += [pool.submit(rpm.index, place, own) for place in of_rpms if place != vendors]
        for one in signed:
            one.result()
    for place in PLACES.values():
        before = tree / EARLIER / place.cuda
        before.mkdir(parents=True)
        for file in (*(tree / place.cuda).glob("*.deb"), *(tree / place.cuda).glob("*.rpm")):
            if not any(version in file.name for version in NEWEST):
                os.link(file, before / file.name)
        if place.key_name == RPM_KEY_NAME:
            rpm.index(before, keys / "vendor-rpm.pgp", el.modules())
        else:
            day = email.utils.formatdate(deb.EPOCH)
            repo.index(before, key, origin="NVIDIA", label="NVIDIA CUDA", date=day)
        for file in before.rglob("*"):
            if file.is_file() and file.suffix not in (".deb", ".rpm"):
                os.utime(file, (deb.EPOCH, deb.EPOCH))  # clients ask what changed since


def _artefacts(
    catalogues: Iterable[Sequence[Package] | Sequence[Rpm]],
) -> Iterator[Compiled]:
    for packages in catalogues:
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
