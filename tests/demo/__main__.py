"""Plays the demo: each command shown, run and checked; ends with the code of what went wrong."""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from deploy.fleet import exits
from tests import demo
from tests.demo.acts import FLEET, HOST, LOCAL, PLACE, SIM, Act, Command, acts, wrongly_found
from tests.sim import paths, profiles

END_S = 20
"""How long a command may take to end after Ctrl-C."""


class Stopped(Exception):  # noqa: N818 - reads as what it is at every raise
    """The demo ends here, with an exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Stage:
    """Runs commands of the demo, all in one environment, as one shell would."""

    def __init__(self, folder: Path = paths.REPOSITORY) -> None:
        self.folder = folder
        self.pages: dict[int, str] = {}
        """HTML page of the last verify run that ended with an exit code."""
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
        for page in re.findall(r"^page: +(\S+)$", out, re.M):
            self.pages[code] = page
        wrong = ""
        if code != command.wanted:
            wrong = f"ended with {code}, wanted {command.wanted}"
        elif command.holds not in out:
            wrong = f"did not say {command.holds!r}"
        else:
            wrong = wrongly_found(command, self.folder)
        if wrong:
            raise Stopped(code or 1, f"{command.line}: {wrong}")

    def _call(self, line: str) -> tuple[int, str]:
        """Exit code and output; what is printed is shown as it comes."""
        process = subprocess.Popen(
            ["sh", "-c", f"exec {line}"],
            cwd=self.folder,
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
            # The terminal has told the command, too: it says what it leaves, and ends by itself.
            late = threading.Timer(END_S, process.kill)
            late.start()
            print(process.stdout.read(), end="", flush=True)
            process.wait()
            late.cancel()
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


def closed(folder: Path) -> str:
    """The folder on the way that keeps other users out, when root runs this; else "".

    Training runs as another user then, who could not read the environment.
    """
    ways = [folder, *folder.parents] if os.geteuid() == 0 else []
    return next((str(way) for way in ways if not way.stat().st_mode & 0o001), "")


def chosen(wish: str) -> str:
    """The inventory to show, said with its reason. Raises Stopped for one that has no demo."""
    if wish not in ("", SIM, LOCAL):
        raise Stopped(2, f"found INVENTORY={wish}: the demo is of {SIM} or {LOCAL}")
    why = may_be_root()
    if wish == LOCAL or (not wish and why):
        if way := closed(paths.REPOSITORY):
            raise Stopped(
                2,
                f"{way} is closed to other users, and training never runs as root where another "
                "user can: clone into /srv or another open folder, or run this as that user",
            )
        say(f"demo: on this machine alone{f': {why}' if not wish else ''}")
        return LOCAL
    if why:
        raise Stopped(2, f"{why}; on this machine alone: make demo INVENTORY={LOCAL}")
    nodes = profiles.FLEETS["demo"]
    say(f"demo: on {len(nodes)} simulated hosts: {', '.join(nodes)}")
    return SIM


def where_to_look(inventory: str, pages: dict[int, str]) -> str:
    """What one may do next."""
    hints = {
        pages.get(exits.FAILED, ""): "the page of the run that found it; open it in a browser",
        pages.get(exits.OK, ""): "the page of the last run, all well",
        path_line(): "then, as above:",
        "gpufleet status": "what ran, and the last verdict of every host",
        f"gpufleet verify {inventory}": "any day; --level standard trains",
        f"gpufleet plan {inventory} --explain HOST": "every choice with its reason",
    }
    if inventory == SIM:
        hints[f"python -m tests.sim fault {HOST} '?'"] = "what else can break"
        hints["python -m tests.sim down"] = "takes the hosts down"
    else:
        hints[path_line()] = "then, as above, with its other exports:"
    hints["make clean"] = "takes every trace away"
    hints.pop("", None)
    width = max(len(line) for line in hints)
    return "\n".join(f"  {line:<{width}}   {what}" for line, what in hints.items())


def path_line() -> str:
    """How a shell finds our programs by name."""
    place = Path(sys.executable).parent
    inside = place.is_relative_to(paths.REPOSITORY)
    shown = f"$PWD/{place.relative_to(paths.REPOSITORY)}" if inside else str(place)
    return f'export PATH="{shown}:$PATH"'


def show(inventory: str) -> None:
    """The whole demo. Raises Stopped at the first thing that is not as it must be."""
    began = time.monotonic()
    if inventory == SIM:
        done = subprocess.run(["tests/setup.sh", sys.executable], cwd=paths.REPOSITORY)
        if done.returncode:
            raise Stopped(done.returncode, "set-up of this machine failed")
    say(f"\n$ {path_line()}")
    stage = Stage()
    programme = acts(inventory, stage.folder)
    for number, act in enumerate(programme, start=1):
        stage.play(act, number, len(programme))
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    say(f"\n=== All as promised, in {minutes} min {seconds} s. Where to look\n")
    say(where_to_look(inventory, stage.pages))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=demo.__doc__)
    parser.add_argument("inventory", nargs="?", default="", help=f"{SIM} or {LOCAL}")
    wish = parser.parse_args(argv).inventory
    place = paths.REPOSITORY / PLACE
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
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
