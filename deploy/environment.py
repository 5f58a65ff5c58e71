"""Python environments, resolved by uv on the controller into requirements locked by hash.

Only wheels for the host's platform are taken, so that nothing is ever built on a host, and only
the hashes of wheels that fit there are kept. The places to look in are the inventory's and
nobody else's: uv's own configuration and its index variables do not count. What a lock already
holds is preferred where it still fits, so that moving one part moves nothing else.
"""

import hashlib
import json
import os
import re
import subprocess
import tempfile
import tomllib
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from uv import find_uv_bin

from deploy.fleet.redact import Redactor
from deploy.fleet.runs import printable
from deploy.managed_python import NoPython, exact_python
from deploy.solving.parts import EnvironmentWish
from deploy.stack import ManagedPython, TorchEnvironment

TIMEOUT_S = 300
"""For one call of uv: metadata of a few dozen packages, seconds on any working network."""

SIZE_S = 5
"""For asking one wheel's size, which only the download figure of a plan needs."""

UNREAD = re.compile(
    r"UV_(INDEX|DEFAULT_INDEX|EXTRA_INDEX|FIND_LINKS|NO_INDEX|CONFIG|PRERELEASE|RESOLUTION"
    r"|EXCLUDE_NEWER|CONSTRAINT|OVERRIDE|BUILD_CONSTRAINT|EXCLUDE|UPGRADE|PYTHON|MANAGED_PYTHON)"
)
"""Variables that would change the answer behind the inventory's back."""

OWN = ("id", "size", "hardware_build")
"""Fields of an environment that do not decide what is built."""


class Unresolved(Exception):  # noqa: N818 - an answer, not a fault
    """uv found no environment for this wish; the message is its last lines."""


class Resolver:
    """Resolves each distinct wish once per run."""

    def __init__(self) -> None:
        self._found: dict[
            tuple[EnvironmentWish, TorchEnvironment | None], TorchEnvironment | str
        ] = {}

    def __call__(
        self, wish: EnvironmentWish, kept: TorchEnvironment | None = None
    ) -> TorchEnvironment | str:
        """The environment, or why there is none. `kept`: as for `resolve`."""
        if (wish, kept) not in self._found:
            try:
                self._found[wish, kept] = resolve(wish, kept)
            except Unresolved as reason:
                self._found[wish, kept] = str(reason)
        return self._found[wish, kept]


def resolve(wish: EnvironmentWish, kept: TorchEnvironment | None = None) -> TorchEnvironment:
    """Ask uv for one environment. Raises Unresolved.

    `kept` is preferred where it fits the wish: the versions of its wheels, and its Python build
    when it is of the wished version.
    """
    python = _python(wish, kept)
    reasons = []
    for exact, torch_index in _attempts(wish):
        try:
            wheels = _compile([*exact, *wish.requirements], wish, torch_index, kept)
            _is_wished(wish, wheels)
            tool = None
            if wish.kind == "uv":
                tool = _compile([f"uv=={version('uv')}"], wish, "")["uv"]
        except Unresolved as reason:
            reasons.append(str(reason))
            continue
        environment = TorchEnvironment(
            id="",
            python=wish.python,
            kind=wish.kind,
            managed_python=python,
            torch=wish.torch,
            build=wish.build,
            hardware_build=wish.hardware_build,
            uv=tool.version if tool else "",
            uv_hashes=tool.hashes if tool else (),
            index=wish.index,
            torch_index=torch_index,
            find_links=wish.find_links,
            requirements=tuple(
                f"{name}=={wheel.version} "
                + " ".join(f"--hash={digest}" for digest in wheel.hashes)
                for name, wheel in sorted(wheels.items())
            ),
            size=sum(wheel.size for wheel in wheels.values())
            + (_asked_size({"url": python.url}) if python else 0),
        )
        return environment.model_copy(update={"id": environment_id(environment)})
    raise Unresolved("; ".join(dict.fromkeys(reasons)))


def _python(wish: EnvironmentWish, kept: TorchEnvironment | None) -> ManagedPython | None:
    if not wish.managed_python:
        return None
    if kept and kept.managed_python and kept.python == wish.python:
        return kept.managed_python
    try:
        return exact_python(wish)
    except NoPython as reason:
        raise Unresolved(printable(Redactor()(str(reason)))) from None


def environment_id(environment: TorchEnvironment) -> str:
    """Digest of everything that decides what is built: equal environments have equal ids."""
    content = environment.model_dump(mode="json", exclude=set(OWN))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _attempts(wish: EnvironmentWish) -> Iterator[tuple[tuple[str, ...], str]]:
    """Torch and its companions as requirements, with the index to find them in: the inventory's
    own places first, the vendor's index only when the inventory names no other."""
    local = wish.exact(local=True)
    if wish.torch_index:
        yield local, wish.torch_index
        return
    if wish.find_links:
        yield local, ""
    if wish.pypi:
        yield wish.exact(local=False), ""
    else:
        yield local, wish.vendor_index


class _Wheel:
    """One distribution of a resolution: its version, and the wheels that fit the platform."""

    def __init__(self, package: dict[str, Any]) -> None:
        wheels = package.get("wheels") or []
        self.version = str(package["version"])
        digests = {str((wheel.get("hashes") or {}).get("sha256", "")) for wheel in wheels}
        self.hashes = tuple(sorted(f"sha256:{digest}" for digest in digests if digest))
        self.size = max(
            (int(wheel.get("size", 0)) or _asked_size(wheel) for wheel in wheels), default=0
        )


def _asked_size(wheel: dict[str, Any]) -> int:
    """Bytes of a wheel whose index page names no size, as torch's does; 0 when nobody says."""
    url = str(wheel.get("url", ""))
    if not url.startswith(("http://", "https://")):
        return 0
    asked = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(asked, timeout=SIZE_S) as answer:
            return int(answer.headers.get("Content-Length", 0))
    except (OSError, ValueError):
        return 0


def _compile(
    requirements: list[str],
    wish: EnvironmentWish,
    torch_index: str,
    kept: TorchEnvironment | None = None,
) -> dict[str, _Wheel]:
    command = [
        *(find_uv_bin(), "pip", "compile", "-", "--format", "pylock.toml"),
        *("--no-config", "--no-python-downloads", "--no-header", "--no-annotate", "--quiet"),
        *("--only-binary", ":all:", "--python-version", wish.python),
        *("--python-platform", wish.platform),
        # As pip does it: the newest of all places. Safe because every place is the inventory's,
        # and what was found is locked by hash.
        *("--index-strategy", "unsafe-best-match"),
        *(word for place in wish.find_links for word in ("--find-links", place)),
        *(("--index", torch_index) if torch_index else ()),
        *(("--default-index", wish.index) if wish.index else ()),
    ]
    environment = {key: value for key, value in os.environ.items() if not UNREAD.match(key)}
    with tempfile.TemporaryDirectory(prefix="gpufleet-uv-") as folder:
        answer = Path(folder) / "pylock.answer.toml"
        if kept and kept.requirements:
            # uv prefers the versions that it finds in the file that it is about to write.
            answer.write_text(_preferences(kept))
        try:
            done = subprocess.run(
                [*command, "--output-file", str(answer)],
                input="\n".join(requirements) + "\n",
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                cwd=folder,
                env={**environment, "UV_SYSTEM_CERTS": "1", "NO_COLOR": "1"},
            )
        except subprocess.TimeoutExpired:
            raise Unresolved(f"uv had no answer after {TIMEOUT_S} s") from None
        if done.returncode:
            raise Unresolved(_last_lines(done.stderr))
        packages = tomllib.loads(answer.read_text()).get("packages", [])
    found: dict[str, _Wheel] = {
        canonicalize_name(package["name"]): _Wheel(package) for package in packages
    }
    without = sorted(name for name, wheel in found.items() if not wheel.hashes)
    if without:
        raise Unresolved(f"no wheel with a sha256 for {wish.platform} of {', '.join(without)}")
    return found


def _preferences(kept: TorchEnvironment) -> str:
    """Versions of an environment as uv reads them from a lock of its own form."""
    lines = ['lock-version = "1.0"', 'created-by = "gpufleet"']
    for requirement in kept.requirements:
        name, _, rest = requirement.partition("==")
        lines += ["[[packages]]", f'name = "{name}"', f'version = "{rest.split()[0]}"']
    return "\n".join(lines) + "\n"


def _is_wished(wish: EnvironmentWish, wheels: dict[str, _Wheel]) -> None:
    """Torch and its companions must be of the wished build: an index may serve another one under
    the same number."""
    for text in wish.exact(local=True):
        name = canonicalize_name(Requirement(text).name)
        found = wheels[name].version
        try:
            local = Version(found).local
        except InvalidVersion:
            local = found
        if local not in ({wish.build, None} if wish.pypi else {wish.build}):
            raise Unresolved(f"found {name} {found}, wanted build {wish.build}")


def _last_lines(text: str) -> str:
    """What uv said at the end, in one line, without credentials."""
    lines = [line.strip(" \u2570\u2500\u25b6\u00d7\t") for line in text.splitlines()]
    told = " ".join(line for line in lines[-12:] if line)
    return printable(Redactor()(told or "uv failed and said nothing"))[-1500:]
