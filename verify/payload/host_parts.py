"""Who the host is, its PCI bus, its own name and its disks: parts of the report.

As every part (kernels.py, kernel_log.py, gpu_users.py), a function here returns values, never
judges, and may hang or raise: host_report.py runs it in a process of its own with a deadline. What
provisioning reads too is read by another way wherever there is one, so that one wrong reading does
not vouch for another.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

from verify.payload.reading import names_of, number_of, text_of
from verify.payload.system_parts import virtual

NVIDIA = 0x10DE
DISPLAY, SWITCH = "03", "0680"
"""PCI classes: display controllers (a GPU is 0300 or 0302), other bridges (an NVSwitch)."""
DEAD = 0xFF
"""What configuration space reads of a device that fell off the bus."""
SIMULATED = "/etc/simulated-hardware"


def host() -> dict[str, Any]:
    """Who and when; `simulated` when the host says that its hardware is."""
    uid = os.geteuid()
    return {
        "hostname": os.uname().nodename,
        "boot_id": text_of("/proc/sys/kernel/random/boot_id"),
        "kernel": os.uname().release,
        "user": names_of({uid})[uid],
        "root": uid == 0,
        "simulated": os.path.exists(SIMULATED),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "virtual": virtual(),
    }


def pci(root: str = "/sys/bus/pci/devices") -> dict[str, Any]:
    """NVIDIA GPUs and NVSwitches on the bus, those included that no longer answer."""
    gpus, switches = [], []
    for slot in sorted(os.listdir(root)):
        device = f"{root}/{slot}"
        if number_of(f"{device}/vendor", 16) != NVIDIA:
            continue
        kind = text_of(f"{device}/class").removeprefix("0x")[:4]
        if kind == SWITCH:
            switches.append(slot)
        if not kind.startswith(DISPLAY):
            continue
        revision = _revision(device)
        gone = revision == f"{DEAD:02x}"
        driver = f"{device}/driver"
        gpus.append(
            {
                "slot": slot,
                "device": text_of(f"{device}/device").removeprefix("0x"),
                "class": kind,
                "revision": revision,
                "driver": os.path.basename(os.readlink(driver)) if os.path.islink(driver) else "",
                "width": None if gone else number_of(f"{device}/current_link_width"),
                "width_max": None if gone else number_of(f"{device}/max_link_width"),
            }
        )
    return {"gpus": gpus, "nvswitches": switches, "error": ""}


def _revision(device: str) -> str:
    """From configuration space now: the kernel's own `revision` is from when it found the device,
    and stays what it was when the device falls off the bus."""
    try:
        with open(f"{device}/config", "rb") as config:
            head = config.read(16)
    except OSError:
        head = b""
    if len(head) == 16:
        return f"{head[8]:02x}" if head[:4] != bytes([DEAD] * 4) else f"{DEAD:02x}"
    return text_of(f"{device}/revision").removeprefix("0x")


def self_name() -> dict[str, Any]:
    """What the host's own name resolves to here: torchrun meets by it."""
    name = socket.gethostname()
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None)}
    except OSError as error:
        return {"name": name, "addresses": [], "error": str(error.strerror or error)}
    return {"name": name, "addresses": sorted(found), "error": ""}


def disk(path: str) -> dict[str, Any]:
    """Room at a path (at what exists of it) for a user without rights, and whether it is
    read-only. Inodes are 0 where the filesystem makes them as it needs them (btrfs)."""
    there = Path(path)
    while not there.exists() and there != there.parent:
        there = there.parent
    status = os.statvfs(there)
    return {
        "total_mib": status.f_blocks * status.f_frsize >> 20,
        "free_mib": status.f_bavail * status.f_frsize >> 20,
        "inodes": status.f_files,
        "free_inodes": status.f_favail,
        "readonly": bool(status.f_flag & os.ST_RDONLY),
        "error": "",
    }
