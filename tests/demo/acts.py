"""What the demo shows: acts of commands, and what each must come to."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deploy.fleet import exits

PLACE = "build/demo"
"""Everything that the demo itself writes, but the runs: JSON, and the local variant's files."""
SIM, LOCAL = "inventories/sim.py", "inventories/local.py"
FLEET = "demo"
HOST, GPU = "h100-02", 3
"""The GPU that breaks."""
WHEEL = "networkx"
"""The wheel that somebody removes: torch does not work without it."""
_FOUND = f"{PLACE}/broken.json"
_SITE = f"{PLACE}/gpufleet/env/lib/python3*/site-packages"


Broken = frozenset[tuple[str, str, int | str]]
"""Host, kind of component, and its index or name."""


@dataclass(frozen=True)
class Command:
    """One command as one would type it in the repository, and what it must come to."""

    line: str
    wanted: int = 0
    """The exit code that it must have."""
    holds: str = ""
    """What its output must hold."""
    names: Broken = frozenset()
    """What the verify run that it wrote to `_FOUND` must find, and nothing else."""


@dataclass(frozen=True)
class Act:
    """A heading, and what is shown below it."""

    heading: str
    commands: tuple[Command, ...]


def acts(inventory: str, folder: Path) -> list[Act]:
    """The demo on the simulated hosts, or on this machine alone, as played in a folder."""
    return _simulated() if inventory == SIM else _alone(folder)


def _provisioned(inventory: str, apply: str) -> list[Act]:
    proof = Command(f"gpufleet verify {inventory} --level standard")
    proves = "Every host proves that it can train"
    if inventory == LOCAL and blind():
        proof = replace(proof, wanted=exits.NOT_LOOKED_AT)
        proves = "No training: only root sees who else uses the GPUs here, so none is loaded"
    return [
        Act("What would change, and why", (Command(f"gpufleet plan {inventory}"),)),
        Act("Every host is brought to its stack", (Command(apply, holds="converged"),)),
        Act(proves, (proof,)),
        Act("A second apply changes nothing", (Command(apply, holds="0 changes;"),)),
    ]


def _simulated() -> list[Act]:
    sim = "python -m tests.sim"
    begin = (
        Command(f"{sim} up --fleet {FLEET} --profile demo"),
        Command(f"{sim} restore --fleet {FLEET}"),
        Command("rm -f inventories/sim.lock"),
    )
    lost_gpu = frozenset({(HOST, "gpu", GPU)})
    breaks = (
        Command(f"{sim} fault --fleet {FLEET} {HOST} gpu-lost:{GPU}"),
        Command(f"gpufleet verify {SIM} --json {_FOUND}", wanted=1, names=lost_gpu),
    )
    heals = (Command(f"{sim} heal --fleet {FLEET} {HOST}"), Command(f"gpufleet verify {SIM}"))
    return [
        Act("Four hosts: Debian is real, the GPUs are simulated", begin),
        *_provisioned(SIM, f"gpufleet apply {SIM} --yes --reboot"),
        Act(f"GPU {GPU} of {HOST} falls off the bus", breaks),
        Act("It is put right", heals),
    ]


def _alone(folder: Path) -> list[Act]:
    apply = f"gpufleet apply {LOCAL} --yes"
    begin = [Command(f"export XDG_DATA_HOME={shlex.quote(str(folder / PLACE))}")]
    if folders := wheel_folders():
        begin.append(Command(f"export PIP_FIND_LINKS={shlex.quote(folders)}"))
    begin += [
        Command(f"gpufleet remove {LOCAL} --yes"),
        Command("rm -f inventories/local.lock"),
    ]
    lost_wheel = frozenset({("@local", "wheel", WHEEL)})
    breaks = (
        Command(f"rm -r {_SITE}/{WHEEL}*"),
        Command(f"gpufleet verify {LOCAL} --json {_FOUND}", wanted=1, names=lost_wheel),
    )
    heals = (Command(apply, holds="converged"), Command(f"gpufleet verify {LOCAL}"))
    return [
        Act("This machine alone, below build/demo; what needs root is left out", tuple(begin)),
        *_provisioned(LOCAL, apply),
        Act(f"Somebody removes a wheel, {WHEEL}", breaks),
        Act("It is put right", heals),
    ]


def blind(devices: Path = Path("/dev")) -> bool:
    """Whether this user cannot see who uses the GPUs of this machine."""
    return os.geteuid() != 0 and any(devices.glob("nvidia*"))


def wheel_folders() -> str:
    """Where this machine's pip is configured to find wheels, when only its files say so."""
    if os.environ.get("PIP_FIND_LINKS"):
        return ""
    listed = subprocess.run(  # not `config get`, which old releases answer from one file only
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = re.search(r"^global\.find-links=(['\"])(.*)\1$", listed.stdout, re.M)
    return " ".join(found[2].replace("\\n", " ").split()) if found else ""


def broken(document: dict[str, Any]) -> Broken:
    """What a verify run says is not well; findings that another one explains are not in it.

    What is degraded is left out: a machine of anybody's may have a clock that nobody sets."""
    found: set[tuple[str, str, int | str]] = set()
    for name, host in document["hosts"].items():
        parts = [one["component"] for one in host["findings"] if one["verdict"] != "degraded"]
        if host["verdict"] not in ("pass", "degraded") and not parts:
            found.add((name, host["verdict"], ""))
        for part in parts:
            index = part["index"]
            found.add((name, part["kind"], part["name"] if index is None else index))
    return frozenset(found)


def wrongly_found(command: Command, folder: Path) -> str:
    """What is wrong with the verify run that a command wrote, "" when it finds what it must."""
    if not command.names:
        return ""
    found = broken(json.loads((folder / _FOUND).read_text(encoding="utf-8")))
    if found == command.names:
        return ""
    return f"found {sorted(found, key=str)}, wanted {sorted(command.names, key=str)} alone"
