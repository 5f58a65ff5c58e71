"""The operating systems that a node can be: Debian 12, or another's label and tools on top of it.

A further read-only layer over the Debian base holds what differs: `systems/NAME/` as files, Debian
packages that bring the other system's tools, and `systems/NAME.sh`, which finishes the layer.
Ubuntu 24.04 is Debian's apt under Ubuntu's os-release and package names. Enterprise Linux 9 has the
real rpm and dnf 4 (with modules and versionlock) of Debian's packages; apt and dpkg are taken away.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.sim import paths
from tests.sim.proc import ISOLATE, SimError, exclusive, say

DEFAULT = "debian12"
_HERE = Path(__file__).with_name("systems")


@dataclass(frozen=True)
class System:
    """What a system has beside the base."""

    packages: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    """Files of the guest layer that it must not have."""


SYSTEMS = {
    DEFAULT: System(),
    "ubuntu2404": System(),
    "rhel9": System(
        packages=("rpm", "dnf", "dnf-plugins-core"), without=("usr/sbin/update-initramfs",)
    ),
}


def ensure(name: str, base: Path) -> list[Path]:
    """Return the layers of a system, top first: its own, when it has one, and the base.

    Built once for equal inputs. Raises SimError when a step fails, with the end of its log.
    """
    tree, script = _HERE / name, _HERE / f"{name}.sh"
    if name == DEFAULT:
        return [base]
    files = sorted(file for file in tree.rglob("*") if file.is_file())
    digest = hashlib.sha256(repr((base.name, SYSTEMS[name].packages)).encode())
    for file in (script, *files):
        digest.update(str(file.relative_to(_HERE)).encode() + b"\0" + file.read_bytes() + b"\0")
    layer = paths.cache() / f"system-{name}-{digest.hexdigest()[:12]}"
    with exclusive(paths.cache() / "system.lock", f"building the layer of {name}"):
        if not layer.is_dir():
            _build(name, base, layer)
    return [layer, base]


def _build(name: str, base: Path, layer: Path) -> None:
    for leftover in paths.cache().glob(f"system-{name}-*.building*"):
        shutil.rmtree(leftover)
    staging = layer.with_name(layer.name + ".building")
    shutil.copytree(_HERE / name, staging)
    log = layer.with_suffix(".log")
    say(f"building the layer of {name}, once, up to a minute (log: {log})")
    with log.open("w") as out:
        built = subprocess.run(
            [*ISOLATE, "sh", str(_HERE / "build.sh"), str(base), str(staging),
             str(_HERE / f"{name}.sh"), *SYSTEMS[name].packages],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    if built.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise SimError(f"the layer of {name} was not built (whole log: {log}):\n{tail}")
    staging.rename(layer)
