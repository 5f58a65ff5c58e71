"""Packages, candidates, pins and sources of Debian-like hosts, from the probe's lines. Pure."""

import re
from collections.abc import Iterator
from typing import Any

from deploy.facts import AutoUpgrades, Candidate, Dpkg, Package, Pin, Source
from deploy.interest import GPU_PACKAGES, PACKAGES


def read_packages(lines: list[str], root: bool, unknown: dict[str, str]) -> dict[str, Any]:
    """Packages of interest, and the state of dpkg's database as far as this part sees it."""
    rows = [line.split("\t") for line in lines]
    native = next((row[3] for row in rows if row[0] == "package" and row[2] == "dpkg"), "")
    packages = {}
    for row in rows:
        if row[0] != "package":
            continue
        _tag, state, name, arch, version = row
        key = name if arch in {native, "all"} else f"{name}:{arch}"
        packages[key] = Package(version=version, state=state[:2], held=state[:1] == "h")
    broken = tuple(sorted({row[1] for row in rows if row[0] == "broken"}))
    journal = any(row[0] == "journal" for row in rows)
    return {"packages": packages, "dpkg": Dpkg(broken=broken, interrupted=journal, lock_holder="")}


def read_candidates(lines: list[str], root: bool, unknown: dict[str, str]) -> dict[str, Any]:
    """From `apt-cache policy`: its version lines are indented by five, its origins by eight."""
    candidates: dict[str, Candidate] = {}
    name = ""
    blocks: dict[str, list[str]] = {}
    for line in lines:
        text = line.removeprefix("policy ")
        if text and not text.startswith(" "):
            name = text.rstrip(":")
            blocks[name] = []
        else:
            blocks[name].append(text)
    for name, block in blocks.items():
        candidates[name] = _candidate(block)
    return {"candidates": candidates}


def _candidate(block: list[str]) -> Candidate:
    heads = dict(line.strip().partition(": ")[::2] for line in block if ": " in line[:14])
    candidate = heads.get("Candidate", "(none)")
    installed = heads.get("Installed", "(none)")
    version, pin = "", ""
    origins = []
    for line in block:
        if row := re.fullmatch(r"(?: \*\*\*|    ) (\S+) (-?\d+)", line):
            version = row[1]
            pin = row[2] if version == candidate else pin
        elif version in {candidate, installed} and (
            row := re.fullmatch(r" {8,}(-?\d+) (\S+)(?: .*)?", line)
        ):
            origins.append(without_credentials(row[2]))
    origins = [origin for origin in origins if origin != "/var/lib/dpkg/status"]
    return Candidate(
        candidate="" if candidate == "(none)" else candidate,
        origins=tuple(dict.fromkeys(origins)),
        pin=pin,
    )


def without_credentials(address: str) -> str:
    return re.sub(r"//[^/@]*@", "//", address)


def read_apt(lines: list[str], root: bool, unknown: dict[str, str]) -> dict[str, Any]:
    """Pins and sources of interest, and apt's own settings for automatic upgrades."""
    pins: list[Pin] = []
    ignored: list[Pin] = []
    sources: list[Source] = []
    settings: dict[str, str] = {}
    blacklist: list[str] = []
    for kind, path, body in _files(lines):
        if kind == "preferences":
            stanzas = list(_pins(path, body))
            if _apt_reads(path):
                pins += stanzas
            elif not _PUT_ASIDE.search(path):
                ignored += stanzas
        elif kind == "sources":
            sources += _sources(path, body)
        elif kind == "unreadable":
            field = "pins" if "preferences" in path else "sources"
            unknown[f"{field}.{path}"] = "only root can read it"
        elif kind == "config":
            key, _, value = path.removesuffix(";").partition(" ")
            if key == "Unattended-Upgrade::Package-Blacklist::":
                blacklist.append(value.strip('"'))
            settings[key] = value.strip('"')
    daily = settings.get("APT::Periodic::Unattended-Upgrade", "0")
    off = settings.get("APT::Periodic::Enable", "1") == "0"
    upgrades = AutoUpgrades(enabled=daily not in {"0", ""} and not off, blacklist=tuple(blacklist))
    values = {"pins": tuple(pins), "sources": tuple(sources), "auto_upgrades": upgrades}
    return values | {
        "packaging": "apt",
        "ignored_pins": tuple(ignored),
        "streams": {},
        "versionlocks": (),
        "own_versionlocks": (),
    }


def _files(lines: list[str]) -> Iterator[tuple[str, str, list[str]]]:
    kind, path, body = "", "", list[str]()
    for line in lines:
        tag, _, rest = line.partition(" ")
        if tag in {"p", "s"}:
            body.append(rest)
            continue
        if kind:
            yield kind, path, body
        kind, path, body = tag, rest, []
    if kind:
        yield kind, path, body


def _apt_reads(path: str) -> bool:
    """apt ignores preferences files with other characters or extensions (apt_preferences(5))."""
    name = path.rpartition("/")[2]
    return re.fullmatch(r"[A-Za-z0-9_\-]+(\.pref)?|preferences", name) is not None


_PUT_ASIDE = re.compile(
    r"(~|\.disabled|\.bak|\.dpkg-[a-z]+|\.save|\.orig|\.distUpgrade|\.ucf-[a-z]+)$"
)
"""Names that say that a file is not meant to be read (apt's own Dir::Ignore-Files-Silently)."""


def _stanzas(body: list[str]) -> Iterator[dict[str, str]]:
    stanza: dict[str, str] = {}
    key = ""
    for line in [*body, ""]:
        if not line.strip():
            if stanza:
                yield stanza
            stanza = {}
        elif line[0] in " \t" and key:
            stanza[key] = f"{stanza.get(key, '')} {line.strip()}".strip()
        elif not line.startswith("#") and ":" in line:
            key, _, value = line.partition(":")
            key = key.strip().lower()
            stanza[key] = value.strip()


def _pins(path: str, body: list[str]) -> Iterator[Pin]:
    for stanza in _stanzas(body):
        package = stanza.get("package", "")
        priority = stanza.get("pin-priority", "")
        if re.fullmatch(r"-?\d{1,6}", priority) and _concerns_us(package):
            yield Pin(path=path, package=package, pin=stanza.get("pin", ""), priority=int(priority))


def _concerns_us(patterns: str) -> bool:
    return any(
        word == "*"
        or word.startswith("/")
        or re.search(GPU_PACKAGES, word)
        or re.match(PACKAGES, word.rstrip("*"))
        for word in patterns.split()
    )


def _sources(path: str, body: list[str]) -> Iterator[Source]:
    if path.endswith(".sources"):
        lines = [_one_line(stanza) for stanza in _stanzas(body)]
    else:
        lines = [" ".join(line.split()) for line in body]
    for line in lines:
        if line.startswith("deb ") and re.search(
            rf"{GPU_PACKAGES}|gpufleet|\b(contrib|non-free|restricted|multiverse)\b",
            f"{path} {line}",
        ):
            yield Source(path=path, line=without_credentials(line))


def _one_line(stanza: dict[str, str]) -> str:
    if stanza.get("enabled", "yes").lower() in {"no", "false", "0"}:
        return ""
    words = [stanza.get(key, "") for key in ("types", "uris", "suites", "components")]
    return " ".join(" ".join(words).split())
