"""The line that says how far a sweep is."""

import io
import re

import gevent
import pytest

from deploy.fleet import waiting
from deploy.fleet.waiting import Waiting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "QUIET_S", 0.05)
    monkeypatch.setattr(waiting, "PLAIN_EVERY_S", 0.05)


def test_a_terminal_sees_who_is_waited_for_and_is_left_clean() -> None:
    stream = Terminal()
    with Waiting("probing", ["n1", "n2", "n3"], stream) as line:
        line.ended("n2")
        gevent.sleep(0.1)
    assert stream.getvalue() == ("\r\033[Kprobing: 1 of 3 hosts, 0 s, waiting for n[1,3]\r\033[K")


def test_a_log_gets_plain_lines() -> None:
    stream = io.StringIO()
    with Waiting("probing", ["n1"], stream):
        gevent.sleep(0.08)
    said = r"(probing: 0 of 1 hosts, \d s, waiting for n1\n)+"
    assert re.fullmatch(said, stream.getvalue())


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_what_is_quick_says_nothing(stream: io.StringIO) -> None:
    with Waiting("probing", ["n1"], stream) as line:
        line.ended("n1")
        gevent.sleep(0.1)
    with Waiting("probing", ["n1"], stream):
        pass
    assert stream.getvalue() == ""


def test_many_hosts_are_counted_not_named() -> None:
    with Waiting("probing", [f"n{number}" for number in range(99)], io.StringIO()) as line:
        assert line.line() == "probing: 0 of 99 hosts, 0 s"
