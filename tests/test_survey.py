"""The sweep: what is made of answers that are none, and of one machine under two names."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy import survey as module
from deploy.fleet.inventory import named_hosts
from deploy.probing.probe import parse
from deploy.survey import survey, twins
from tests.capture import NONCE, PLACE
from tests.factory import facts
from tests.sshd import Sshd, available

pytestmark = pytest.mark.skipif(not available(), reason="openssh-server is not installed")


def test_one_machine_under_two_names_is_found() -> None:
    one, other = facts(), facts().model_copy(update={"boot_id": "other"})
    found = {"a": one, "b": other, "c": one, "d": one}
    assert twins(found, "abcd") == {"c": "a", "d": "a"}
    assert twins(found, "dcba") == {"c": "d", "a": "d"}
    boxed = facts(container="docker")
    assert twins({"a": boxed, "b": boxed}, "ab") == {}
    unknown = facts(boot_id=None)
    assert twins({"a": unknown, "b": unknown}, "ab") == {}


@dataclass
class Answering:
    """A login whose every command is answered by one program."""

    program: Path
    server: Sshd

    def failure(self, script: str) -> str:
        """Why a sweep finds no facts there."""
        self.program.write_text(f"#!/bin/sh\n{script}\n")
        found = survey(named_hosts("gpu1", self.server.data))
        assert found.facts == {}
        return found.failed["gpu1"]


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Answering]:
    program = tmp_path / "answer"
    program.touch(mode=0o755)
    with Sshd(tmp_path / "sshd", extra=f"ForceCommand {program}\n") as server:
        yield Answering(program, server)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 0", "it is empty"),
        ("echo 'This account is currently not available.'; exit 1", "never began (found 'This acc"),
        ("echo 'sh: not found' >&2; exit 127", "it is empty; it said: sh: not found"),
        ("yes garbage", "printed more than 1500000 bytes"),
        ("head -c 300000 /dev/urandom", "never began"),
        ("kill -9 $$", "ended without an exit status"),
    ],
    ids=range(6),
)
def test_answers_that_are_none(answering: Answering, script: str, message: str) -> None:
    assert message in answering.failure(script)


def test_a_hang_costs_its_deadline_only(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROBE_S", 0.5)
    assert "no end within 0.5 s" in answering.failure("sleep 60")


def test_an_old_answer_cannot_be_replayed(answering: Answering) -> None:
    old = PLACE / "bare-hgx-h100.txt"
    parse("gpu1", NONCE, old.read_text())
    assert "never began" in answering.failure(f"cat {old}")


def test_a_fresh_answer_over_noise_is_read(answering: Answering) -> None:
    answering.program.write_text("#!/bin/sh\nprintf 'noise \\033[31m'\nexec sh -s\n")
    found = survey(named_hosts("gpu1", answering.server.data), keep_open=True)
    assert found.failed == {}
    assert found.facts["gpu1"].os is not None
    assert set(found.connections) == {"gpu1"}
    found.close()
    assert found.connections == {}
