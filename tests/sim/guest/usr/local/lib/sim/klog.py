"""This node's kernel log: entries of transport `kernel` in its journal, for want of /dev/kmsg.

`journalctl -k` shows them. They are imported by systemd-journal-remote, the journal's own tool for
entries that come from elsewhere; a client of journald could not claim to be the kernel.
"""

import os
import subprocess
import time
from pathlib import Path

FOLDER = Path("/var/log/journal")


def say(text, priority=4):
    """Write one line to the kernel log; priority as syslog has it (3 error, 4 warning, 6 info)."""
    machine = Path("/etc/machine-id").read_text().strip()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    fields = {
        "__REALTIME_TIMESTAMP": int(time.time() * 1e6),
        "__MONOTONIC_TIMESTAMP": int(time.monotonic() * 1e6),
        "_BOOT_ID": boot,
        "_MACHINE_ID": machine,
        "_HOSTNAME": os.uname().nodename,
        "_TRANSPORT": "kernel",
        "SYSLOG_FACILITY": 0,
        "SYSLOG_IDENTIFIER": "kernel",
        "PRIORITY": priority,
        "MESSAGE": text.replace("\n", " "),
    }
    _keep("".join(f"{key}={value}\n" for key, value in fields.items()) + "\n")


def forget(beginning):
    """Take lines that begin so out of the kernel log, as if they had never been said."""
    files = sorted(FOLDER.glob("*/kernel*.journal"))
    shown = [f"--file={file}" for file in files]
    asked = ["journalctl", *shown, "-o", "export", "--all"]
    entries = subprocess.run(asked, text=True, check=True, capture_output=True).stdout.split("\n\n")
    kept = [entry for entry in entries if entry and f"\nMESSAGE={beginning}" not in entry]
    for file in files:
        file.unlink()
    if kept:
        _keep("\n\n".join(kept) + "\n\n")


def _keep(entries):
    machine = Path("/etc/machine-id").read_text().strip()
    directory = FOLDER / machine
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["/lib/systemd/systemd-journal-remote", "-o", str(directory / "kernel.journal"), "-"],
        input=entries, text=True, check=True, capture_output=True,
    )  # fmt: skip
