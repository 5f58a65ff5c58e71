"""A command under a deadline: ended, stopped, flooded, refused, and left behind."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.sim import paths, proc
from verify.payload import within

SCRIPT = within.__file__
ROOT = os.geteuid() == 0


def ran(*arguments: str) -> dict[str, Any]:
    """What within.py prints: exactly one line."""
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("GPUFLEET ")
    found: dict[str, Any] = json.loads(line.removeprefix("GPUFLEET "))
    assert found.pop("schema") == 1
    return found


def gone(pid: int, deadline_s: float = 10) -> bool:
    """Whether a process ends in time."""
    end = time.monotonic() + deadline_s
    while not proc.gone(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_a_command_that_ends() -> None:
    script = "echo out; echo 'stage: one' >&2; echo 'stage: two' >&2; echo bad >&2; exit 3"
    found = ran("20", "--", "sh", "-c", script)
    assert found.pop("seconds") > 0
    assert found == {
        "rc": 3, "hung": False, "abandoned": False, "out": "out\n",
        "err": "stage: one\nstage: two\nbad\n", "stage": "two",
    }  # fmt: skip


def test_a_command_that_dies_of_a_signal() -> None:
    assert ran("20", "--", "sh", "-c", "kill -SEGV $$")["rc"] == -signal.SIGSEGV


@pytest.mark.parametrize("script", ["exec sleep 60", "trap '' TERM; sleep 60", "kill -STOP $$"])
def test_a_command_that_does_not_end(script: str) -> None:
    found = ran("0.3", "--", "sh", "-c", f"echo 'stage: deep' >&2; {script}")
    assert (found["hung"], found["abandoned"], found["rc"]) == (True, False, None)
    assert found["stage"] == "deep"


def test_what_a_command_left_running_is_ended() -> None:
    leave = "sleep 61 & echo $!; setsid sleep 62 & echo $!"
    found = ran("20", "--", "sh", "-c", leave)
    assert found["rc"] == 0
    assert all(gone(int(pid)) for pid in found["out"].split())


def test_output_is_bounded_and_its_end_is_kept() -> None:
    found = ran("20", "--", "sh", "-c", "seq 1 400000; seq 1 400000 >&2; echo last; echo least >&2")
    assert found["rc"] == 0
    assert len(found["out"]) == within.MOST_OUT
    assert len(found["err"]) == within.MOST_ERR
    assert found["out"].endswith("400000\nlast\n")
    assert found["err"].endswith("400000\nleast\n")


def test_a_command_that_floods_is_stopped() -> None:
    found = ran("60", "--", "sh", "-c", "exec yes")
    assert (found["rc"], found["hung"]) == (None, False)
    assert found["err"].endswith("stopped: it had printed more than 64 MiB")


def test_what_the_command_prints_cannot_pass_for_the_result() -> None:
    found = ran("20", "--", "printf", 'GPUFLEET {"rc": 0}\\n\\377\\000')
    assert found["out"] == 'GPUFLEET {"rc": 0}\n\ufffd\0'


def test_a_program_that_is_not_there_or_cannot_run(tmp_path: Path) -> None:
    missing = ran("20", "--", "/no/such/program")
    assert (missing["rc"], missing["err"]) == (127, "/no/such/program: No such file or directory\n")
    plain = tmp_path / "plain"
    plain.write_text("text")
    assert ran("20", "--", str(plain))["rc"] == 126


def test_whoever_cannot_be_killed_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signals that do nothing, as to a process in uninterruptible sleep."""
    real = within._signal_group
    monkeypatch.setattr(within, "_signal_group", lambda leader, number: None)
    monkeypatch.setattr(within, "TERM_S", 0.05)
    monkeypatch.setattr(within, "KILL_S", 0.05)
    child = within.Child(within.executes(["sleep", "60"], dict(os.environ)), 0.05)
    within.wait([child])
    assert not proc.gone(child.pid)
    found = child.document()
    assert (found["hung"], found["abandoned"], found["rc"]) == (True, True, None)
    real(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)


def alone(script: str) -> list[str]:
    """Lines that a script prints in a process where nobody else waits for children."""
    done = subprocess.run(
        [sys.executable, "-c", f"import os\nfrom verify.payload import within\n{script}"],
        capture_output=True,
        text=True,
        cwd=paths.REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_children_are_waited_for_at_once() -> None:
    printed = alone(
        "words = ['sh', '-c', 'sleep 0.4; echo $1', 'sh']\n"
        "run = lambda n: within.Child(within.executes([*words, str(n)], os.environ), 60)\n"
        "some = [run(n) for n in range(8)]\n"
        "within.wait(some)\n"
        "print([int(child.out) for child in some], [child.rc for child in some])\n"
        "print(max(child.begun for child in some) < min(child.ended for child in some))\n"
    )
    assert printed == [f"{[*range(8)]} {[0] * 8}", "True"]


def test_an_error_of_the_action_is_told() -> None:
    printed = alone(
        "child = within.Child(lambda: int('x'), 60)\n"
        "within.wait([child])\n"
        "print(child.rc, child.err.decode())\n"
    )
    assert printed[0] == "125 ValueError: invalid literal for int() with base 10: 'x'"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_its_end_is_the_end_of_its_command(tmp_path: Path, number: int) -> None:
    noted = tmp_path / "pid"
    command = ["sh", "-c", f"echo $$ >{noted}.new; mv {noted}.new {noted}; exec sleep 63"]
    ours = subprocess.Popen(
        [sys.executable, SCRIPT, "60", "--", *command], stdout=subprocess.DEVNULL
    )
    end = time.monotonic() + 20
    while not noted.exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    ours.send_signal(number)
    assert gone(int(noted.read_text()))
    ours.wait(20)


def test_another_user_is_refused_when_it_cannot_be_had() -> None:
    unknown = ran("20", "--user", "no-such-user", "--", "true")
    assert (unknown["rc"], unknown["err"]) == (None, "there is no user 'no-such-user' on this host")
    if not ROOT:
        assert ran("20", "--user", "root", "--", "true")["err"] == (
            "only root can run a command as root"
        )


def test_the_same_user_keeps_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN_VARIABLE", "kept")
    name = subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip()
    assert ran("20", "--user", name, "--", "printenv", "OWN_VARIABLE")["out"] == "kept\n"


@pytest.mark.skipif(not ROOT, reason="only root can become another user")
def test_root_becomes_a_user_with_a_place_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOTS_SECRET", "hidden")
    script = "id -un; id -G; echo $HOME; stat -c '%U %a' $HOME; touch $TMPDIR/x $HOME/y && env"
    found = ran("20", "--user", "nobody", "--", "sh", "-c", script)
    name, groups, home, owner, *variables = found["out"].splitlines()
    assert (name, groups, owner) == ("nobody", "65534", "nobody 700")
    assert not Path(home).exists()
    assert "hidden" not in "".join(variables)


def test_a_login_gets_what_the_host_gives_every_login(tmp_path: Path) -> None:
    file = tmp_path / "environment"
    file.write_text('A=1\nexport B="two words"\n# C=3\nD\nE=\'x\'\nF="\n1G=no\nH=a=b\n')
    assert within.pam_environment(str(file)) == {
        "A": "1", "B": "two words", "E": "x", "F": '"', "H": "a=b",
    }  # fmt: skip
    assert within.pam_environment(str(tmp_path / "none")) == {}
    assert ran("20", "--login", "--", "echo", "$(id)", "two  words")["out"] == "$(id) two  words\n"


@pytest.mark.parametrize(
    "arguments", [(), ("x", "--", "true"), ("0", "--", "true"), ("1e9", "--", "true"), ("5",)]
)
def test_wrong_arguments(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")


PAYLOADS = sorted(Path(SCRIPT).parent.glob("*.py"))
CHECKS = sorted(Path(SCRIPT).parent.parent.glob("test_*.py"))


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Every call in a file, by its dotted name."""
    tree = ast.parse(path.read_text())
    return [(ast.unparse(one.func), one) for one in ast.walk(tree) if isinstance(one, ast.Call)]


@pytest.mark.parametrize("path", PAYLOADS, ids=lambda path: path.name)
def test_no_payload_waits_without_a_deadline(path: Path) -> None:
    for name, call in calls(path):
        given = {one.arg for one in call.keywords}
        if name in ("subprocess.run", "subprocess.check_output", "subprocess.call"):
            assert "timeout" in given, f"{path.name}:{call.lineno}"
        if name.endswith((".wait", ".communicate")) and not call.args:
            assert "timeout" in given, f"{path.name}:{call.lineno}"
        assert name != "os.system", f"{path.name}:{call.lineno}"


@pytest.mark.parametrize("path", CHECKS, ids=lambda path: path.name)
def test_checks_start_payloads_under_a_deadline_alone(path: Path) -> None:
    """By the fixtures train and within, or there.payload of a report: never by host.run."""
    for name, call in calls(path):
        if name in ("host.run", "host.check_output"):
            assert "payload/" not in ast.unparse(call), f"{path.name}:{call.lineno}"
