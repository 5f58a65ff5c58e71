"""Progress: plain lines where nobody watches, a live table on a terminal."""

import io

from rich.console import Console

from deploy.engine.outcome import Outcome
from deploy.engine.progress import SHOWN, Progress
from deploy.steps import Step


def drawn(shown: Progress, width: int) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(shown.screen())
    return captured.get()


STEP = Step(layer="driver", title="driver is there", why="none found", commands=())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_every_event_is_a_line() -> None:
    stream = io.StringIO()
    with Progress(["a", "b"], stream) as shown:
        shown.step("a", STEP, 1, 2)
        shown.line("a", "Unpacking libcuda1 ...")
        shown.note("b", "waiting for the lock")
        shown.finished(Outcome(host="a", status="failed", message="exit 10"))
        shown.finished(Outcome(host="b", status="converged", message=""))
    assert stream.getvalue().splitlines() == [
        "a: 1/2 driver: driver is there (none found)",
        "b: waiting for the lock",
        "a: failed: exit 10",
        "b: converged",
    ]
    assert "\x1b" not in stream.getvalue()


def test_on_a_terminal_a_host_shows_its_step_and_last_line() -> None:
    stream = Terminal()
    with Progress(["a", "b"], stream) as shown:
        shown.step("a", STEP, 1, 2)
        shown.line("a", "Unpacking libcuda1 ...")
        shown.line("a", "   ")
        text = drawn(shown, 120)
        shown.finished(Outcome(host="a", status="failed", message="[bold]exit 10[/bold]"))
    assert "a " in text
    assert "1/2 driver: driver is there" in text
    assert "Unpacking libcuda1" in text
    assert "0 of 2 hosts done" in text
    assert "[bold]exit 10[/bold]" in stream.getvalue(), "texts of hosts are no markup"


def test_more_hosts_than_lines_are_counted() -> None:
    hosts = [f"gpu{number:03}" for number in range(SHOWN + 7)]
    with Progress(hosts, Terminal()) as shown:
        for host in hosts:
            shown.step(host, STEP, 1, 2)
        text = drawn(shown, 100)
    assert "7 more working" in text
    assert len(text.splitlines()) == SHOWN + 1


def test_what_is_in_flight_is_told_by_host_and_step() -> None:
    shown = Progress(["a", "b", "c"], io.StringIO())
    shown.step("a", STEP, 1, 2)
    shown.note("b", "rebooting")
    shown.finished(Outcome(host="b", status="converged", message=""))
    (line,) = shown.in_flight()
    assert line.startswith("a: 1/2 driver: driver is there (for 0 s)")
