"""Plans of every kind of host, played through pyinfra's `@fake` connector: see tests/golden."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy import removal
from deploy.facts import NodeFacts
from deploy.fleet.spec import NodeSpec
from deploy.packages import locked
from deploy.plan import plan_host
from deploy.probing.probe import parse
from tests.golden import compare
from tests.golden.cases import cases, stack, wanted
from tests.golden.compare import Host
from tests.golden.play import NONCE
from tests.golden.scripts import parts
from tests.golden.states import STATES
from tests.probe_text import probe_text

Play = tuple[list[Host], dict[str, Any]]


pytestmark = pytest.mark.long
"""Drawing them takes seconds, and is part of make test."""


@pytest.fixture(scope="module")
def play() -> Play:
    fleet = compare.hosts()
    return fleet, compare.played(fleet)


def test_golden_files_are_as_drawn(play: Play) -> None:
    found = compare.differences(compare.texts(*play))
    lines = "\n".join(found[:200])
    assert not found, f"{lines}\nto accept: python -m tests.golden --update"


def test_a_converged_host_has_nothing_to_do(play: Play) -> None:
    fleet, found = play
    seen = [host.case.name for host in fleet if host.state == "converged"]
    plans = {host.name: found[host.name]["plan"] for host in fleet if host.state == "converged"}
    assert len(plans) == len(seen) > 5
    for name, plan in plans.items():
        assert (plan["steps"], plan["reboot"], plan["blocked"]) == ([], None, None), name
        assert found[name]["executed"] == []


def owner(host: Host) -> str:
    """Who manages the driver of a host, in the words of its block; "" when we may."""
    if host.state == "foreign-driver":
        return ".run installer"
    if host.state != "mixed-origin":
        return ""
    if stack(host.case).packaging == "dnf":
        return "RPM Fusion"
    driver = stack(host.case).driver
    assert driver is not None
    by_other_names = host.case.distribution.startswith("ubuntu") and driver.origin == "vendor"
    return "one origin of driver packages per host" if by_other_names else ""


def test_what_somebody_else_manages_is_blocked_and_untouched(play: Play) -> None:
    fleet, found = play
    theirs = [host for host in fleet if owner(host)]
    assert len(theirs) > 20
    for host in theirs:
        assert owner(host) in found[host.name]["plan"]["blocked"]["reason"], host.name
        assert found[host.name]["executed"] == []


def test_every_other_state_ends_converged_and_a_second_apply_changes_nothing(play: Play) -> None:
    fleet, found = play
    for host in fleet:
        if host.state == "converged" or owner(host):
            continue
        one = found[host.name]
        assert one["outcome"] is not None, (host.name, one["plan"]["blocked"])
        assert one["outcome"]["status"] == "converged", (host.name, one["outcome"]["message"])
        planned = [step["title"] for step in one["plan"]["steps"]]
        done = list(one["outcome"]["changed"])
        assert done[: len(planned)] == planned, host.name
        # A second round takes away the other flavour where the two packages do not conflict.
        more = [title for title in done[len(planned) :] if not title.startswith("driver ")]
        assert more == [], f"{host.name}: more than one round"
        after = NodeFacts.model_validate_json(one["after"])
        again = plan_host(wanted(host.case, host.name), after)
        assert (again.steps, again.reboot, again.blocked) == ((), None, None), host.name


def test_a_driver_that_is_loaded_is_changed_on_an_idle_host_only(play: Play) -> None:
    fleet, found = play
    seen = 0
    for host in fleet:
        other = host.state in {"wrong-branch", "wrong-flavour", "held", "mixed-origin"}
        if not other or owner(host):
            continue
        steps = [one for one in found[host.name]["plan"]["steps"] if one["layer"] == "driver"]
        installs = [one for one in steps if "is installed" in one["title"]]
        for step in steps:
            assert step["disruptive"], (host.name, step["title"])
        for step in installs:
            asks = ["driver.must_be_idle" in parts(c["shell"]).names for c in step["commands"]]
            assert any(asks), (host.name, step["title"])
            seen += 1
    assert seen > 10


def test_only_locked_versions_are_installed(play: Play) -> None:
    fleet, found = play
    seen = 0
    for host in fleet:
        pins = {name: pin.version for name, pin in locked(stack(host.case)).items()}
        for one in found[host.name]["executed"]:
            known = {f"{name}{sign}{pins[name]}" for name in pins for sign in "=-"}
            found_parts = parts(one["shell"])
            values = {key.lower(): value for key, value in found_parts.values.items()}
            free = {*values.get("also", "").split(), "install", ""}
            for line in re.findall(r"^set -- (.*)$", found_parts.text, re.MULTILINE):
                words = {word for word in line.split() if not word.startswith("-")} - free
                named = {word for word in words if not word.endswith("-")}
                assert named <= known, (host.name, named - known)
                seen += len(named)
    assert seen > 500


def test_every_file_that_is_written_is_one_that_remove_takes_away(play: Play) -> None:
    spec = NodeSpec()
    whole = tuple(f"{path}/" for path in removal.own(spec))
    written = {
        parts(one["shell"]).values["path"]
        for played in play[1].values()
        for one in played["executed"]
        if "files.write" in parts(one["shell"]).names
    }
    assert len(written) > 12
    for path in written:
        assert path.startswith(whole) or removal.ours(path, spec), path


def test_every_command_is_shell_that_dash_can_read(play: Play) -> None:
    shells = {one["shell"] for played in play[1].values() for one in played["executed"]}
    assert len(shells) > 200
    whole = "".join(f"{{\n{shell}\n}}\n" for shell in sorted(shells))
    done = subprocess.run(
        [shutil.which("dash") or "sh", "-n"],
        input=whole,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_the_lock_of_all_of_them_is_the_same_bytes_wherever_it_is_made(tmp_path: Path) -> None:
    """In another order, and in another process with other hashes of strings."""
    listed = {case.name: case for case in cases()}
    here = compare.lock_bytes(tmp_path, listed)
    assert compare.lock_bytes(tmp_path, dict(reversed(listed.items()))) == here
    code = (
        "import pathlib, sys; from tests.golden.cases import cases; "
        "from tests.golden.compare import lock_bytes; "
        "listed = {case.name: case for case in cases()}; "
        "sys.stdout.buffer.write(lock_bytes(pathlib.Path(sys.argv[1]), listed))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == here


@pytest.mark.parametrize("state", STATES)
def test_the_scripted_answer_says_what_the_facts_say(state: str, play: Play) -> None:
    for host in play[0]:
        if host.state == state:
            text = probe_text(host.facts, NONCE)
            read = parse(host.name, NONCE, text)
            assert read.unknown == {}, host.name
            told = {"services"}  # systemctl answers for every unit that it is asked about
            told |= {"foreign"} if state == "mixed-origin" else set()  # from packages' names
            for field in set(NodeFacts.model_fields) - told:
                assert getattr(read, field) == getattr(host.facts, field), (host.name, field)
