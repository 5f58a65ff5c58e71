"""A small build of Python in the form that uv installs, from a node's own interpreter; a site's
list of downloads that names it, and its page of tiny wheels.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fleet.live import LiveFleet
from tests.fleet.served import served
from tests.sim.vendor.wheelhouse import write
from tests.sim.vendor.wheels import Wheel

VERSION = "3.11.2"
"""Of Debian 12, of which the nodes are."""
KEY = f"cpython-{VERSION}-linux-x86_64-gnu"
ARCHIVE = "cpython-install_only.tar.gz"

PACK = """\
cd /usr
tar -c --transform 's,^,python/,' \\
    --exclude=__pycache__ --exclude=test --exclude=idlelib --exclude=tkinter --exclude='config-*' \\
    bin/python3.11 lib/python3.11 | gzip -1 | base64 -w 0
"""


@dataclass
class Site:
    """A folder of the site's, as its web server shows it."""

    folder: Path
    url: str

    def offer(self, sha256: str = "") -> str:
        """Write the list of downloads, with this hash instead of the true one; its address."""
        true = hashlib.sha256((self.folder / ARCHIVE).read_bytes()).hexdigest()
        major, minor, patch = (int(part) for part in VERSION.split("."))
        entry = {
            "name": "cpython",
            "arch": {"family": "x86_64", "variant": None},
            "os": "linux",
            "libc": "gnu",
            "major": major,
            "minor": minor,
            "patch": patch,
            "prerelease": "",
            "url": f"{self.url}/{ARCHIVE}",
            "sha256": sha256 or true,
            "variant": None,
            "build": None,
        }
        name = f"list-{sha256[:4] or 'true'}.json"
        (self.folder / name).write_text(json.dumps({KEY: entry}))
        return f"{self.url}/{name}"

    def publish(self, name: str, version: str) -> str:
        """Put a wheel beside those on the site's page of wheels; the page's address."""
        wheel = Wheel(name, version, (), tag="py3-none-any", texts={f"{name}.py": ""})
        write(wheel, {}, self.folder)
        links = "".join(f'<a href="{one.name}">{one.name}</a>' for one in self.folder.glob("*.whl"))
        (self.folder / "wheels.html").write_text(
            f"<!DOCTYPE html><html><body>{links}</body></html>"
        )
        return f"{self.url}/wheels.html"


@contextmanager
def site(live: LiveFleet, node: str, folder: Path) -> Iterator[Site]:
    """A build of this node's Python, served on the fleet's network."""
    packed = live.root(node, PACK).ok()
    (folder / ARCHIVE).write_bytes(base64.b64decode(packed))
    with served(live, folder) as url:
        yield Site(folder, url)
