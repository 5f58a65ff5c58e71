"""Folders of a test on the fleet's network, and the vendor's repository as in other months."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.fleet.live import LiveFleet
from tests.sim import paths, vendor
from tests.sim.vendor import repo


@contextmanager
def served(live: LiveFleet, folder: Path) -> Iterator[str]:
    """Serve a folder with the simulated vendor's web server; its address."""
    gateway = str(live.document["gateway"])
    with socket.socket() as free:
        free.bind((gateway, 0))
        port = free.getsockname()[1]
    command = vendor.serve_command(folder, gateway, port)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait(gateway, port)
            yield f"http://{gateway}:{port}"
        finally:
            server.kill()


def _wait(address: str, port: int) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            socket.create_connection((address, port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"nobody serves at {address}:{port}")


@dataclass
class Months:
    """A mirror of the vendor's repository for Debian 12 that changes from month to month."""

    source: Path
    folder: Path
    url: str
    number: int = 0

    def show(self, *without: str) -> None:
        """From now on it has every package but those with one of these words in their names."""
        self.number += 1
        for old in self.folder.glob("*.deb"):
            old.unlink()
        for package in self.source.glob("*.deb"):
            if not any(word in package.name for word in without):
                shutil.copy(package, self.folder)
        key = repo.signing_key(paths.cache() / "keys/vendor-repository.pgp")
        repo.index(self.folder, key, origin="NVIDIA", label="NVIDIA CUDA")
        changed = time.time() - 3600 + self.number  # in another second than the month before
        for index in (*self.folder.glob("*Release*"), *self.folder.glob("Packages*")):
            os.utime(index, (changed, changed))


@contextmanager
def months(live: LiveFleet, folder: Path) -> Iterator[Months]:
    """A mirror that is empty until it is told to `show` something."""
    path = urlsplit(live.vendor_url).path.strip("/")
    source = Path(live.document["vendor_root"]) / path
    mirror = folder / "mirror"
    mirror.mkdir()
    shutil.copy(live.vendor_key_file, mirror)
    with served(live, mirror) as url:
        yield Months(source, mirror, url)
