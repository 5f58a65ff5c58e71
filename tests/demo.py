"""The whole of gpufleet in a few minutes, by its own commands: `make demo`.

With root (or passwordless sudo) on four simulated hosts; without, or with `python -m tests.demo
inventories/local.py`, on this machine alone in a folder below build/. Every command is shown as
one would type it, and its outcome is checked: the demo ends with 0 only when all was as it says.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.sim import paths, profiles

REPOSITORY = paths.REPOSITORY
HERE = REPOSITORY / "build" / "demo"
"""Everything that the demo itself writes, but the runs: JSON, and the local variant's files."""
SIM, LOCAL = "inventories/sim.py", "inventories/local.py"
FLEET = "demo"
BROKEN_HOST, BROKEN_GPU = "h100-02", 3
WHEEL = "networkx"
"""A wheel that torch cannot do without, and nothing else here."""
END_S = 20
"""How long a command may take to end after Ctrl-C."""


class Stopped(Exception):  # noqa: N818 - reads as what it is at every raise
    """The demo ends here, with an exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Command:
    """One command as one would type it in the repository."""

    line: str
    wanted: int = 0
    """The exit code that it must have."""
    holds: str = ""
    """What its output must hold."""
    check: Callable[[], str] = field(default=lambda: "")
    """Looks at what it wrote; returns what is wrong, "" for nothing."""


@dataclass(frozen=True)
class Act:
    """A heading, and what is shown below it."""

    heading: str
    commands: tuple[Command, ...]


def acts(inventory: str) -> list[Act]:
    """What the demo shows on the simulated hosts, or on this machine alone."""
    return _simulated() if inventory == SIM else _alone()


def _common(inventory: str, apply: str) -> list[Act]:
    return [
        Act("What would change, and why", (Command(f"gpufleet plan {inventory}"),)),
        Act("Bring every host to its stack", (Command(apply, holds="converged"),)),
        Act(
            "Prove that every host can train",
            (Command(f"gpufleet verify {inventory} --level standard"),),
        ),
        Act("A second apply changes nothing", (Command(apply, holds="0 changes;"),)),
    ]


def _simulated() -> list[Act]:
    found = "build/demo/broken.json"
    return [
        Act(
            "Four simulated hosts: real Debian, simulated GPUs",
            (
                Command(f"python -m tests.sim up --fleet {FLEET} --profile demo"),
                Command(f"python -m tests.sim restore --fleet {FLEET}"),
                Command("rm -f inventories/sim.lock"),
            ),
        ),
        *_common(SIM, f"gpufleet apply {SIM} --yes --reboot"),
        Act(
            f"GPU {BROKEN_GPU} of {BROKEN_HOST} falls off the bus",
            (
                Command(
                    f"python -m tests.sim fault --fleet {FLEET} {BROKEN_HOST} gpu-lost:{BROKEN_GPU}"
                ),
                Command(f"gpufleet verify {SIM} --json {found}", wanted=1, check=one_lost_gpu),
            ),
        ),
        Act(
            "It is put right",
            (
                Command(f"python -m tests.sim heal --fleet {FLEET} {BROKEN_HOST}"),
                Command(f"gpufleet verify {SIM}"),
            ),
        ),
    ]


def _alone() -> list[Act]:
    place = HERE.relative_to(REPOSITORY)
    wheels = f"{place}/gpufleet/env/lib/python3*/site-packages"
    begin = [Command(f"export XDG_DATA_HOME={shlex.quote(str(HERE))}")]
    if folders := wheel_folders():
        begin.append(Command(f"export PIP_FIND_LINKS={shlex.quote(folders)}"))
    return [
        Act(
            "This machine alone, in a folder of yours; what needs root is left out",
            (
                *begin,
                Command(f"gpufleet remove {LOCAL} --yes"),
                Command("rm -f inventories/local.lock"),
            ),
        ),
        *_common(LOCAL, f"gpufleet apply {LOCAL} --yes"),
        Act(
            f"Somebody removes a wheel, {WHEEL}",
            (
                Command(f"rm -r {wheels}/{WHEEL}*"),
                Command(
                    f"gpufleet verify {LOCAL} --json {place}/broken.json",
                    wanted=1,
                    check=one_lost_wheel,
                ),
            ),
        ),
        Act(
            "It is put right",
            (
                Command(f"gpufleet apply {LOCAL} --yes", holds="converged"),
                Command(f"gpufleet verify {LOCAL}"),
            ),
        ),
    ]


def wheel_folders() -> str:
    """Where this machine's pip is configured to find wheels, when only its files say so."""
    if os.environ.get("PIP_FIND_LINKS"):
        return ""
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.find-links"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return " ".join(asked.stdout.split())


def causes(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Findings of a verify run that nothing else explains, each with the name of its host."""
    return [
        {**finding, "host": name, "check": check["id"]}
        for name, host in document["hosts"].items()
        for check in (host["result"] or {"checks": ()})["checks"]
        for finding in check["findings"]
        if not finding["because"] and finding["verdict"] != "degraded"
    ]


def one_lost_gpu() -> str:
    """Whether the broken run names the broken GPU and nothing else."""
    document = json.loads((HERE / "broken.json").read_text())
    found = {(one["host"], one["component"].get("gpu")) for one in causes(document)}
    if found == {(BROKEN_HOST, BROKEN_GPU)}:
        return ""
    return f"found {sorted(found, key=str)}, wanted GPU {BROKEN_GPU} of {BROKEN_HOST} alone"


def one_lost_wheel() -> str:
    """Whether the broken run names the wheel that is gone."""
    document = json.loads((HERE / "broken.json").read_text())
    found = causes(document)
    if found and all(WHEEL in json.dumps(one) for one in found):
        return ""
    told = [f"{one['check']}: {one['found']}" for one in found]
    return f"found {told}, wanted {WHEEL} alone"


class Stage:
    """Runs commands of the demo, all in one environment, as one shell would."""

    def __init__(self) -> None:
        self.variables = dict(os.environ)
        binaries = Path(sys.executable).parent
        self.variables["PATH"] = f"{binaries}:{os.environ.get('PATH', '')}"
        self.variables["GPUFLEET_SIM_FLEET"] = FLEET

    def play(self, act: Act, number: int, count: int) -> None:
        say(f"\n=== {number}/{count}  {act.heading}\n")
        for command in act.commands:
            self.run(command)

    def run(self, command: Command) -> None:
        """Show a command and run it. Raises Stopped when it is not as it must be."""
        say(f"$ {command.line}")
        words = shlex.split(command.line)
        if words[0] == "export":
            name, _, value = words[1].partition("=")
            self.variables[name] = value
            return
        code, out = self._call(command.line)
        wrong = ""
        if code != command.wanted:
            wrong = f"ended with {code}, wanted {command.wanted}"
        elif command.holds not in out:
            wrong = f"did not say {command.holds!r}"
        else:
            wrong = command.check()
        if wrong:
            raise Stopped(code or 1, f"{command.line}: {wrong}")

    def _call(self, line: str) -> tuple[int, str]:
        """Exit code and output; what is printed is shown as it comes."""
        process = subprocess.Popen(
            ["sh", "-c", f"exec {line}"],
            cwd=REPOSITORY,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        said = []
        try:
            for text in process.stdout:
                said.append(text)
                print(text, end="", flush=True)
            return process.wait(), "".join(said)
        except KeyboardInterrupt:
            # The terminal has told the command, too; it ends by itself.
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


def say(text: str) -> None:
    print(text, flush=True)


def may_be_root() -> str:
    """Why there can be no simulated hosts here, "" when there can."""
    if sys.platform != "linux":
        return "simulated hosts need Linux"
    if os.geteuid() == 0:
        return ""
    if shutil.which("sudo") is None:
        return "simulated hosts need root, and there is no sudo"
    asked = subprocess.run(["sudo", "-n", "true"], capture_output=True, timeout=30)
    return "" if asked.returncode == 0 else "simulated hosts need root or passwordless sudo"


def chosen(wish: str) -> str:
    """The inventory to show, said with its reason. Raises Stopped for one that has no demo."""
    if wish not in ("", SIM, LOCAL):
        raise Stopped(2, f"found INVENTORY={wish}: the demo is of {SIM} or {LOCAL}")
    why = may_be_root()
    if wish == LOCAL or (not wish and why):
        say(f"demo: on this machine alone{f': {why}' if not wish else ''}")
        return LOCAL
    if why:
        raise Stopped(2, f"{why}; on this machine alone: make demo INVENTORY={LOCAL}")
    nodes = profiles.FLEETS["demo"]
    say(f"demo: on {len(nodes)} simulated hosts: {', '.join(nodes)}")
    return SIM


def where_to_look(inventory: str) -> str:
    """What one may do next."""
    lines = [
        "gpufleet status                      what ran, and the last verdict of every host",
        f"gpufleet verify {inventory}   any day; --level standard trains",
        f"gpufleet plan {inventory} --explain HOST   every choice with its reason",
    ]
    if inventory == SIM:
        lines.append(f"python -m tests.sim fault {BROKEN_HOST} '?'   what else can break")
        lines.append("python -m tests.sim down             takes the hosts down")
    lines.append("make clean                           takes every trace away")
    return "\n".join(f"  {line}" for line in lines)


def show(inventory: str) -> None:
    """The whole demo. Raises Stopped at the first thing that is not as it must be."""
    began = time.monotonic()
    if inventory == SIM:
        done = subprocess.run([str(REPOSITORY / "tests/setup.sh"), sys.executable])
        if done.returncode:
            raise Stopped(done.returncode, "set-up of this machine failed")
    programme, stage = acts(inventory), Stage()
    for number, act in enumerate(programme, start=1):
        stage.play(act, number, len(programme))
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    say(f"\n=== All as promised, in {minutes} min {seconds} s. Where to look\n")
    say(where_to_look(inventory))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument("inventory", nargs="?", default="", help=f"{SIM} or {LOCAL}")
    wish = parser.parse_args(argv).inventory
    HERE.mkdir(parents=True, exist_ok=True)
    with (HERE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("demo: another one is running here")
            return 2
        try:
            show(chosen(wish))
            return 0
        except Stopped as stopped:
            say(f"\ndemo: {stopped}")
            say("look at: gpufleet status, and the newest folder in runs/; again: make demo")
            return stopped.code
        except KeyboardInterrupt:
            say("\ndemo: interrupted; the next `make demo` begins afresh")
            return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
