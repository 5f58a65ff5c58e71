"""The layers between the base system and a node's own changes: guest files, then the node's seed.

Overlay order, top first: upper (what happened since the first boot), seed (name, addresses, keys,
hardware of this node), guest (the stand-ins and the machine's package settings), the layer of its
system where that is not Debian 12, base.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.sim import machine, paths
from tests.sim.proc import exclusive, isolated, run
from tests.sim.profiles import describe
from tests.sim.systems import SYSTEMS
from tests.sim.vendor import el_base
from tests.sim.vendor.debian import package_suffix

_HERE = Path(__file__).parent
_FILES = Path(__file__).with_name("guest")
_NVML = Path(__file__).with_name("vendor") / "files/nvml.c"


def guest(system: str, below: Sequence[Path], extra_url: str, extra: Path, key: Path) -> Path:
    """Return the guest layer, laid anew when a guest file, a setting, kernel or repository changed.

    `below` are the layers of the node's system, top first; `extra_url` serves the system's own
    packages, the machine's kernel among them, from the directory `extra`; `key` signs them.
    """
    made = _made_files()
    for file in SYSTEMS[system].without:
        del made[file]
    kernel = platform.release()
    if (extra / "repodata").is_dir():
        script = _HERE / "guest-rpm.sh"
        repository = (extra / "repodata/repomd.xml").read_bytes()
        packages = [*el_base.INSTALLED, "epel-release", f"kernel-core-{kernel}"]
    else:
        script = _HERE / "guest.sh"
        repository = (extra / "Packages").read_bytes()
        packages = [f"linux-image-{package_suffix(kernel)}"]
    names = [one.name for one in below]
    stamp = (names, extra_url, kernel, script.read_text(), repository, packages)
    digest = hashlib.sha256(repr(stamp).encode())
    for name, content in sorted(made.items()):
        digest.update(name.encode() + b"\0" + content + b"\0")
    layer = paths.cache() / f"guest-{digest.hexdigest()[:12]}"
    with exclusive(paths.cache() / "guest.lock", "the guest layer"):
        if not layer.is_dir():
            for leftover in paths.cache().glob("guest-*.building*"):
                shutil.rmtree(leftover)
            staging = layer.with_name(layer.name + ".building")
            _write(staging, made)
            lower = ":".join(map(str, below))
            isolated("sh", str(script), lower, str(staging), extra_url, str(key), *packages)
            staging.rename(layer)
    return layer


def seed(directory: Path, node: str, hardware: str, files: Mapping[str, str]) -> None:
    """Write a node's own layer: identity, host key, hardware; `files` by path inside the node."""
    key = directory / "etc/ssh/ssh_host_ed25519_key"
    if not key.exists():
        key.parent.mkdir(parents=True, exist_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"root@{node}", "-f", str(key))
    identity = directory / "etc/machine-id"
    if not identity.exists():
        identity.write_text(uuid.uuid4().hex + "\n")
    own = {
        "etc/hostname": f"{node}\n",
        "etc/sim/hardware.json": json.dumps(describe(node, hardware), indent=1) + "\n",
        "etc/resolv.conf": machine.resolvers(),
    }
    _write(directory, {name: text.encode() for name, text in (own | dict(files)).items()})


def prune(used: Iterable[Path]) -> None:
    """Note these layers as used now, and remove those that nothing has used for a day."""
    now = time.time()
    for layer in used:
        os.utime(layer, (now, now))
    for kind in ("base-*", "system-*", "guest-*", "vendor-*"):
        for layer in paths.cache().glob(kind):
            if layer.is_dir() and now - layer.stat().st_mtime > 86400 and not _stood_on(layer):
                shutil.rmtree(layer)
                layer.with_suffix(".log").unlink(missing_ok=True)


def _stood_on(layer: Path) -> bool:
    """Tell whether a running process (a node's supervisor, a web server) was given this layer."""
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(layer).encode() in command.read_bytes().split(b"\0"):
                return True
        except OSError:
            continue
    return False


def _made_files() -> dict[str, bytes]:
    """Return every file of the guest layer by path inside the node."""
    files = {
        str(file.relative_to(_FILES)): file.read_bytes()
        for file in sorted(_FILES.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    }
    fields = sorted(set(re.findall(r'"([a-z][a-z_]{2,})"', _NVML.read_text())))
    files["usr/local/lib/sim/nvml-fields"] = "\n".join(fields).encode()
    files |= machine.settings()
    files["home/ops/.ssh/authorized_keys"] = (paths.keys() / "id_ed25519.pub").read_bytes()
    return files


def _write(layer: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        file = layer / name
        if file.exists() and file.read_bytes() == content:
            continue  # a node may be standing on this layer
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(0o755 if content.startswith(b"#!") else 0o644)
    for unit in layer.glob("etc/systemd/system/*.service"):
        for target in re.findall(r"^WantedBy=(\S+)$", unit.read_text(), re.MULTILINE):
            link = unit.parent / f"{target}.wants" / unit.name
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(f"../{unit.name}")
    home = layer / "home/ops"
    if home.is_dir():  # sshd refuses keys that others could write; the base made ops user 1000
        for path in [home, *home.rglob("*")]:
            os.chown(path, 1000, 1000)
            path.chmod(0o700 if path.is_dir() else 0o600)
