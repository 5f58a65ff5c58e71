"""Packages, repositories, streams and locks of rpm hosts, from the probe's lines. Pure."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from deploy.evr import evr
from deploy.facts import AutoUpgrades, Candidate, Dpkg, Package, Pin, Source
from deploy.interest import GPU_PACKAGES, PACKAGES
from deploy.probing.apt_facts import without_credentials
from deploy.solving.offers import NEWEST_FIRST, compare

BEGIN, END = "# gpufleet begin", "# gpufleet end"
"""Comment lines around our own entries in the file of locks, which dnf has only one of."""
LOCKS = "/etc/dnf/plugins/versionlock.list"
"""Where dnf 4's plugin reads its locks unless told otherwise (versionlock.conf)."""
DNF5_LOCKS = "/etc/dnf/versionlock.toml"
SIDE_BY_SIDE = re.compile(r"(kernel|gpg-pubkey|kmod-nvidia-\d)")
"""Packages that may be installed in several versions (dnf.conf(5), installonlypkgs)."""
OF_INTEREST = re.compile(
    rf"{GPU_PACKAGES}|gpufleet|\b(epel|crb|powertools|codeready|rpmfusion|elrepo|negativo)", re.I
)


def read_rpm_packages(lines: list[str], root: bool, unknown: dict[str, str]) -> dict[str, Any]:
    """Packages of interest. Two versions of one package are what an interrupted transaction
    leaves: the newer is reported, as installed only in part."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for line in lines:
        _tag, name, arch, version = line.split("\t")
        found[name].append((arch, evr(version)))
    packages, broken = {}, []
    for name, members in found.items():
        arch = _main_arch(members)
        versions = [version for one, version in members if one == arch]
        torn = len(set(versions)) > 1 and not SIDE_BY_SIDE.match(name)
        if torn:
            broken.append(name)
        newest = sorted(versions, key=NEWEST_FIRST["dnf"])[0]
        packages[name] = Package(version=newest, state="iF" if torn else "ii", held=False)
        for other, version in members:
            if other not in {arch, "noarch"}:
                packages[f"{name}:{other}"] = Package(version=version, state="ii", held=False)
    dpkg = Dpkg(broken=tuple(sorted(broken)), interrupted=False, lock_holder="")
    return {"packages": packages, "dpkg": dpkg}


def _main_arch(members: list[tuple[str, str]]) -> str:
    """A package's own architecture where it is there twice: the host's, not the 32-bit one."""
    arches = {arch for arch, _ in members}
    return next((one for one in ("x86_64", "aarch64", "noarch") if one in arches), min(arches))


def read_rpm_candidates(lines: list[str], root: bool, unknown: dict[str, str]) -> dict[str, Any]:
    """The newest version of each package that dnf knows of, with its repository's id; packages
    that were asked for by version stand under name-version.arch too."""
    candidates: dict[str, Candidate] = {}
    for line in lines:
        _tag, name, arch, version, repository = line.split("\t")
        found = Candidate(candidate=evr(version), origins=(repository,), pin="")
        if SIDE_BY_SIDE.match(name):
            candidates[f"{name}-{found.candidate}.{arch}"] = found
        known = candidates.get(name)
        if known is None or compare(known.candidate, found.candidate, "dnf") < 0:
            candidates[name] = found
    return {"candidates": candidates}


def read_dnf(lines: list[str], root: bool, unknown: dict[str, str]) -> dict[str, Any]:
    """Sources, excludes, enabled streams, locks and dnf-automatic's settings."""
    values: dict[str, Any] = {"streams": {}, "versionlocks": (), "own_versionlocks": ()}
    values["ignored_pins"] = ()
    sources: list[Source] = []
    pins: list[Pin] = []
    apply = ""
    for path, body in _files(lines, unknown):
        if path == LOCKS:
            values["own_versionlocks"], values["versionlocks"] = _locks(body)
        elif path == DNF5_LOCKS:
            values["versionlocks"] = tuple(_dnf5_locks(body))
        elif path.endswith(".repo"):
            sections = list(_sections(body))
            sources += _sources(path, sections)
            pins += _excludes(path, sections)
        elif path.endswith(".module"):
            values["streams"] |= _streams(_sections(body))
        elif path.endswith("/automatic.conf"):
            settings = dict(_sections(body)).get("commands", {})
            apply = settings.get("apply_updates", "no")
        elif path.endswith("/dnf.conf"):
            pins += _excludes(path, _sections(body))
    tags = [line.partition(" ")[::2] for line in lines]
    family = next((rest for tag, rest in tags if tag == "family"), "")
    values["packaging"] = family if family in {"dnf", "zypper"} else None
    if values["packaging"] is None:
        unknown["packaging"] = "os-release names no distribution whose package system is known"
    elsewhere = [rest for tag, rest in tags if tag == "locklist" and rest.strip() != LOCKS]
    if elsewhere:
        values["versionlocks"] = values["own_versionlocks"] = None
        why = f"they are kept in {elsewhere[0][:100]}, wanted {LOCKS}"
        unknown["versionlocks"] = unknown["own_versionlocks"] = why
    elif any(tag == "locking" and rest.strip().lower() in _NO for tag, rest in tags):
        values["versionlocks"], values["own_versionlocks"] = (), None
        unknown["own_versionlocks"] = "versionlock.conf says enabled = 0, so no lock has an effect"
    holders = (rest.split(" ", 1) for tag, rest in tags if tag == "holder")
    values["dnf_lock_holder"] = ", ".join(
        dict.fromkeys(f"{name} (pid {int(pid)})" for pid, name in holders)
    )
    on = apply.lower() in {"yes", "1", "true", "on"}
    return values | {
        "pins": tuple(pins),
        "sources": tuple(sources),
        "auto_upgrades": AutoUpgrades(enabled=on),
    }


_NO = {"0", "no", "false", "off"}


def locked_by_others(packages: dict[str, Package], locks: Iterable[str]) -> dict[str, Package]:
    """The packages, held where an entry of somebody else locks them to one version."""
    names = [name for lock in locks if (name := locked_name(lock))]
    return {
        name: package.model_copy(update={"held": True})
        if any(fnmatchcase(name, pattern) for pattern in names)
        else package
        for name, package in packages.items()
    }


def locked_name(lock: str) -> str:
    """The package pattern of one entry: nvidia-driver of nvidia-driver-3:580.178.04-1.el9.*; ""
    for an entry that only excludes a version."""
    if lock.startswith("!"):
        return ""
    full = (
        re.fullmatch(r"(.+?)-(?:\d+|\*):.+", lock)
        or re.fullmatch(r"(.+)-\d[^-]*-[^-]+", lock)
        or re.fullmatch(r"(.+)-\d[^-]*", lock)
    )
    return full[1] if full else lock


def _files(lines: list[str], unknown: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    path, body = "", list[str]()
    for line in lines:
        tag, _, rest = line.partition(" ")
        if tag == "c":
            body.append(rest)
        elif tag == "file":
            if path:
                yield path, body
            path, body = rest, []
        elif tag == "unreadable":
            field = "versionlocks" if "versionlock" in rest else "sources"
            unknown[f"{field}.{rest}"] = "only root can read it"
    if path:
        yield path, body


def _sections(body: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """An .ini file as dnf reads it: indented lines go on with the value before them."""
    name, values, key = "", dict[str, str](), ""
    for line in body:
        if head := re.fullmatch(r"\[([^\]]+)\]\s*", line):
            if name:
                yield name, values
            name, values, key = head[1], {}, ""
        elif line[:1] in " \t" and key:
            values[key] = f"{values[key]} {line.strip()}".strip()
        elif "=" in line:
            key, _, value = line.partition("=")
            key = key.strip().lower()
            values[key] = value.strip()
    if name:
        yield name, values


def _sources(path: str, sections: Iterable[tuple[str, dict[str, str]]]) -> Iterator[Source]:
    for name, values in sections:
        if values.get("enabled", "1").lower() in _NO:
            continue
        places = [values[key] for key in ("baseurl", "mirrorlist", "metalink") if key in values]
        line = " ".join([f"[{name}]", *places])
        if OF_INTEREST.search(f"{path} {line}"):
            yield Source(path=path, line=without_credentials(line))


def _excludes(path: str, sections: Iterable[tuple[str, dict[str, str]]]) -> Iterator[Pin]:
    for name, values in sections:
        listed = f"{values.get('exclude', '')} {values.get('excludepkgs', '')}"
        mine = [word for word in listed.replace(",", " ").split() if _concerns_us(word)]
        if mine and values.get("enabled", "1").lower() not in _NO:
            yield Pin(path=path, package=" ".join(mine), pin=f"exclude in [{name}]", priority=-1)


def _concerns_us(pattern: str) -> bool:
    return (
        pattern == "*"
        or re.search(GPU_PACKAGES, pattern) is not None
        or re.match(PACKAGES, pattern.rstrip("*")) is not None
    )


def _streams(sections: Iterable[tuple[str, dict[str, str]]]) -> dict[str, str]:
    return {
        values.get("name", name): values["stream"]
        for name, values in sections
        if values.get("state") == "enabled" and values.get("stream")
    }


def _locks(body: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Our own entries, and everybody else's."""
    own: list[str] = []
    others: list[str] = []
    inside = False
    for line in body:
        if line.startswith(BEGIN):
            inside = True
        elif line.startswith(END):
            inside = False
        else:
            (own if inside else others).append(line.strip())
    return tuple(own), tuple(others)


def _dnf5_locks(body: list[str]) -> Iterator[str]:
    """dnf 5: [[packages]] with a name, and conditions on its version."""
    name = ""
    for line in body:
        if found := re.fullmatch(r"name\s*=\s*\"([^\"]+)\"\s*", line.strip()):
            name = found[1]
            yield name
        elif name and (found := re.fullmatch(r"value\s*=\s*\"([^\"]+)\"\s*", line.strip())):
            yield f"{name}-{found[1]}"
