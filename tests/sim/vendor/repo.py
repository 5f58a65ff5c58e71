"""A directory of .deb files becomes a flat apt repository, signed with a key of its own."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

from pysequoia import Profile, SignatureMode, Tsk, sign

from .deb import run

KEY_USER = "Simulated NVIDIA CUDA repository <nobody@localhost>"


def signing_key(file: Path) -> Tsk:
    """The repository's secret key, generated once and kept in `file` (mode 600).

    The key outlives rebuilds of the repository, so that hosts which trust it go on doing so.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.touch(0o600)
        # the profile that gpgv of Debian 12 reads
        partial.write_bytes(bytes(Tsk.generate(KEY_USER, profile=Profile.RFC4880)))
        partial.rename(file)
    return Tsk.from_bytes(file.read_bytes())


def index(directory: Path, key: Tsk, *, origin: str, label: str, date: str = "") -> None:
    """Write Packages, Packages.gz, Release, InRelease and Release.gpg beside the packages.

    A flat repository has no suite or component, as the vendor's: apt sees origin and label only.
    `date` in RFC 2822's form, else now; apt takes no index that is older than the one it has.
    """
    listing = run(["apt-ftparchive", "packages", "."], cwd=directory)
    (directory / "Packages").write_text(listing)
    (directory / "Packages.gz").write_bytes(gzip.compress(listing.encode(), mtime=0))
    options = {"Origin": origin, "Label": label, "Architectures": "amd64 all"}
    if date:
        options["Date"] = date
    arguments = [f"-oAPT::FTPArchive::Release::{key}={value}" for key, value in options.items()]
    release = run(["apt-ftparchive", *arguments, "release", "."], cwd=directory).encode()
    (directory / "Release").write_bytes(release)
    (directory / "InRelease").write_bytes(sign(key.signer(), release, mode=SignatureMode.CLEAR))
    (directory / "Release.gpg").write_bytes(
        sign(key.signer(), release, mode=SignatureMode.DETACHED)
    )
