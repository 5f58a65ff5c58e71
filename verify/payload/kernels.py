"""The driver's modules, and the kernels of this boot and the next: two parts of the report."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from verify.payload.reading import first, names_in, text_of, tool

WATCHED_MODULES = ("nvidia", "nvidia_uvm", "nvidia_modeset", "nvidia_drm", "nouveau")
MODULE_NAMES = ("nvidia", "nvidia-current", "nvidia-current-open")
"""What modinfo may know the driver's module by: the vendor's name, and Debian's own."""
LICENCES = {"Dual MIT/GPL": "open", "NVIDIA": "closed"}
"""Licence of the vendor's module -> flavour (its open-gpu-kernel-modules; `modinfo -F license`)."""


def modules() -> dict[str, Any]:
    """Modules that are loaded, and the driver's module on disk for each kernel."""
    loaded = {
        name: first(text_of(f"/sys/module/{name}/version"), "")
        for name in WATCHED_MODULES
        # Built into the kernel, or only a parameter of it, has no initstate.
        if os.path.exists(f"/sys/module/{name}/initstate")
    }
    problems: list[str] = []
    installed = {}
    for kernel in _kernels():
        one = _installed(kernel, problems)
        if one is not None:
            installed[kernel] = one
    return {
        "loaded": loaded,
        "flavour": _loaded_flavour() if "nvidia" in loaded else "unknown",
        "installed": installed,
        "error": "; ".join(problems[:3]),
    }


def _loaded_flavour() -> str:
    """From the kernel's own mark: a proprietary module taints it with P, the open one does not."""
    taint = text_of("/sys/module/nvidia/taint")
    if taint:
        return "closed" if "P" in taint else "open"
    shown = text_of("/proc/driver/nvidia/version")
    if "Open Kernel Module" in shown:
        return "open"
    return "closed" if "Kernel Module" in shown else "unknown"


def _installed(kernel: str, problems: list[str]) -> dict[str, str] | None:
    """Version and flavour of the module that modprobe would load; None when there is none."""
    for name in MODULE_NAMES:
        asked = tool("modinfo", "-k", kernel, name)
        if asked.returncode == 0:
            fields = dict(line.split(":", 1) for line in asked.stdout.splitlines() if ":" in line)
            return {
                "version": fields.get("version", "").strip(),
                "flavour": LICENCES.get(fields.get("license", "").strip(), "unknown"),
            }
        if "not found" not in asked.stderr:
            problems.append(f"modinfo -k {kernel} {name}: {asked.stderr.strip()[:150]}")
            return None
    return None


def kernel() -> dict[str, Any]:
    """The running kernel, the one that the next boot takes, and who asks for that boot."""
    chosen, problem = next_kernel()
    return {
        "running": os.uname().release,
        "next": chosen,
        "reboot_required": _reboot_required(),
        "error": problem,
    }


def next_kernel(boot: str = "/boot", libraries: str = "/lib/modules") -> tuple[str | None, str]:
    """The kernel that the boot loader will start, and why it is not known ("" when it is).

    GRUB's own menu and saved choice where there is a menu; else the newest kernel that has an image
    and modules, which is what every loader's default comes to.
    """
    images = {
        name.removeprefix("vmlinuz-")
        for name in names_in(boot)
        if name.startswith("vmlinuz-") and not name.endswith((".old", ".rescue"))
    }
    images |= {
        name for name in names_in(libraries) if os.path.exists(f"{libraries}/{name}/vmlinuz")
    }
    bootable = sorted(images & set(names_in(libraries)), key=version_order)
    for folder in (f"{boot}/grub", f"{boot}/grub2"):
        menu = f"{folder}/grub.cfg"
        if not os.path.exists(menu):
            continue
        try:
            text = Path(menu).read_text(errors="replace")
        except OSError as error:
            return None, f"{menu}: {error.strerror}"
        chosen = grub_choice(text, _grub_environment(f"{folder}/grubenv"))
        if chosen is not None:
            return chosen, ""
        if bootable and "menuentry" in text:
            return None, f"{menu}: the entry that it starts was not understood"
    if bootable:
        return bootable[-1], ""
    return None, f"no kernel with an image in {boot} and modules in {libraries}"


def grub_choice(menu: str, saved: dict[str, str]) -> str | None:
    """The kernel of the entry that this grub.cfg starts by default; None when that is not clear.

    Entries are known by number, title or id, each also below a submenu as `1>2` (GRUB manual,
    `default`).
    """
    entries: list[tuple[set[str], str]] = []
    counts = [0]
    above: list[set[str]] = [{""}]
    current: set[str] = set()
    depth: list[str] = []
    for line in menu.splitlines():
        words = line.strip()
        if words.startswith(("menuentry ", "submenu ")):
            names = {str(counts[-1]), *re.findall(r"""['"]([^'"]*)['"]""", words)}
            counts[-1] += 1
            paths = {f"{top}>{name}".lstrip(">") for top in above[-1] for name in names}
            depth.append("submenu" if words.startswith("submenu ") else "entry")
            if depth[-1] == "submenu":
                above.append(paths)
                counts.append(0)
            else:
                current = paths
        elif words == "}" and depth:
            if depth.pop() == "submenu":
                above.pop()
                counts.pop()
            current = set()
        elif words.endswith("{"):
            depth.append("block")
        elif current and (found := re.match(r"linux\S*\s+\S*/vmlinuz-(\S+)", words)):
            entries.append((current, found[1]))
    default = re.findall(r"""^\s*set default=["']?([^"'\n]*)["']?\s*$""", menu, re.MULTILINE)
    wanted = default[-1] if default else "0"
    if "saved_entry" in wanted:
        wanted = saved.get("saved_entry") or "0"
    wanted = saved.get("next_entry") or wanted
    for names, release in entries:
        if wanted in names:
            return release
    # A submenu by itself starts its first entry.
    for names, release in entries:
        if f"{wanted}>0" in names:
            return release
    return None


def version_order(release: str) -> list[tuple[int, int, str]]:
    """Sort key: numbers by value, a release candidate before its release."""
    found = []
    for word in re.findall(r"\d+|\D+", release.replace("-rc", "~")):
        if word.isdigit():
            found.append((2, int(word), ""))
        else:
            found.append((0 if word.startswith("~") else 3, 0, word))
    return [*found, (1, 0, "")]


def _grub_environment(path: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text_of(path).splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs if not key.startswith("#")}


def _reboot_required() -> list[str]:
    """Packages that asked for a reboot, where the distribution notes them (Debian, Ubuntu)."""
    if not os.path.exists("/run/reboot-required"):
        return []
    packages = text_of("/run/reboot-required.pkgs").split()
    return sorted(set(packages))[:50] or ["a package (/run/reboot-required)"]


def _kernels() -> list[str]:
    return sorted(
        {name for name in names_in("/lib/modules") if os.path.isdir(f"/lib/modules/{name}")}
        | {os.uname().release},
        key=version_order,
    )
