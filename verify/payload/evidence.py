"""What an RMA needs of this host, as one line `GPUFLEET {json}`, whatever hangs.

    evidence.py <REQUEST     {"schema": 1, "since": epoch or 0, "until": epoch or 0}

Every program runs at once with the others, in a session of its own with a deadline, and what does
not end is left behind (within.py); what it had written is kept. The line holds, packed (gzip and
base64), {"sources": [{"file", "command", "exit", "seconds", "hung", "truncated", "missing",
"text"}]}. Nothing is redacted here: the controller does that before anything is written.

Programs: nvidia-bug-report.sh may hang on a broken driver, and NVIDIA names --safe-mode for that;
`ipmitool sel elist` or FreeIPMI's ipmi-sel read the event log of the machine.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import shutil
import sys
import tempfile
import zlib
from functools import partial
from pathlib import Path
from typing import Any

BUNDLE = Path(__file__).resolve().parents[2]
sys.path[:] = [str(BUNDLE), *(p for p in sys.path if p != str(Path(__file__).resolve().parent))]

from verify.payload import within  # noqa: E402
from verify.payload.reading import PATH, text_of  # noqa: E402

REPORT = "nvidia-bug-report.sh"
REPORT_S = 120.0
SAFE_S = 60.0
"""For the second try, with --safe-mode."""
MOST_REPORT = 8_000_000
MOST_TEXT = 1_000_000
DMI = "/sys/class/dmi/id"
FILES = (
    "/etc/os-release", "/proc/driver/nvidia/version", "/proc/cmdline", "/proc/version",
    "/proc/driver/nvidia/params", "/sys/module/nvidia/version",
)  # fmt: skip
COMMANDS: dict[str, tuple[float, list[list[str]]]] = {
    "nvidia-smi.txt": (30, [["nvidia-smi", "-q"]]),
    "nvidia-smi-topo.txt": (30, [["nvidia-smi", "topo", "-m"]]),
    "lspci.txt": (20, [["lspci", "-vvv", "-nn", "-d", "10de:"]]),
    "dmidecode.txt": (20, [["dmidecode", "-t", "0,1,2,3,9"]]),
    "sel.txt": (60, [["ipmitool", "sel", "elist"], ["ipmi-sel"]]),
    "dcgmi-discovery.txt": (30, [["dcgmi", "discovery", "-l"]]),
    "dcgmi-health.json": (30, [["dcgmi", "health", "-g", "0", "-c", "-j"]]),
    "dcgmi-diag.json": (90, [["dcgmi", "diag", "-r", "1", "-j"]]),
}
"""File -> seconds, and the programs that can tell it, of which the first that is there is taken."""
LOG = ["journalctl", "-k", "--no-pager", "-o", "short-iso"]

Document = dict[str, Any]


def logs(since: float, until: float) -> dict[str, tuple[float, list[list[str]]]]:
    """The kernel's log: its last lines since boot, and those around what was found."""
    found = {"kernel.txt": (30.0, [[*LOG, "-b", "-n", "5000"]])}
    if since and until:
        window = [*LOG, "--since", f"@{since:.0f}", "--until", f"@{until:.0f}"]
        found["kernel-window.txt"] = (30.0, [window])
    return found


def source(file: str, command: str, **more: Any) -> Document:
    return {
        "file": file, "command": command, "exit": None, "seconds": 0.0, "hung": False,
        "truncated": False, "missing": "", "text": "", **more,
    }  # fmt: skip


def of_child(file: str, words: list[str], child: within.Child, most: int = MOST_TEXT) -> Document:
    """What came of one program."""
    ended = child.document()
    text = ended["out"] + (f"\n[standard error]\n{ended['err']}" if ended["err"].strip() else "")
    missing = ""
    if ended["hung"]:
        missing = "it did not end in time" + ", and could not be killed" * ended["abandoned"]
    elif not text.strip():
        missing = f"it said nothing (exit {ended['rc']})"
    return source(
        file, " ".join(words), exit=ended["rc"], seconds=ended["seconds"], hung=ended["hung"],
        truncated=len(ended["out"]) >= within.MOST_OUT, missing=missing, text=text[-most:],
    )  # fmt: skip


def gathered(since: float, until: float) -> list[Document]:
    """Every source, also those of which there is nothing."""
    environment = {"PATH": PATH, "LC_ALL": "C", "HOME": "/root", "TERM": "dumb"}
    folder = tempfile.mkdtemp(prefix="gpufleet-evidence-")
    found, running = [], {}
    try:
        for file, (seconds, choices) in {**COMMANDS, **logs(since, until)}.items():
            words = next((one for one in choices if shutil.which(one[0], path=PATH)), None)
            if words is None:
                names = " nor ".join(one[0] for one in choices)
                found.append(source(file, " ".join(choices[0]), missing=f"{names}: not installed"))
                continue
            running[file] = (words, within.Child(within.executes(words, environment), seconds))
        report = partial(reported, folder, environment)
        there = shutil.which(REPORT, path=PATH) is not None
        words = [REPORT, "--output-file", f"{folder}/report"]
        begun = [within.Child(within.executes(words, environment), REPORT_S)] if there else []
        within.wait([*(child for _, child in running.values()), *begun])
        found += [of_child(file, words, child) for file, (words, child) in running.items()]
        found.append(report(words, begun[0] if begun else None))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return [*found, dmi(), versions()]


def reported(
    folder: str, environment: dict[str, str], words: list[str], child: within.Child | None
) -> Document:
    """NVIDIA's own report, whole or as far as it came; once more in safe mode when it hung."""
    file = "nvidia-bug-report.log"
    if child is None:
        return source(file, REPORT, missing=f"{REPORT}: not installed")
    found = of_child(file, words, child)
    text = unpacked(folder)
    if child.hung:
        safe = [*words[:2], f"{folder}/report-safe", "--safe-mode"]
        second = within.Child(within.executes(safe, environment), SAFE_S)
        within.wait([second])
        more = unpacked(folder, "report-safe")
        text += f"\n\n[once more, with --safe-mode]\n{more}" if more else ""
        found["missing"] += "; a second try with --safe-mode " + (
            "hung too" if second.hung else f"ended with {second.rc}"
        )
    found["truncated"] = len(text) > MOST_REPORT
    found["text"] = text[-MOST_REPORT:] or found["text"]
    if text and not child.hung:
        found["missing"] = ""
    return found


def unpacked(folder: str, name: str = "report.") -> str:
    """The text of what the program has written so far, packed or not, bounded."""
    texts = []
    for path in sorted(Path(folder).iterdir()):
        if not path.name.startswith(name) or not path.is_file() or path.is_symlink():
            continue
        with path.open("rb") as file:
            raw = file.read(MOST_REPORT + 1)
        if raw[:2] == b"\x1f\x8b":
            try:
                raw = zlib.decompressobj(31).decompress(raw, MOST_REPORT + 1)
            except zlib.error as error:
                raw = f"[the report is damaged: {error}]".encode()
        texts.append(raw.decode(errors="replace"))
    return "\n".join(texts)


def dmi() -> Document:
    """Names and serials of the machine, its board and chassis, as far as this user may read."""
    names = sorted(os.listdir(DMI)) if os.path.isdir(DMI) else []
    lines = [
        f"{name}: {value}"
        for name in names
        if name not in ("modalias", "uevent") and (value := text_of(f"{DMI}/{name}", 400))
    ]
    missing = "" if lines else f"{DMI} tells nothing"
    return source("dmi.txt", f"read {DMI}", exit=0, missing=missing, text="\n".join(lines))


def versions() -> Document:
    """Versions of the driver, the kernel and the system, by their own files."""
    parts = [f"[{path}]\n{text}\n" for path in FILES if (text := text_of(path))]
    return source("versions.txt", f"read {' '.join(FILES)}", exit=0, text="\n".join(parts))


def main() -> int:
    asked = json.loads(sys.stdin.read())
    found = {"sources": gathered(float(asked["since"]), float(asked["until"]))}
    packed = base64.b64encode(gzip.compress(json.dumps(found).encode(), 6)).decode()
    print("GPUFLEET " + json.dumps({"schema": 1, "packed": packed}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
