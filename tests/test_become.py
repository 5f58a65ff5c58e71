"""How a command travels: whole, or not at all."""

import subprocess
from pathlib import Path

import pytest

from deploy.fleet.become import wrap


def run(line: str, sent: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["sh", "-c", line], input=sent, capture_output=True, timeout=20)


def test_a_command_and_its_input_arrive() -> None:
    wrapped = wrap('read x; echo "got $x"  # a comment', root=False, data={})
    done = run(wrapped.line, wrapped.head + b"input\n")
    assert done.stdout == b"got input\n"


@pytest.mark.parametrize("lost", [1, 2, 3, 10, 40])
def test_a_command_that_was_cut_short_does_nothing(tmp_path: Path, lost: int) -> None:
    made = [tmp_path / name for name in ("first", "second")]
    wrapped = wrap(f"touch {made[0]}\ntouch {made[1]}", root=False, data={})
    done = run(wrapped.line, wrapped.head[:-lost])
    assert done.returncode != 0
    assert list(tmp_path.iterdir()) == []
