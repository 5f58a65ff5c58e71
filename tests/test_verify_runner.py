"""Hosts that are folders of this machine: asked all at once, each at its own cost."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.fleet.conversation import Result
from deploy.fleet.inventory import Fleet, Host
from deploy.fleet.spec import NodeSpec
from deploy.fleet.transport import Connection, Unreachable
from deploy.fleet.transport import connect as really_connect
from tests.answers import KNOWN, QUICK, answer
from verify import runner
from verify.bundle import ROOM, Bundle
from verify.judge import judge
from verify.results import HostVerification
from verify.runner import Answer, Question, ask_all

ONHOST = """\
import hashlib, json, os, sys, time
request = json.load(sys.stdin)
plan = json.load(open(os.path.join(request["prefix"], "plan.json")))
print(plan["err"], file=sys.stderr, flush=True)
time.sleep(plan["sleep"])
document = plan["answer"]
document.update(nonce=request["nonce"], host=request["host"], level=request["level"])
document["bundle"] = hashlib.sha256(open("MANIFEST", "rb").read()).hexdigest()
document["user"] = plan["user"]
document.update(plan["changed"])
print("GPUFLEET " + json.dumps(document) + plan["noise"])
sys.exit(plan["exit"])
"""
BUNDLE = Bundle(
    {
        "verify/attended.py": (ROOM / "attended.py").read_bytes(),
        "verify/onhost.py": ONHOST.encode(),
    }
)
PLAN: dict[str, Any] = {
    "answer": answer(),
    "err": "stage: NVML",
    "sleep": 0,
    "user": "root",
    "changed": {},
    "noise": "",
    "exit": 0,
}


class Lab:
    """A fleet of folders, and what was asked of each."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.hosts: dict[str, Host] = {}
        self.asked: dict[str, list[str]] = {}
        self.unreachable: set[str] = set()

    def add(self, name: str, *, privileged: bool = False, **plan: Any) -> Path:
        """A host that answers by this plan; returns its prefix."""
        prefix = self.place / name / "opt"
        prefix.mkdir(parents=True)
        (prefix / "plan.json").write_text(json.dumps(PLAN | plan))
        spec = NodeSpec(prefix=str(prefix), privileged=privileged)
        self.hosts[name] = Host(name, (), spec, {})
        self.asked[name] = []
        return prefix

    def connect(self, host: Host, timeout_s: float) -> Connection:
        if host.name in self.unreachable:
            raise Unreachable(host.name, "192.0.2.1", "no TCP connection", "")
        here = really_connect(Host("@local", (), host.spec, {"_sudo": False}), timeout_s)
        return Watched(here, host.name, self.asked[host.name])

    def verify(self, **changed: Any) -> dict[str, HostVerification]:
        values: dict[str, Any] = {
            "level": "quick",
            "checks": (),
            "asked": frozenset(QUICK),
            "known": frozenset(KNOWN),
            "expected": dict.fromkeys(self.hosts),
            "accept_hardware": False,
            "bundle": BUNDLE,
        }
        answers = list(ask_all(self.fleet, Question(**{**values, **changed})))
        assert len(answers) == len(self.hosts), "every host has one answer"
        return {one.host: judge(one) for one in answers}

    @property
    def fleet(self) -> Fleet:
        return Fleet("lab", None, self.hosts)


class Watched(Connection):
    """A connection to this machine that notes every command."""

    def __init__(self, inner: Connection, name: str, asked: list[str]) -> None:
        super().__init__(name, inner._pyinfra, inner._data)
        self.asked = asked

    def run(self, command: str, **options: Any) -> Result:
        self.asked.append("push" if "action=push" in command else command)
        return super().run(command, **options)

    def run_script(self, script: str, **options: Any) -> Result:
        self.asked.append("run" if "action=run" in script else script)
        return super().run_script(script, **options)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    lab = Lab(tmp_path)
    monkeypatch.setattr(runner, "connect", lab.connect)
    return lab


def test_the_bundle_is_pushed_once_then_one_command_does_it(lab: Lab) -> None:
    for number in range(3):
        lab.add(f"gpu{number}")
    for one in lab.verify().values():
        assert (one.verdict, one.message, one.notes) == ("pass", "", ("the bundle was pushed",))
    assert set(map(tuple, lab.asked.values())) == {("run", "push", "run")}
    for asked in lab.asked.values():
        asked.clear()
    for one in lab.verify().values():
        assert (one.verdict, one.notes) == ("pass", ())
    assert set(map(tuple, lab.asked.values())) == {("run",)}


@pytest.mark.long
def test_a_host_that_hangs_or_is_dead_costs_only_its_own_time(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(runner.ASK_S, "quick", 3.0)
    monkeypatch.setattr(runner, "MARGIN_S", -30)
    for name in ("good", "hangs", "dead"):
        lab.add(name, sleep=60 if name == "hangs" else 0)
    lab.unreachable.add("dead")
    order: list[tuple[str, float]] = []
    began = time.monotonic()
    question = Question(
        "quick", (), frozenset(QUICK), frozenset(KNOWN), dict.fromkeys(lab.hosts), False, BUNDLE
    )
    answers: dict[str, Answer] = {}
    for one in ask_all(lab.fleet, question):
        order.append((one.host, time.monotonic() - began))
        answers[one.host] = one
    assert [name for name, _ in order] == ["dead", "good", "hangs"]
    assert judge(answers["good"]).verdict == "pass"
    hung, dead = judge(answers["hangs"]), judge(answers["dead"])
    assert (hung.verdict, hung.action) == ("hung", "drain")
    assert hung.message.startswith("hangs: no end within ")
    assert hung.message.endswith("abandoned; last said: stage: NVML")
    assert dead.verdict == "unreachable"
    assert dead.message == "dead (192.0.2.1): no TCP connection"


def test_checks_that_do_not_end_are_ended_by_the_host_itself(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(runner.ASK_S, "quick", 8.0)
    monkeypatch.setattr(runner, "MARGIN_S", 7)
    lab.add("gpu1", sleep=60)
    one = lab.verify()["gpu1"]
    assert one.verdict == "hung"
    assert one.message == "gpu1: the checks did not end in time; last said: stage: NVML"


def spoil(prefix: Path) -> None:
    (prefix / "bundle" / BUNDLE.id / "verify/onhost.py").write_text("print('owned')\n")


def test_a_changed_bundle_is_said_never_run_and_whole_the_next_time(lab: Lab) -> None:
    spoil_me = lab.add("gpu1")
    lab.add("gpu2")
    lab.verify()
    spoil(spoil_me)
    found = lab.verify()
    assert found["gpu2"].verdict == "pass"
    one = found["gpu1"]
    assert one.verdict == "not-run"
    assert "the bundle there was changed and was not run: " in one.message
    assert "verify/onhost.py has other content" in one.message
    assert "verify again" in one.message
    assert lab.verify()["gpu1"].verdict == "pass"


def test_a_bundle_that_cannot_be_put_there_is_said(lab: Lab) -> None:
    prefix = lab.add("gpu1")
    (prefix / "bundle").write_text("a file stands in its place")
    one = lab.verify()["gpu1"]
    assert one.verdict == "not-run"
    wanted = f"gpu1: the bundle could not be put there: {prefix}/bundle cannot be written; last"
    assert one.message.startswith(wanted)
    assert one.message.endswith("File exists")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "traceback": (
        {"exit": 1, "err": "Traceback\nValueError: no\x1b[31m"},
        "the checks ended with 1; last said: ValueError: no",
    ),
    "report and failure": ({"exit": 9}, "the checks ended with 9; last said: stage: NVML"),
    "torn": ({"noise": "\nGPUFLEET {}"}, "its answer cannot be used: it gave 2 answers"),
    "schema": ({"changed": {"schema": 2}}, "its answer cannot be used: schema: "),
    "replayed": ({"changed": {"nonce": "old"}}, "it is the answer to another question: nonce"),
    "another host's": ({"changed": {"host": "gpu2"}}, "another question: host is gpu2"),
    "incomplete": ({"changed": {"checks": []}}, "it says nothing of gpu.count"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_concerns_its_host_alone(name: str, lab: Lab) -> None:
    plan, words = BAD[name]
    lab.add("gpu1", **plan)
    lab.add("gpu2")
    found = lab.verify()
    assert found["gpu2"].verdict == "pass"
    assert found["gpu1"].verdict == "not-run"
    assert words in found["gpu1"].message
    assert found["gpu1"].message.startswith("gpu1: ")


def test_too_much_output_is_cut_off(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MOST_BYTES", 100_000)
    lab.add("gpu1", noise="x" * 1_000_000)
    one = lab.verify()["gpu1"]
    assert one.verdict == "not-run"
    assert "printed more than 100000 bytes" in one.message


def test_who_is_not_root_says_so(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.add("gpu1", privileged=False, user="alice")
    assert lab.verify()["gpu1"].notes == ("the bundle was pushed",)
    lab.add("gpu2", privileged=True, user="alice")
    monkeypatch.setenv("XDG_CACHE_HOME", str(lab.place / "cache"))
    (note,) = lab.verify()["gpu2"].notes[1:]
    assert note == "the checks ran as alice, not as root: what only root can see is unknown"


def test_a_mistake_of_ours_on_one_host_leaves_the_others(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.add("gpu1")
    lab.add("gpu2")
    monkeypatch.setattr(runner, "connect", breaks_on("gpu1", lab.connect))
    found = lab.verify()
    assert found["gpu2"].verdict == "pass"
    assert found["gpu1"].verdict == "not-run"
    assert found["gpu1"].message == (
        "gpu1: KeyError: 'x'; this is a fault of gpufleet: please report it"
    )


def breaks_on(name: str, connect: Callable[..., Connection]) -> Callable[..., Connection]:
    def attempt(host: Host, timeout_s: float) -> Connection:
        if host.name == name:
            raise KeyError("x")
        return connect(host, timeout_s)

    return attempt


def test_asked_only_whether_it_can_be_reached(lab: Lab) -> None:
    lab.add("gpu1")
    lab.add("dead")
    lab.unreachable.add("dead")
    found = lab.verify(checks=("host.reachable",), asked=frozenset())
    assert {name: one.verdict for name, one in found.items()} == {
        "gpu1": "pass",
        "dead": "unreachable",
    }
    assert lab.asked["gpu1"] == ["true"], "nothing is pushed for that"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("no-python 0 found none", "no Python >= 3.10 there: found none; apt-get install python3"),
        ("unsafe 0 /opt is open", "is not safe to run: /opt is open; make /opt/x"),
        ("cannot 7 there is no home", "there is no home"),
        ("missing 0 /gone", "the bundle was missing as soon as it was put there: /gone"),
    ],
)
def test_what_the_host_cannot_do_ends_with_a_way_out(
    line: str, words: str, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def says(self: Connection, script: str, **options: Any) -> Result:
        nonce = script.partition("nonce=")[2].partition("\n")[0]
        return Result(0, f"GPUFLEET-LAUNCH {nonce} {line}\n", "", 0.1, "")

    lab.add("gpu1")
    monkeypatch.setattr(Watched, "run_script", says)
    monkeypatch.setattr("verify.runner._Visit._push", lambda self, line: "")
    one = lab.verify()["gpu1"]
    assert one.verdict == "not-run"
    assert words.replace("/opt/x", str(lab.hosts["gpu1"].spec.prefix)) in one.message
