"""The base system shared by all nodes: Debian from the machine's own mirror, built once."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from debian.deb822 import Deb822

from tests.sim import paths
from tests.sim.proc import ISOLATE, SimError, exclusive, run, say

SUITE = "bookworm"
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "libpam-systemd", "openssh-server", "sudo"),
    *("python3", "python3-venv", "gcc", "g++", "make", "apt-utils", "gpgv", "ca-certificates"),
    *(
        "curl",
        "systemd-journal-remote",
        "iproute2",
        "iputils-ping",
        "kmod",
        "pciutils",
        "procps",
        "util-linux",
        "less",
    ),
)
"""What a freshly installed Debian server of this suite has, and nothing that gpufleet installs."""

ETC_APT = Path("/etc/apt")

_ACQUIRE = re.compile(r"Acquire::(http|https|Check-|Retries|ForceIPv|By-Hash)", re.IGNORECASE)
_RECIPE = Path(__file__).with_name("base.sh")


def ensure() -> Path:
    """Return the directory of the base system; build it when there is none for these inputs.

    Raises SimError when the machine names no mirror of the suite or a step of the build fails
    (the whole log is kept beside it). A killed build leaves a directory under another name, which
    the next one removes.
    """
    inputs = _inputs()
    digest = hashlib.sha256(_RECIPE.read_bytes() + repr((SUITE, PACKAGES)).encode())
    for name in sorted(inputs):
        digest.update(name.encode() + b"\0" + inputs[name] + b"\0")
    base = paths.cache() / f"base-{digest.hexdigest()[:12]}"
    if base.is_dir():
        return base
    with exclusive(paths.cache() / "base.lock", "building the base system"):
        if not base.is_dir():
            _build(base, inputs)
    return base


def mirror(sources: bytes) -> str:
    """Return the first mirror of the suite in a deb822 sources file."""
    return str(next(iter(Deb822.iter_paragraphs(sources)))["URIs"]).split()[0]


def _build(base: Path, inputs: dict[str, bytes]) -> None:
    for leftover in paths.cache().glob("base-*.building"):
        shutil.rmtree(leftover)
    staging = base.with_name(base.name + ".building")
    offered = staging / "inputs"
    for name, content in inputs.items():
        (offered / name).parent.mkdir(parents=True, exist_ok=True)
        (offered / name).write_bytes(content)
    (offered / "ca").mkdir(exist_ok=True)
    debs = paths.cache() / "debs"
    debs.mkdir(exist_ok=True)
    log = base.with_suffix(".log")
    say(f"building the base system, once, 1 to 3 minutes (log: {log})")
    begun = time.monotonic()
    with log.open("w") as out:
        built = subprocess.run(
            [*ISOLATE, "sh", str(_RECIPE), str(staging / "root"), SUITE,
             mirror(inputs["debian.sources"]), ",".join(PACKAGES), str(offered), str(debs)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    if built.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise SimError(f"the base system was not built (whole log: {log}):\n{tail}")
    (staging / "root").rename(base)
    shutil.rmtree(staging)
    say(f"base system built in {time.monotonic() - begun:.0f} s")


def _inputs() -> dict[str, bytes]:
    """Return what the base takes from this machine, by file name."""
    authorities = Path("/usr/local/share/ca-certificates")
    found = {f"ca/{crt.name}": crt.read_bytes() for crt in sorted(authorities.glob("**/*.crt"))}
    found["debian.sources"] = sources().encode()
    settings = run("apt-config", "dump").stdout.splitlines()
    found["acquire.conf"] = "".join(f"{s}\n" for s in settings if _ACQUIRE.match(s)).encode()
    return found


def sources() -> str:
    """Return a deb822 file with the machine's entries for the suite, or one for SIM_MIRROR."""
    if uri := os.environ.get("SIM_MIRROR"):
        return f"Types: deb\nURIs: {uri}\nSuites: {SUITE}\nComponents: main\n"
    wanted = []
    for entry in _configured():
        suites = [
            s for s in entry["Suites"].split() if re.fullmatch(rf"{SUITE}(-updates|-security)?", s)
        ]
        if suites and "main" in entry["Components"].split() and "deb" in entry["Types"].split():
            wanted.append((suites, entry["URIs"]))
    wanted.sort(key=lambda w: SUITE not in w[0])  # debootstrap takes the first
    if not wanted or SUITE not in wanted[0][0]:
        raise SimError(
            f"no mirror of Debian {SUITE} in this machine's apt sources; "
            "name one: SIM_MIRROR=http://... python -m tests.sim up"
        )
    return "\n".join(
        f"Types: deb\nURIs: {uris}\nSuites: {' '.join(suites)}\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        for suites, uris in wanted
    )


def _configured() -> list[dict[str, str]]:
    """Read the machine's apt sources, both formats, as deb822 fields."""
    entries: list[dict[str, str]] = []
    for file in sorted(ETC_APT.glob("sources.list.d/*.sources")):
        for paragraph in Deb822.iter_paragraphs(file.read_bytes()):
            if paragraph.get("Enabled", "yes") != "no" and paragraph.get("Components"):
                entries.append({key: str(paragraph.get(key, "")) for key in paragraph})
    for file in [ETC_APT / "sources.list", *sorted(ETC_APT.glob("sources.list.d/*.list"))]:
        if not file.exists():
            continue
        for line in file.read_text(errors="replace").splitlines():
            words = re.sub(r"\[[^]]*\]", "", line.partition("#")[0]).split()
            if len(words) > 3 and words[0] == "deb":
                parts = " ".join(words[3:])
                entries.append(
                    {"Types": "deb", "URIs": words[1], "Suites": words[2], "Components": parts}
                )
    return entries
