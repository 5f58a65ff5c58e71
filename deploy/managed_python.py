"""The exact Python that uv brings where a host's own is not the one that is needed.

The controller fixes the build: the newest patch of the wished minor version in uv's own list, whose
hashes are part of uv (and uv is locked by hash), or in a list of the site's own, whose entry goes
into the lock with its hash. A host installs that build and no other.
"""

import hashlib
import json
import os
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from uv import find_uv_bin

from deploy.solving.parts import EnvironmentWish
from deploy.stack import ManagedPython

LIST_S = 60
"""For fetching a site's list, and for uv to read it."""
MOST_BYTES = 16_000_000
"""uv's own list, with every platform and every old patch, has about 5 MB."""


class NoPython(Exception):  # noqa: N818 - an answer, not a fault
    """No build can be locked; the message says why."""


def exact_python(wish: EnvironmentWish) -> ManagedPython:
    """The build for a wish. Raises NoPython."""
    request = f"cpython-{wish.python}-linux-{wish.platform.partition('-')[0]}-gnu"
    where = wish.python_downloads or "uv's own list"
    with tempfile.TemporaryDirectory(prefix="gpufleet-python-") as folder:
        options: list[str] = []
        entries: dict[str, Any] = {}
        if wish.python_downloads:
            text, entries = _site_list(wish.python_downloads)
            path = Path(folder) / "list.json"
            path.write_text(text)
            options = ["--python-downloads-json-url", str(path)]
        listed = _listed(request, options, where)
    # uv names every build that answers, of which the plain one of this very version is meant.
    parts = [int(number) for number in wish.python.split(".")]
    found = [
        one
        for one in listed
        if [one["version_parts"]["major"], one["version_parts"]["minor"]] == parts
        and one["variant"] == "default"
    ]
    if not found:
        raise NoPython(f"{where} has no build of Python {wish.python} for {request}")
    best = max(found, key=lambda one: int(one["version_parts"]["patch"]))
    key = str(best["key"])
    sha256 = str(entries.get(key, {}).get("sha256") or "")
    if wish.python_downloads and not sha256:
        raise NoPython(f"{where} has no sha256 for {key}, and nothing is installed without one")
    try:
        return ManagedPython(
            version=str(best["version"]), key=key, url=str(best["url"]), sha256=sha256
        )
    except ValidationError as error:
        wrong = error.errors()[0]["loc"][0]
        raise NoPython(
            f"{where} names a {wrong} of {key[:60]} that cannot be used (an address must hold no "
            "user name or password)"
        ) from None


def folder_of(python: ManagedPython) -> str:
    """Its directory below `<prefix>/python`: another build of the same version has another, so
    that installing one never changes files under a process that runs on the other."""
    content = json.dumps(python.model_dump(mode="json"), sort_keys=True)
    return f"{python.key}.{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def download_list(python: ManagedPython) -> str:
    """The list that a host gives to uv: this build only. "" when uv's own list pins it."""
    if not python.sha256:
        return ""
    implementation, version, system, arch, libc = python.key.split("-")
    major, minor, patch = (int(number) for number in version.split("."))
    entry = {
        "name": implementation,
        "arch": {"family": arch, "variant": None},
        "os": system,
        "libc": libc,
        "major": major,
        "minor": minor,
        "patch": patch,
        "prerelease": "",
        "url": python.url,
        "sha256": python.sha256,
        "variant": None,
        "build": None,
    }
    return json.dumps({python.key: entry}, sort_keys=True) + "\n"


def _site_list(url: str) -> tuple[str, dict[str, Any]]:
    try:
        with urllib.request.urlopen(url, timeout=LIST_S) as answer:
            raw = answer.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise NoPython(f"python_downloads {url} cannot be read: {error}") from None
    if len(raw) > MOST_BYTES:
        raise NoPython(f"python_downloads {url} is larger than {MOST_BYTES} bytes")
    try:
        text = raw.decode()
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NoPython(f"python_downloads {url} is no JSON: {str(error)[:200]}") from None
    if not isinstance(entries, dict) or not all(isinstance(one, dict) for one in entries.values()):
        raise NoPython(f"python_downloads {url} is no list of Pythons in uv's form")
    return text, entries


def _listed(request: str, options: list[str], where: str) -> list[dict[str, Any]]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("UV_")}
    command = [
        *(find_uv_bin(), "python", "list", request, "--no-config", "--only-downloads"),
        *("--all-versions", "--all-platforms", "--output-format", "json", *options),
    ]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=LIST_S,
            env={**environment, "NO_COLOR": "1"},
        )
    except subprocess.TimeoutExpired:
        raise NoPython(f"uv had not read {where} after {LIST_S} s") from None
    if done.returncode:
        raise NoPython(f"{where} is not understood: {' '.join(done.stderr.split())[:500]}")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found
