"""The demo's own machinery, without hosts: what it shows, what stops it, what it reads."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from deploy.cli import _parse
from tests.demo import __main__ as play
from tests.demo import acts as what
from tests.demo.__main__ import Stage, Stopped, chosen, closed, main, where_to_look
from tests.demo.acts import (
    GPU,
    HOST,
    LOCAL,
    PLACE,
    SIM,
    WHEEL,
    Act,
    Command,
    acts,
    blind,
    broken,
    wrongly_found,
)
from tests.sim import faults, paths, profiles

README = (paths.REPOSITORY / "README.md").read_text()


def lines(inventory: str) -> list[str]:
    """Every command of a demo."""
    return [command.line for act in acts(inventory, paths.REPOSITORY) for command in act.commands]


@pytest.mark.parametrize("inventory", [SIM, LOCAL])
def test_every_command_of_gpufleet_exists_with_these_options(inventory: str) -> None:
    asked = [shlex.split(line) for line in lines(inventory) if line.startswith("gpufleet ")]
    for words in asked:
        assert _parse(words[1:])[0].inventory == inventory
    shown = [words[1] for words in asked if words[1] != "remove"]
    mended = ["verify"] if inventory == SIM else ["apply", "verify"]
    assert shown == ["plan", "apply", "verify", "apply", "verify", *mended]


def test_the_broken_gpu_is_one_of_the_fleet() -> None:
    hardware = profiles.FLEETS["demo"][HOST]
    assert profiles.HARDWARE[hardware].gpus > GPU
    assert sorted(profiles.FLEETS["demo"].values()) == ["hgx-h100", "hgx-h100", "l40s", "v100"]
    (fault,) = [line.split()[-1] for line in lines(SIM) if " fault " in line]
    assert faults.parse(fault)[1] == str(GPU)


def test_the_readme_shows_commands_of_the_demo() -> None:
    """What README.md shows on these two inventories is what the demo runs."""
    asked = re.findall(r"^\$ (?:\.venv/bin/)?(gpufleet .*inventories/(?:sim|local)\.py.*)$",
                       README, re.M)  # fmt: skip
    shown = {re.sub(r" --json \S+", "", line) for line in [*lines(SIM), *lines(LOCAL)]}
    assert asked
    assert [line for line in asked if line not in shown] == []
    named = re.findall(r"make demo INVENTORY=(\S+?)`", README)
    assert [name for name in named if name not in (SIM, LOCAL)] == []


def verified(*components: tuple[str, str, str, int | None], **verdicts: str) -> dict[str, Any]:
    """The JSON of a verify run with these findings: host, kind, name, index."""
    names = [*(one[0] for one in components), *verdicts]
    hosts: dict[str, Any] = {
        name: {"verdict": verdicts.get(name, "fail"), "findings": []} for name in names
    }
    for host, kind, name, index in components:
        component = {"kind": kind, "name": name, "index": index}
        hosts[host]["findings"].append({"verdict": "fail", "component": component})
    return {"hosts": hosts}


def test_findings_are_read_with_their_components() -> None:
    document = verified(("a", "gpu", "H100", 3), ("b", "wheel", "numpy", None), c="pass")
    assert broken(document) == {("a", "gpu", 3), ("b", "wheel", "numpy")}
    assert broken(verified(a="unreachable", b="pass")) == {("a", "unreachable", "")}
    clock = verified(("a", "host", "", None), a="degraded")
    clock["hosts"]["a"]["findings"][0]["verdict"] = "degraded"
    assert broken(clock) == frozenset()


@pytest.mark.parametrize(
    ("document", "fine"),
    [
        (verified((HOST, "gpu", "H100", GPU), other="pass"), True),
        (verified((HOST, "gpu", "H100", GPU), (HOST, "gpu", "H100", GPU)), True),
        (verified((HOST, "gpu", "H100", GPU + 1)), False),
        (verified((HOST, "gpu", "H100", GPU), ("h100-01", "gpu", "H100", GPU)), False),
        (verified((HOST, "gpu", "H100", GPU), ("l40s-01", "driver", "", None)), False),
        (verified((HOST, "gpu", "H100", GPU), other="not-run"), False),
        (verified(**{HOST: "pass"}), False),
    ],
)
def test_exactly_the_broken_gpu_must_be_found(
    document: dict[str, Any], fine: bool, tmp_path: Path
) -> None:
    (tmp_path / PLACE).mkdir(parents=True)
    (tmp_path / PLACE / "broken.json").write_text(json.dumps(document))
    command = Command("verify", names=frozenset({(HOST, "gpu", GPU)}))
    assert (wrongly_found(command, tmp_path) == "") is fine


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (Command("sh -c 'exit 7'"), 7, "ended with 7, wanted 0"),
        (Command("true", wanted=1), 1, "ended with 0, wanted 1"),
        (Command("echo nothing", holds="0 changes;"), 1, "did not say '0 changes;'"),
    ],
)
def test_what_is_not_as_it_must_be_stops_the_demo(
    command: Command, code: int, words: str, tmp_path: Path
) -> None:
    with pytest.raises(Stopped, match=re.escape(words)) as stopped:
        Stage(tmp_path).run(command)
    assert stopped.value.code == code


def test_commands_share_one_environment_and_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage(tmp_path)
    stage.play(
        Act("Two words", (Command("export GREETING='hello there'"),
                          Command('echo "$GREETING" $PWD', holds="hello there"))), 2, 3,
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "=== 2/3  Two words" in said
    assert f'\n$ echo "$GREETING" $PWD\nhello there {tmp_path}\n' in said


def test_which_demo_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(play, "closed", lambda folder: "")
    monkeypatch.setattr(play, "may_be_root", lambda: "")
    assert (chosen(""), chosen(SIM), chosen(LOCAL)) == (SIM, SIM, LOCAL)
    monkeypatch.setattr(play, "may_be_root", lambda: "no sudo here")
    capsys.readouterr()
    assert chosen("") == LOCAL
    assert "on this machine alone: no sudo here" in capsys.readouterr().out
    with pytest.raises(Stopped, match=f"make demo INVENTORY={LOCAL}") as stopped:
        chosen(SIM)
    assert stopped.value.code == 2
    with pytest.raises(Stopped, match="found INVENTORY=lab"):
        chosen("lab.py")


def test_root_needs_a_folder_that_the_training_user_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "closed" / "clone"
    inside.mkdir(parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (tmp_path / "closed").chmod(0o700)
    assert closed(inside) == str(tmp_path / "closed")
    monkeypatch.setattr(paths, "REPOSITORY", inside)
    with pytest.raises(Stopped, match="closed to other users"):
        chosen(LOCAL)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert closed(inside) == ""


def test_two_demos_do_not_run_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paths, "REPOSITORY", tmp_path)
    monkeypatch.setattr(play, "closed", lambda folder: "")
    monkeypatch.setattr(play, "show", lambda inventory: None)
    assert main([LOCAL]) == 0
    with (tmp_path / PLACE / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert main([LOCAL]) == 2
    assert "another one is running" in capsys.readouterr().out
    assert main(["lab.py"]) == 2


def test_interrupting_lets_the_command_say_its_last_words(tmp_path: Path) -> None:
    """As Ctrl-C does it: the whole foreground group is told."""
    (tmp_path / "slow.sh").write_text(
        "trap 'sleep 0.3; echo what is left; exit 130' INT\necho begun\n"
        "while :; do sleep 0.1; done\n"
    )
    script = (
        "from pathlib import Path\n"
        "import tests.demo.__main__ as play\n"
        "from tests.sim import paths\n"
        f"paths.REPOSITORY = Path({str(tmp_path)!r})\n"
        "stage, play.closed = play.Stage(paths.REPOSITORY), lambda folder: ''\n"
        "play.show = lambda inventory: stage.run(play.Command('sh slow.sh'))\n"
        "raise SystemExit(play.main([play.LOCAL]))\n"
    )
    demo = subprocess.Popen(
        [sys.executable, "-c", script], cwd=paths.REPOSITORY, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        # Whoever started the tests in the background had this signal ignored, for all below.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert demo.stdout is not None
    said = ""
    try:
        for line in demo.stdout:
            said += line
            if line == "begun\n":
                break
        time.sleep(0.2)
        os.killpg(demo.pid, signal.SIGINT)
        said += demo.communicate(timeout=30)[0]
    finally:
        if demo.poll() is None:
            os.killpg(demo.pid, signal.SIGKILL)
    assert demo.returncode == 130, said
    assert "what is left\n" in said
    assert "the next `make demo` begins afresh" in said


def test_an_ordinary_user_among_gpus_is_promised_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert not blind(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert blind(tmp_path)
    monkeypatch.setattr(what, "blind", lambda: True)
    (act,) = [one for one in acts(LOCAL, tmp_path) if "--level standard" in one.commands[0].line]
    assert act.heading.startswith("No training")
    assert act.commands[0].wanted == 4
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert not blind(tmp_path)


def test_wheel_folders_of_pips_configuration_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nfind-links =\n    /srv/wheels\n    /srv/more\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert "export PIP_FIND_LINKS='/srv/wheels /srv/more'" in lines(LOCAL)
    monkeypatch.setenv("PIP_FIND_LINKS", "/srv/mine")
    assert not any("PIP_FIND_LINKS" in line for line in lines(LOCAL))


def test_the_wheel_that_goes_is_in_the_environment() -> None:
    assert any(f"site-packages/{WHEEL}*" in line for line in lines(LOCAL))


@pytest.mark.parametrize("inventory", [SIM, LOCAL])
def test_the_end_says_where_to_look(inventory: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.run(Command("echo 'page:   runs/20260131T120000Z/report.html'"))
    stage.run(Command("sh -c 'echo page: runs/20260131T120001Z/report.html; exit 1'", wanted=1))
    said = where_to_look(inventory, stage.pages)
    first, second = said.splitlines()[:2]
    assert "runs/20260131T120001Z/report.html" in first
    assert "that found it" in first
    assert "runs/20260131T120000Z/report.html" in second
    assert f"gpufleet verify {inventory} " in said
    assert ("tests.sim down" in said) is (inventory == SIM)
    assert said.splitlines()[-1].split()[:2] == ["make", "clean"]
