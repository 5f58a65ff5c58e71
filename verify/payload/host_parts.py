"""The parts of a host's report that are read from its files and asked of its tools.

Each function returns its part's values (see the report in `host_report.py`), never judges, and may
hang or raise: it runs in a process of its own with a deadline. Standard library only. What
provisioning reads too is read by another way here wherever there is one, so that one wrong reading
does not vouch for another.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

TOOL_S = 6
"""For one tool that is asked; the part that asks has a little more."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NVIDIA = 0x10DE
DISPLAY, SWITCH = "03", "0680"
"""PCI classes: display controllers (a GPU is 0300 or 0302), other bridges (an NVSwitch)."""
DEAD = 0xFF
"""What configuration space reads of a device that fell off the bus."""
WATCHED_MODULES = ("nvidia", "nvidia_uvm", "nvidia_modeset", "nvidia_drm", "nouveau")
MODULE_NAMES = ("nvidia", "nvidia-current", "nvidia-current-open")
"""What modinfo may know the driver's module by: the vendor's name, and Debian's own."""
LICENCES = {"Dual MIT/GPL": "open", "NVIDIA": "closed"}
"""Licence of the vendor's module -> flavour (its open-gpu-kernel-modules; `modinfo -F license`)."""
SIMULATED = "/etc/simulated-hardware"
XID = re.compile(r"NVRM: Xid \(PCI:([0-9a-fA-F:.]+)\): (\d+)")
"""Form of the driver's line (NVIDIA, "Xid Errors", section on viewing them)."""
MOST_XIDS = 500
MOST_LINE = 300
MOST_HOLDERS = 500
GPU_FILE = re.compile(r"/dev/nvidia(\d+)$")
USES_GPU = re.compile(r"/dev/nvidia(\d+|-uvm|-caps/.*)$")
"""What a process that uses a GPU has open. /dev/nvidiactl alone only asks for numbers."""
DAEMONS = {
    "nvidia-persistenced",
    "nv-fabricmanager",
    "nvidia-imex",
    "nv-hostengine",
    "dcgm-exporter",
    "nvidia-topologyd",
    "nvlsm",
    "nvsm",
    "nvidia-powerd",
}
"""The driver's and DCGM's own services, which hold every GPU and use none."""


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
    }


# ---- PCI -----------------------------------------------------------------------------------------


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


# ---- kernel and modules --------------------------------------------------------------------------


def modules() -> dict[str, Any]:
    """Modules that are loaded, and the driver's module on disk for each kernel."""
    loaded = {
        name: _first(text_of(f"/sys/module/{name}/version"), "")
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
        for name in _names(boot)
        if name.startswith("vmlinuz-") and not name.endswith((".old", ".rescue"))
    }
    images |= {name for name in _names(libraries) if os.path.exists(f"{libraries}/{name}/vmlinuz")}
    bootable = sorted(images & set(_names(libraries)), key=version_order)
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
        {name for name in _names("/lib/modules") if os.path.isdir(f"/lib/modules/{name}")}
        | {os.uname().release},
        key=version_order,
    )


# ---- kernel log ----------------------------------------------------------------------------------


def log() -> dict[str, Any]:
    """Xid events since boot, the newest `MOST_XIDS` of them.

    `readable` is false when the journal does not show this user the kernel's messages: then no
    Xid means nothing.
    """
    found: dict[str, Any] = {"source": "journalctl -k", "readable": False, "error": "", "xids": []}
    base = ("journalctl", "-k", "-b", "--no-pager", "-o", "json")
    fields = "--output-fields=MESSAGE,__REALTIME_TIMESTAMP"
    try:
        seen = tool(*base, "-n", "1", fields)
        if seen.returncode != 0 or "Hint:" in seen.stderr or "No journal files" in seen.stderr:
            found["error"] = _first(seen.stderr, "journalctl failed and said nothing")
            return found
        if not seen.stdout.strip():
            found["error"] = "the journal has no kernel messages of this boot"
            if os.geteuid() != 0:
                found["error"] += " for this user; root, adm and systemd-journal see them"
            return found
        shown = tool(*base, "-r", fields, "-g", r"NVRM: Xid \(")
        if shown.returncode not in (0, 1) or "pattern matching" in shown.stderr:
            shown = tool(*base, "-r", fields)  # a journalctl that was built without patterns
            if shown.returncode != 0:
                found["error"] = _first(shown.stderr, "journalctl failed and said nothing")
                return found
    except FileNotFoundError:
        found["error"] = "journalctl is not installed"
        return found
    except subprocess.TimeoutExpired:
        found["error"] = f"journalctl had not ended after {TOOL_S} s"
        return found
    found["readable"] = True
    found["xids"] = xids(shown.stdout)
    return found


def xids(lines: str) -> list[dict[str, Any]]:
    """Xid events among journal entries, one JSON object a line; the oldest first."""
    found: list[dict[str, Any]] = []
    for line in lines.splitlines():
        if "Xid" not in line and '"MESSAGE":[' not in line.replace(" ", ""):
            continue
        try:
            entry = json.loads(line)
            message = entry["MESSAGE"]
            if isinstance(message, list):  # bytes, when it is not plain text
                message = bytes(message).decode(errors="replace")
            event = XID.search(message)
            seconds = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
        except (ValueError, KeyError, TypeError):
            continue
        if event is not None and len(found) < MOST_XIDS:
            found.append(
                {
                    "slot": event[1].lower(),
                    "code": int(event[2]),
                    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)),
                    "line": message[:MOST_LINE],
                }
            )
    return found[::-1]


# ---- who uses the GPUs ---------------------------------------------------------------------------


def holders(reporter: int) -> dict[str, Any]:
    """Processes that have a GPU open; those of the report itself (below `reporter`) are left out.

    Not complete when files of other users could not be looked at.
    """
    blind = False
    parents: dict[int, int] = {}
    held: dict[int, set[int]] = {}
    owners: dict[int, int] = {}
    index = _index_by_minor()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        pid = int(entry)
        try:
            parents[pid] = _parent(pid)
            names = os.listdir(f"/proc/{pid}/fd")
        except PermissionError:
            blind = True
            continue
        except OSError:  # it has ended
            continue
        for name in names:
            try:
                target = os.readlink(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            if USES_GPU.match(target):
                gpu = GPU_FILE.match(target)
                held.setdefault(pid, set()).update(
                    [index[int(gpu[1])]] if gpu and int(gpu[1]) in index else []
                )
                owners[pid] = os.stat(f"/proc/{pid}").st_uid
    mine = {reporter, os.getpid()}
    for pid in [*parents]:
        line: list[int] = []
        at: int | None = pid
        while at is not None and at not in mine and len(line) < 64:
            line.append(at)
            at = parents.get(at)
        if at in mine:
            mine.update(line)
    users = names_of(set(owners.values()))
    found = [
        {
            "pid": pid,
            "user": users[owners[pid]],
            "command": text_of(f"/proc/{pid}/comm"),
            "gpus": sorted(gpus),
        }
        for pid, gpus in sorted(held.items())
        if pid not in mine and not _is_daemon(pid)
    ]
    why = "only root sees which processes of other users hold the GPUs" if blind else ""
    return {"complete": not blind, "processes": found[:MOST_HOLDERS], "error": why}


def _is_daemon(pid: int) -> bool:
    """One of the driver's services, by its program's place: a user's process cannot be there."""
    try:
        program = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return False
    directory, _, name = program.rpartition("/")
    return name in DAEMONS and bool(re.match(r"/usr/(s?bin|libexec|lib|local/s?bin)", directory))


def _index_by_minor(root: str = "/proc/driver/nvidia/gpus") -> dict[int, int]:
    """Number of a device file -> NVML's index, which follows the slots of the driver's GPUs."""
    found = {}
    for index, slot in enumerate(sorted(_names(root))):
        minor = re.search(r"Device Minor:\s*(\d+)", text_of(f"{root}/{slot}/information"))
        if minor:
            found[int(minor[1])] = index
    return found


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as stat:
        return int(stat.read().rpartition(b")")[2].split()[1])


def jobs() -> dict[str, Any]:
    """Running Slurm jobs of this host; none where there is no Slurm."""
    program, problem = _squeue()
    if not program:
        return {"jobs": [], "error": problem}
    node = os.uname().nodename.partition(".")[0]
    asked = tool(program, "-h", "-w", node, "-t", "R", "-o", "%i %u")
    if asked.returncode != 0:
        said = _first(asked.stderr, f"exit {asked.returncode}")
        # A login node has Slurm's tools and is no node of the cluster.
        if "invalid node name" in said.lower() and not _slurmd():
            return {"jobs": [], "error": ""}
        return {"jobs": [], "error": f"squeue: {said}"}
    pairs = (line.split() for line in asked.stdout.splitlines())
    found = [{"id": words[0][:40], "user": words[1][:64]} for words in pairs if len(words) == 2]
    return {"jobs": found[:MOST_HOLDERS], "error": ""}


def _squeue() -> tuple[str, str]:
    for place in PATH.split(":"):
        if os.access(f"{place}/squeue", os.X_OK):
            return f"{place}/squeue", ""
    daemon = _slurmd()
    if not daemon:
        return "", ""
    beside = f"{os.path.dirname(os.path.dirname(daemon))}/bin/squeue"
    if os.access(beside, os.X_OK):
        return beside, ""
    return "", "slurmd runs here, but there is no squeue to ask for jobs"


def _slurmd() -> str:
    """The program of a running slurmd, "" when none runs."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and text_of(f"/proc/{entry}/comm") == "slurmd":
            try:
                return os.readlink(f"/proc/{entry}/exe")
            except OSError:
                return "/usr/sbin/slurmd"
    return ""


# ---- name and disks ------------------------------------------------------------------------------


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
    read-only."""
    there = Path(path)
    while not there.exists() and there != there.parent:
        there = there.parent
    status = os.statvfs(there)
    return {
        "total_mib": status.f_blocks * status.f_frsize >> 20,
        "free_mib": status.f_bavail * status.f_frsize >> 20,
        "readonly": bool(status.f_flag & os.ST_RDONLY),
        "error": "",
    }


# ---- reading -------------------------------------------------------------------------------------


def text_of(path: str, most: int = 65536) -> str:
    """A small file's text without its end, "" when there is none to read."""
    try:
        with open(path, "rb") as file:
            return file.read(most).decode(errors="replace").strip()
    except OSError:
        return ""


def number_of(path: str, base: int = 10) -> int | None:
    """A file's one number; None when there is none."""
    try:
        return int(text_of(path), base)
    except ValueError:
        return None


def names_of(uids: set[int]) -> dict[int, str]:
    """Names of users: of this host, then of its directory for 3 s, else the number as text."""
    found = {}
    local = {
        int(fields[2]): fields[0]
        for line in text_of("/etc/passwd", 1_000_000).splitlines()
        if len(fields := line.split(":")) == 7 and fields[2].isdigit()
    }
    for uid in uids:
        found[uid] = local.get(uid, str(uid))
    if elsewhere := sorted(uid for uid in uids if uid not in local):
        try:
            asked = tool("getent", "passwd", *map(str, elsewhere), seconds=3)
        except (OSError, subprocess.TimeoutExpired):
            return found
        for line in asked.stdout.splitlines():
            fields = line.split(":")
            if len(fields) > 2 and fields[2].isdigit():
                found[int(fields[2])] = fields[0]
    return found


def tool(*command: str, seconds: float = TOOL_S) -> subprocess.CompletedProcess[str]:
    """Ask one of the host's programs. Raises FileNotFoundError, TimeoutExpired."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds,
        text=True,
        errors="replace",
        env={"PATH": PATH, "LC_ALL": "C", "SYSTEMD_COLORS": "0"},
    )


def _first(text: str, otherwise: str) -> str:
    """The first line of a text, for one value or one reason."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:MOST_LINE] if lines else otherwise


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []
