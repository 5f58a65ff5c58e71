"""The verify command: what it refuses, what it records, what it expects, how it ends."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.cli import main
from deploy.fleet.errors import WrongInput
from deploy.fleet.inventory import Fleet, Host
from deploy.fleet.spec import NodeSpec
from deploy.lock import HostLock, Lock, spec_digest, write_lock
from tests import factory
from tests.answers import KNOWN, checked, finding
from tests.answers import answer as answered
from tests.test_verify_runner import BUNDLE, Lab
from verify import runner
from verify.checks import Check
from verify.commands import verify as command
from verify.expectation import expectations

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Hosts that are folders, an inventory of them, and a folder to run in."""
    lab = Lab(tmp_path)
    checks = {
        id: Check(
            id,
            "A claim.",
            "standard" if id == "train.loss" else "quick",
            *("keep", (), "", ""),
            where="fleet" if id == "host.reachable" else "host",
        )
        for id in sorted({*KNOWN, "host.reachable"})
    }
    monkeypatch.setattr(runner, "connect", lab.connect)
    monkeypatch.setattr(command, "with_site", lambda files: BUNDLE)
    monkeypatch.setattr(command, "catalogue", lambda: checks)
    monkeypatch.chdir(tmp_path)
    return lab


def inventory(lab: Lab, **more: Any) -> str:
    hosts = [
        (name, {"prefix": host.spec.prefix, "privileged": False, **more})
        for name, host in lab.hosts.items()
    ]
    # By its whole path: pyinfra keeps what it has read under the name it was given.
    path = lab.place / "lab.py"
    path.write_text(f"gpus = {hosts!r}\n")
    return str(path)


def last_run() -> tuple[dict[str, Any], dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """run.json, the hosts' files and the journal of the newest run."""
    place = max(Path("runs").iterdir(), key=lambda path: path.stat().st_ctime_ns)
    hosts = {path.stem: json.loads(path.read_text()) for path in (place / "hosts").iterdir()}
    journal = (place / "journal.jsonl").read_text().splitlines()
    return json.loads((place / "run.json").read_text()), hosts, list(map(json.loads, journal))


def test_a_run_is_recorded_whole(lab: Lab, capsys: Captured) -> None:
    lab.add("gpu1")
    lab.add("gpu2", answer=answered(checked("gpu.ecc", finding())))
    lab.add("gpu3")
    lab.unreachable.add("gpu3")
    assert main(["verify", inventory(lab, ssh_password="s3cret!")]) == 1
    run, hosts, journal = last_run()
    assert run["hosts"] == {"gpu1": "pass", "gpu2": "fail", "gpu3": "unreachable"}
    assert (run["exit"], run["state"], run["lock"]) == (1, "finished", "")
    assert run["command"] == ["gpufleet", "verify", run["inventory"], "--level", "quick"]
    assert {name: one["verdict"] for name, one in hosts.items()} == run["hosts"]
    assert hosts["gpu2"]["action"] == "service"
    assert hosts["gpu3"]["result"] is None
    assert [one["event"] for one in journal] == [
        *["run-started", "host-ended"],
        *["note", "host-ended"] * 2,
        "run-ended",
    ]
    said = capsys.readouterr()
    assert "gpu.ecc" in said.out
    assert said.err == ""


@pytest.mark.parametrize(
    ("verdict", "words", "code"),
    [
        ("degraded", [], 0),
        ("degraded", ["--strict"], 1),
        ("not-run", [], 4),
        ("hung", [], 1),
        ("fail", [], 1),
    ],
)
def test_exit_codes(verdict: str, words: list[str], code: int, lab: Lab) -> None:
    lab.add("gpu1", answer=answered(checked("gpu.ecc", finding(verdict))))
    lab.add("gpu2")
    assert main(["verify", inventory(lab), *words]) == code


def test_limit_and_check_ask_only_that(lab: Lab, capsys: Captured) -> None:
    one = answered()
    one["checks"] = [check for check in one["checks"] if check["id"] == "gpu.ecc"]
    lab.add("gpu1", answer={**one, "not_asked": []})
    lab.add("gpu2")
    words = ["--limit", "gpu1", "--check", "gpu.ecc", "--json", "-", "--check", "host.reachable"]
    assert main(["verify", inventory(lab), *words]) == 0
    assert (lab.asked["gpu1"], lab.asked["gpu2"]) == (["run", "push", "run"], [])
    said = capsys.readouterr()
    assert list(json.loads(said.out)["hosts"]) == ["gpu1"]
    assert "1 host" in said.err
    run, _, _ = last_run()
    assert run["command"][3:] == [
        *("--level", "quick", "--limit", "gpu1"),
        *("--check", "gpu.ecc", "--check", "host.reachable"),
    ]


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["--level", "deeper"], ["--level: found 'deeper': wanted quick, standard or deep"]),
        (["--limit", "gpu9"], ["gpu9: matches none of the 1 hosts"]),
        (["--limit", ""], ["--limit: is empty"]),
        (["--check", "gpu.eec"], ["found 'gpu.eec': no such check; did you mean gpu.ecc"]),
        (["--check", "train.loss"], ["train.loss needs --level standard"]),
        (
            ["--level", "x", "--check", "\x1b[31m", "--json", "/nowhere/x"],
            ["found 'x'", "found '\\x1b[31m'", "its folder does not exist"],
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(
    words: list[str], messages: list[str], lab: Lab, capsys: Captured
) -> None:
    lab.add("gpu1")
    assert main(["verify", inventory(lab), *words]) == 2
    said = capsys.readouterr()
    assert (said.out, lab.asked["gpu1"]) == ("", [])
    assert all(message in said.err for message in messages)
    assert "\x1b" not in said.err
    assert not Path("runs").exists()


def test_a_damaged_lock_is_refused(lab: Lab, capsys: Captured) -> None:
    lab.add("gpu1")
    Path("lab.lock").write_text("{")
    assert main(["verify", inventory(lab)]) == 2
    assert "is no JSON" in capsys.readouterr().err


def locked(*names: str, spec: NodeSpec | None = None) -> Lock:
    stack = factory.solved("hgx-h100")
    entry = HostLock(stack=stack.id, spec=spec_digest(spec or NodeSpec()))
    return Lock(stacks={stack.id: stack}, hosts=dict.fromkeys(names, entry)).sealed()


def fleet(**specs: NodeSpec) -> Fleet:
    return Fleet("lab", Path("lab.py"), {n: Host(n, (), spec, {}) for n, spec in specs.items()})


def test_the_lock_says_what_a_host_shall_be() -> None:
    lock = locked("gpu1", "gpu2")
    expected, warnings = expectations(
        fleet(gpu1=NodeSpec(gpus=8, prefix="/data/gf"), gpu2=NodeSpec()), lock
    )
    assert warnings == {}
    one, two = expected["gpu1"], expected["gpu2"]
    assert one is not None
    assert two is not None
    assert (one["host"], one["gpus"], one["nvswitches"]) == ("gpu1", 8, None)
    assert one["prefix"] == "/data/gf"
    assert two["gpus"] is None, "the host's own record counts"
    assert one["stack"] == two["stack"] == next(iter(lock.stacks))
    json.dumps(expected)


def test_a_lock_that_does_not_answer_is_used_and_said() -> None:
    lock = locked("gpu1")
    blocked = lock.model_copy(update={"blocked": {"gpu2": "held by somebody else"}})
    hosts = fleet(gpu1=NodeSpec(driver="580"), gpu2=NodeSpec(), gpu3=NodeSpec())
    expected, warnings = expectations(hosts, blocked)
    assert expected["gpu1"] is not None
    assert (expected["gpu2"], expected["gpu3"]) == (None, None)
    assert warnings["gpu1"] == "its wishes changed since it was locked; run gpufleet lock lab.py"
    assert "the lock has no stack for it" in warnings["gpu2"]
    assert "is not in the lock" in warnings["gpu3"]
    assert expectations(hosts, None) == (dict.fromkeys(("gpu1", "gpu2", "gpu3")), {})


def test_a_stale_lock_is_warned_of_and_the_run_goes_on(lab: Lab, capsys: Captured) -> None:
    for name in ("gpu1", "gpu2"):
        lab.add(name)
    write_lock(Path("lab.lock"), locked("gpu1", "gpu2"))
    assert main(["verify", inventory(lab, python="3.12")]) == 0
    said = capsys.readouterr()
    assert said.err.count("warning: gpu[1-2]: its wishes changed since it was locked") == 1
    run, _, journal = last_run()
    assert run["lock"] == locked("gpu1", "gpu2").digest
    (warned,) = [one for one in journal if one["event"] == "warning"]
    assert warned["hosts"] == ["gpu1", "gpu2"]


def test_a_threshold_that_no_check_reads_is_wrong_input(lab: Lab, capsys: Captured) -> None:
    lab.add("gpu1")
    assert main(["verify", inventory(lab, thresholds={"disk.rot-mib": 1, "zzz.a": 2})]) == 2
    said = capsys.readouterr().err
    assert "no check reads 'disk.rot-mib'; did you mean disk.root-mib?" in said
    assert "no check reads 'zzz.a'; known: " in said
    assert not Path("runs").exists()


def test_a_folder_that_cannot_be_written_is_wrong_input(lab: Lab, capsys: Captured) -> None:
    lab.add("gpu1")
    Path("runs").write_text("")
    assert main(["verify", inventory(lab)]) == 2
    assert "run gpufleet in a folder of yours" in capsys.readouterr().err


def test_a_bundle_that_cannot_be_made_is_wrong_input(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def missing(files: object) -> None:
        from deploy.fleet.errors import Fault

        raise WrongInput([Fault("verify", "pytest", "is not installed here: python -m pip ...")])

    lab.add("gpu1")
    monkeypatch.setattr(command, "with_site", missing)
    assert main(["verify", inventory(lab)]) == 2
    assert "verify: pytest: is not installed here" in capsys.readouterr().err
    assert not Path("runs").exists()


def told(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60)


@pytest.mark.long
def test_the_module_is_the_same_command() -> None:
    here, there = told("-m", "verify", "--help"), told("-m", "deploy.cli", "verify", "--help")
    assert (here.returncode, here.stdout) == (0, there.stdout)
    assert "usage: gpufleet verify" in here.stdout


def test_nothing_is_imported_before_gevent_has_patched_what_waits() -> None:
    said = told("-X", "importtime", "-m", "verify", "--help").stderr.splitlines()
    order = [line.rpartition("|")[2].strip() for line in said]
    patched = order.index("gevent.monkey")
    for late in ("verify.report.catalogue", "verify.runner", "paramiko", "pyinfra"):
        assert order.index(late) > patched, late
