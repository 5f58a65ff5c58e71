"""This node's kernel log: entries of transport `kernel` in its journal, for want of /dev/kmsg.

`journalctl -k` shows them. They are imported by systemd-journal-remote, the journal's own tool for
entries that come from elsewhere; a client of journald could not claim to be the kernel.
"""

import os
import subprocess
import time
from pathlib import Path


def say(text, priority=4):
    """Write one line to the kernel log; priority as syslog has it (3 error, 4 warning, 6 info)."""
    machine = Path("/etc/machine-id").read_text().strip()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    directory = Path("/var/log/journal") / machine
    directory.mkdir(parents=True, exist_ok=True)
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
    entry = "".join(f"{key}={value}\n" for key, value in fields.items()) + "\n"
    subprocess.run(
        ["/lib/systemd/systemd-journal-remote", "-o", str(directory / "kernel.journal"), "-"],
        input=entry, text=True, check=True, capture_output=True,
    )  # fmt: skip
