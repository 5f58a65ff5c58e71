"""Where the simulated fleets keep their files: one directory, removed whole by `purge`."""

from __future__ import annotations

import os
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,29}\Z")


def cache() -> Path:
    """Return the root of everything: `$XDG_CACHE_HOME/gpufleet/sim`, else below ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "gpufleet" / "sim"


def make_cache() -> None:
    """Make the cache directory, as the user's own when sudo runs this."""
    missing = [d for d in (cache(), *cache().parents) if not d.exists()]
    for directory in reversed(missing):
        directory.mkdir()
        give_to_user(directory)


def fleets() -> Path:
    """Return the directory that holds one directory per fleet."""
    return cache() / "fleets"


def keys() -> Path:
    """Return the directory of the login key that every node accepts."""
    return cache() / "keys"


def valid_name(name: str) -> bool:
    """Tell whether a fleet or node may bear this name: a DNS label, it reaches shells and paths."""
    return _NAME.match(name) is not None and not name.endswith("-")


def give_to_user(*files: Path) -> None:
    """Let the user behind sudo own files that ssh and tests must read; nothing without sudo."""
    uid, gid = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
    if os.geteuid() == 0 and uid and gid:
        for file in files:
            os.chown(file, int(uid), int(gid))
