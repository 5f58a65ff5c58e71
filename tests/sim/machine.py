"""What nodes take over from the machine they run on: resolvers, pip and uv settings, folders."""

from __future__ import annotations

import configparser
import os
import re
from pathlib import Path
from urllib.parse import urlparse

from tests.sim.proc import SimError

_PIP_KEYS = ("index-url", "extra-index-url", "find-links", "trusted-host", "cert", "proxy")
_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def resolvers() -> str:
    """Return a resolv.conf that works in a node: loopback resolvers are left out.

    Raises SimError when only loopback ones are configured; SIM_DNS=ADDRESS names another.
    """
    if address := os.environ.get("SIM_DNS"):
        return f"nameserver {address}\n"
    for file in (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")):
        if file.exists() and (usable := usable_resolvers(file.read_text())) is not None:
            return usable
    raise SimError(
        "this machine resolves names through a loopback address only, which nodes cannot reach; "
        "name another resolver: SIM_DNS=ADDRESS python -m tests.sim up"
    )


def usable_resolvers(text: str) -> str | None:
    """Return a resolv.conf without its loopback resolvers, None when none is left."""
    lines = [x for x in text.splitlines() if not re.match(r"\s*nameserver\s+(127\.|::1)", x)]
    if not any(line.split()[:1] == ["nameserver"] for line in lines):
        return None
    return "".join(f"{line}\n" for line in lines)


def settings() -> dict[str, bytes]:
    """Return pip's and uv's configuration for nodes, by path."""
    pip = _pip()
    files: dict[str, bytes] = {}
    if pip:
        lines = "".join(f"{key} = {' '.join(value.split())}\n" for key, value in pip.items())
        files["etc/pip.conf"] = f"[global]\n{lines}".encode()
        if (cert := Path(pip.get("cert", _BUNDLE))) != Path(_BUNDLE) and cert.is_file():
            files[str(cert).lstrip("/")] = cert.read_bytes()
    own = [Path("/etc/uv/uv.toml"), Path.home() / ".config/uv/uv.toml"]
    text = next((file.read_text() for file in own if file.is_file()), "")
    if "native-tls" not in text:  # trust what the node's system trusts, the machine's own CAs too
        text = f"native-tls = true\n{text}"
    files["etc/uv/uv.toml"] = text.encode()
    return files


def folders() -> list[Path]:
    """Return the local wheel folders that pip is configured with; nodes see them read-only."""
    pip = _pip()
    words = " ".join(pip.get(key, "") for key in ("find-links", "index-url", "extra-index-url"))
    found = []
    for word in words.split():
        path = Path(urlparse(word).path if word.startswith("file://") else word)
        if path.is_absolute() and path.is_dir():
            # An index of links (simple/) points to files beside it.
            found.append(path.parent if path.name == "simple" else path)
    return sorted(set(found))


def _pip() -> dict[str, str]:
    """Read pip's own configuration in pip's order: site, user, environment."""
    home = Path.home()
    files = [Path("/etc/pip.conf"), home / ".pip/pip.conf", home / ".config/pip/pip.conf"]
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(file for file in files if file.exists())
    pip = dict(parser["global"]) if parser.has_section("global") else {}
    for key in _PIP_KEYS:
        if value := os.environ.get("PIP_" + key.upper().replace("-", "_")):
            pip[key] = value
    return {key: pip[key] for key in _PIP_KEYS if pip.get(key)}
