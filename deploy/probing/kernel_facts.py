"""Kernels and their modules, from the probe's lines. Pure."""

import re
from collections import defaultdict
from typing import Any

from deploy.facts import Flavour, InstalledModule, Kernel, Modules

MODPROBE_DIRECTORIES = (
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
)
"""In falling precedence: a file hides those of its name in later ones (modprobe.d(5))."""


def read_kernel(found: dict[str, list[str]]) -> Kernel:
    """From the tagged lines of the probe's system part."""
    running = found["running"][0]
    installed = sorted(set(found["modules"]), key=release_order)
    images = {*found["image"], *found["bls"]}
    bootable = [release for release in installed if release in images] or installed
    return Kernel(
        running=running,
        next=_chosen(found, bootable) or (bootable[-1] if bootable else running),
        installed=tuple(installed),
        headers=tuple(sorted(set(found["headers"]), key=release_order)),
    )


def release_order(release: str) -> list[tuple[int, int, str]]:
    """Sort key that puts 6.1.0-18 after 6.1.0-9, and release candidates first."""
    words = re.findall(r"\d+|[^\d]+", release.replace("-rc", "~rc"))
    return [
        (1, int(word), "") if word.isdigit() else (-1 if word.startswith("~") else 2, 0, word)
        for word in words
    ] + [(0, 0, "")]


def _chosen(found: dict[str, list[str]], bootable: list[str]) -> str:
    """The kernel that GRUB's settings name, "" when they leave it to the newest."""
    default = "".join(found["grub-default"][-1:]).strip("\"' ")
    saved = [*found["grub-next_entry"], *(found["grub-saved_entry"] if default == "saved" else [])]
    entry = next((words for words in saved if words), "") or default
    # Without entries in grub.cfg itself GRUB lists the boot loader's own, the newest first
    # (Boot Loader Specification; blscfg of EL and Fedora).
    entries = found["grub-linux"] or sorted(found["bls"], key=release_order, reverse=True)
    menu = [release for release in entries if release in bootable]
    if re.fullmatch(r"\d+(>\d+)?", entry) and menu:
        top, _, inner = entry.partition(">")
        index = int(inner) + 1 if inner else int(top)
        return menu[index] if index < len(menu) else ""
    named = [release for release in bootable if re.search(rf"\b{re.escape(release)}\b", entry)]
    return max(named, key=len, default="")


def read_modules(lines: list[str], root: bool, unknown: dict[str, str]) -> dict[str, Any]:
    """The reader of the probe's modules part; the kernel's command line comes with it."""
    found: dict[str, list[str]] = defaultdict(list)
    rules: dict[str, list[str]] = {}
    path = ""
    for line in lines:
        tag, _, rest = line.partition(" ")
        found[tag].append(rest)
        if tag == "config":
            path = rest
            rules[path] = []
        elif tag == "rule":
            rules[path].append(rest)
    installed: dict[str, dict[str, str]] = defaultdict(dict)
    for words in found["installed"]:
        release, what, value = words.split(" ", 2)
        installed[release].setdefault(what, value)
    nvrm = " ".join(found["nvrm"][:1])
    version = "".join(found["loaded"][:1])
    if version == "unnamed":
        version = "".join(re.findall(r"\b\d{3}\.\d+(?:\.\d+)?\b", nvrm)[:1]) or "unknown"
    count = "".join(found["refcount"][:1])
    modules = Modules(
        loaded_version=version,
        loaded_flavour=_loaded_flavour(nvrm) if version else None,
        installed=tuple(
            InstalledModule(
                kernel=release,
                version=values.get("version", ""),
                flavour=_flavour(values.get("license", "")),
            )
            for release, values in sorted(installed.items())
        ),
        nouveau_loaded=bool(found["nouveau"]),
        nouveau_blacklisted=_keeps_out(rules, " ".join(found["cmdline"])),
        refcount=int(count) if count.isdigit() else None,
    )
    minors = {minor: slot for slot, minor in (words.split(" ") for words in found["minor"])}
    slots = [minors.get(minor, f"GPU {minor}") for minor in sorted(set(found["mig"]))]
    return {"modules": modules, "mig": tuple(slots)}


def _flavour(licence: str) -> Flavour | None:
    """NVIDIA's open modules are "Dual MIT/GPL", the closed ones "NVIDIA" (modinfo -F license;
    aws-parallelcluster-cookbook's InSpec tests, 2024-10: research provisioning 2.4)."""
    return {"Dual MIT/GPL": "open", "NVIDIA": "closed"}.get(licence)  # type: ignore[return-value]


def _loaded_flavour(nvrm: str) -> Flavour | None:
    if "Open Kernel Module" in nvrm:
        return "open"
    return "closed" if "Kernel Module" in nvrm else None


def _keeps_out(rules: dict[str, list[str]], cmdline: str) -> bool:
    """Whether a rule keeps nouveau from loading at boot."""
    effective: dict[str, list[str]] = {}
    for directory in MODPROBE_DIRECTORIES:
        for path, found in rules.items():
            place, _, name = path.rpartition("/")
            if place == directory:
                effective.setdefault(name, found)
    for rule in (rule for found in effective.values() for rule in found):
        words = rule.split()
        if words[:2] == ["blacklist", "nouveau"] or words == ["alias", "nouveau", "off"]:
            return True
        if words[0] == "install" and words[2:3] in (["/bin/false"], ["/bin/true"], [":"]):
            return True
    blocked = re.findall(r"\b(?:modprobe\.blacklist|module_blacklist)=(\S+)", cmdline)
    return any("nouveau" in names.split(",") for names in blocked)
