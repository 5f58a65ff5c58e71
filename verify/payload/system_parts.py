"""Clock, processors, memory, memory controllers and stuck processes: parts of the report."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import time
from typing import Any

from verify.payload.reading import first, names_in, number_of, text_of, tool

CLOCKSOURCE = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
PROCESSORS = "/sys/devices/system/cpu"
CONTROLLERS = "/sys/devices/system/edac/mc"
UNSYNCHRONISED = 0x0040
"""STA_UNSYNC of adjtimex(2), linux/timex.h."""
TIMEX = 256
"""More bytes than struct timex has on any architecture."""
FROZEN = ("refrigerator", "freezer_trap")
"""Where the kernel keeps the processes of a paused container (kernel/freezer.c): no fault."""
AGAIN_S = 0.5
PROCESSOR = 39 - 3
"""Index of field 39 of /proc/PID/stat, the processor, behind the name (proc(5))."""
MOST_STUCK = 50


def clock() -> dict[str, Any]:
    """Whether the clock follows others, and what the kernel measures time by."""
    synchronised, asked, error = _synchronised()
    return {
        "synchronised": synchronised,
        "asked": asked,
        "source": text_of(CLOCKSOURCE),
        "error": error,
    }


def _synchronised() -> tuple[bool | None, str, str]:
    """systemd's word, else the kernel's own: both stand on adjtimex(2), which every time daemon
    tells. A container may have no bus to ask systemd over."""
    try:
        said = tool("timedatectl", "show", "-p", "NTPSynchronized", "--value", seconds=4)
        if said.returncode == 0 and said.stdout.strip() in ("yes", "no"):
            return said.stdout.strip() == "yes", "timedatectl", ""
    except (OSError, subprocess.TimeoutExpired):
        pass
    values = ctypes.create_string_buffer(TIMEX)
    state = ctypes.CDLL(None, use_errno=True).adjtimex(values)
    if state < 0:
        return None, "adjtimex", os.strerror(ctypes.get_errno())
    # struct timex: modes, then four longs (offset, freq, maxerror, esterror), then status.
    word = ctypes.sizeof(ctypes.c_long)
    status = int.from_bytes(values.raw[5 * word : 5 * word + 4], "little")
    return not status & UNSYNCHRONISED, "adjtimex", ""


def processors(root: str = PROCESSORS, meminfo: str = "/proc/meminfo") -> dict[str, Any]:
    """How many processors and how much memory there is, and how the processors are clocked."""
    governors: dict[str, int] = {}
    for name in names_in(root):
        if re.fullmatch(r"cpu\d+", name):
            governor = text_of(f"{root}/{name}/cpufreq/scaling_governor")
            if governor:
                governors[governor[:40]] = governors.get(governor[:40], 0) + 1
    total = re.search(r"^MemTotal:\s+(\d+) kB", text_of(meminfo), re.MULTILINE)
    return {
        "count": count_of(text_of(f"{root}/online")),
        "memory_mib": int(total[1]) >> 10 if total else None,
        "governors": governors,
        "error": "",
    }


def count_of(ranges: str) -> int | None:
    """How many processors `0-3,8` names; None when it names none."""
    total = 0
    for part in ranges.split(",") if ranges else []:
        low, _, high = part.partition("-")
        if not low.isdigit() or not (high or low).isdigit():
            return None
        total += int(high or low) - int(low) + 1
    return total or None


def virtual(cpuinfo: str = "/proc/cpuinfo") -> bool | None:
    """Whether this is a virtual machine; None when it cannot be told.

    A hypervisor says so to its guests' processors (CPUID leaf 1, ECX bit 31), which Linux shows
    as a flag on x86; elsewhere systemd-detect-virt is asked.
    """
    flags = re.search(r"^flags\s*:(.*)$", text_of(cpuinfo), re.MULTILINE)
    if flags:
        return "hypervisor" in flags[1].split()
    try:
        said = tool("systemd-detect-virt", "--vm")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {0: True, 1: False}.get(said.returncode)


def memory_errors(root: str = CONTROLLERS) -> dict[str, Any]:
    """What each memory controller has counted since its driver was loaded (EDAC in sysfs)."""
    found = []
    for name in names_in(root):
        if not re.fullmatch(r"mc\d+", name):
            continue
        folder = f"{root}/{name}"
        modules = []
        for part in names_in(folder):
            if re.fullmatch(r"(dimm|rank)\d+", part):
                count = number_of(f"{folder}/{part}/dimm_ue_count")
                if count:
                    label = first(text_of(f"{folder}/{part}/dimm_label"), part)
                    modules.append({"label": label, "uncorrected": count})
        found.append(
            {
                "name": name,
                "uncorrected": number_of(f"{folder}/ue_count"),
                "corrected": number_of(f"{folder}/ce_count"),
                "modules": modules[:32],
            }
        )
    return {"controllers": found[:64], "error": ""}


# ---- processes that cannot be stopped


def stuck() -> dict[str, Any]:
    """Processes in uninterruptible sleep at two looks between which none of them ran.

    `seconds` is how long it has not run, None when the kernel does not tell
    (/proc/PID/sched is there with CONFIG_SCHED_DEBUG, in the large distributions).
    """
    before = _sleeping()
    if before:
        time.sleep(AGAIN_S)
    after = _sleeping() if before else {}
    found = []
    for pid, (command, switches) in after.items():
        if before.get(pid) != (command, switches):
            continue
        where = text_of(f"/proc/{pid}/wchan")
        if any(name in where for name in FROZEN):
            continue
        found.append(
            {
                "pid": int(pid),
                "command": command,
                "where": where[:60] if where != "0" else "",
                "seconds": _asleep(pid),
            }
        )
    return {"processes": found[:MOST_STUCK], "error": ""}


def _sleeping() -> dict[str, tuple[str, str]]:
    """Process id -> its name, and how often it was switched, of those in state D."""
    found = {}
    for pid in names_in("/proc"):
        if not pid.isdigit():
            continue
        status = text_of(f"/proc/{pid}/status")
        if "\nState:\tD" in status:
            name = re.match(r"Name:\t(.*)", status)
            switches = re.findall(r"^(?:non)?voluntary_ctxt_switches:\t(\d+)$", status, re.M)
            found[pid] = (name[1][:40] if name else "", "+".join(switches))
    return found


def _asleep(pid: str) -> float | None:
    """Seconds since it ran last, by the clock of its processor.

    The clocks of two processors differ by the time that each spent on interrupts, hours after
    weeks (rq_clock_task in Linux, kernel/sched); so this process goes to that processor to ask.
    """
    ran = _last_ran(pid)
    fields = text_of(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if ran is None or len(fields) <= PROCESSOR or not fields[PROCESSOR].isdigit():
        return None
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {int(fields[PROCESSOR])})
        now = _last_ran("self")
    except OSError:  # a processor that is off, or that we may not use
        return None
    finally:
        os.sched_setaffinity(0, before)
    return round(max(0.0, now - ran) / 1000, 1) if now is not None else None


def _last_ran(pid: str) -> float | None:
    """Milliseconds of the scheduler's clock at which it ran last."""
    shown = re.search(r"^se\.exec_start\s*:\s*([\d.]+)", text_of(f"/proc/{pid}/sched"), re.M)
    return float(shown[1]) if shown else None
