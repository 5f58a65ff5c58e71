"""Runs every test, in two lanes at once: `python -m tests.lanes`.

Tests on the simulated fleet wait more than they compute, so that two fleets side by side use the
cores better than one. Each lane is one ordinary pytest with a fleet of its own; what a lane printed
is shown whole when it has ended, and until then a line now and then says how far it is.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

FIRST = (
    "tests/fleet/test_layers.py",
    "tests/fleet/test_layers_env.py",
    "tests/fleet/test_verify_faults.py",
    "tests/fleet/test_multi_node.py",
    "tests/fleet/test_deep.py",
    # The three that boot the fleet of mixed systems.
    "tests/fleet/test_el.py",
    "tests/fleet/test_mixed.py",
    "tests/fleet/test_ubuntu.py",
)
"""One lane's files, about half of the time; the other lane runs everything else there is."""
EVERY_S = 60
NOTHING_SELECTED = 5
"""pytest's exit code when no test was collected: not a failure of a lane, but one of them all."""


@dataclass
class Lane:
    """One pytest that runs."""

    name: str
    process: subprocess.Popen[bytes]
    output: IO[str]
    shown: bool = False

    def text(self) -> str:
        """What it has printed so far."""
        return Path(self.output.name).read_text(errors="replace")

    def line(self) -> str:
        """How far it is, in a few words."""
        lines = [line for line in self.text().splitlines() if line.startswith("tests/")]
        done = re.findall(r"\[ *(\d+)%\]", self.text())
        where = lines[-1].split()[0] if lines else "starting"
        return f"{self.name} {done[-1] if done else 0} % ({where})"


def counts(text: str) -> dict[str, int]:
    """The figures of pytest's last line: {"passed": 12, "failed": 1, ...}."""
    last = next(
        (line for line in reversed(text.splitlines()) if re.search(r" in [\d.]+s", line)), ""
    )
    return {word: int(number) for number, word in re.findall(r"(\d+) ([a-z]+)", last)}


@contextmanager
def started(name: str, fleet: str, arguments: list[str]) -> Iterator[Lane]:
    """Start a lane; end it, and let it take its fleet down, when this block is left early."""
    with tempfile.NamedTemporaryFile("w", prefix=f"gpufleet-{name}-", suffix=".log") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"GPUFLEET_SIM_FLEET": fleet},
        )
        try:
            yield Lane(name, process, output)
        finally:
            if process.poll() is None:
                process.send_signal(2)  # as Ctrl-C: fixtures are torn down
                try:
                    process.wait(120)
                except subprocess.TimeoutExpired:
                    process.kill()


def main() -> int:
    """Run both lanes; returns 0 only when both passed and something was run."""
    rest = [f"--ignore={path}" for path in FIRST]
    with started("lane-1", "tests", list(FIRST)) as one, started("lane-2", "tests2", rest) as two:
        lanes, told = (one, two), time.monotonic()
        while not all(lane.shown for lane in lanes):
            time.sleep(0.5)
            for lane in lanes:
                if not lane.shown and lane.process.poll() is not None:
                    lane.shown = True
                    print(f"---- {lane.name}\n{lane.text()}", flush=True)
            if time.monotonic() - told > EVERY_S:
                told = time.monotonic()
                print(
                    "tests:", ", ".join(lane.line() for lane in lanes if not lane.shown), flush=True
                )
        totals = [counts(lane.text()) for lane in lanes]
        codes = [lane.process.returncode for lane in lanes]
    passed, failed, skipped = (
        sum(total.get(word, 0) + total.get(f"{word}s", 0) for total in totals)
        for word in ("passed", "failed", "skipped")
    )
    errors = sum(total.get("error", 0) + total.get("errors", 0) for total in totals)
    print(f"{passed} passed, {failed + errors} failed, {skipped} skipped")
    if not passed or set(codes) <= {NOTHING_SELECTED}:
        return NOTHING_SELECTED
    return next((code for code in codes if code not in (0, NOTHING_SELECTED)), 0)


if __name__ == "__main__":
    sys.exit(main())
