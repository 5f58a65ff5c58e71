"""Level deep apart from its controller: on a host that is a folder, and where it is collected."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.fleet.inventory import Fleet, Host
from deploy.fleet.spec import NodeSpec
from tests import answers
from tests.test_verify_runner import BUNDLE
from verify import deep, detached
from verify.deep import Attended, Open, Told, Waits
from verify.runner import Answer, Question

Document = dict[str, Any]
RUN = "20261122T120000Z"
ONHOST = """
import json, os, sys, time
asked = json.load(sys.stdin)
if asked["checks"] == ["wait"]:
    while not os.path.exists(os.environ["GPUFLEET_SOAK_FOLDER"] + "/stop"):
        time.sleep(0.05)
if asked["checks"] == ["fail"]:
    sys.exit("nothing works")
print("GPUFLEET " + json.dumps({"nonce": asked["nonce"]}))
"""


# ---- on the host


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A bundle on a host of a user without root, whose checks are ONHOST."""
    root = tmp_path / "bundle" / ("b" * 64)
    shutil.copytree(Path(detached.__file__).parent / "payload", root / "verify/payload")
    shutil.copy(detached.__file__, root / "verify/detached.py")
    (root / "verify/__init__.py").write_text("")
    (root / "verify/onhost.py").write_text(ONHOST)
    monkeypatch.setattr(detached, "ROOT", root)
    monkeypatch.setattr(detached.os, "geteuid", lambda: 1000)
    yield tmp_path / "deep"
    for pid in tmp_path.glob("deep/*/pid"):
        try:
            os.kill(int(pid.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            continue


def words(run: str = RUN, *checks: str, minutes: int = 1) -> Document:
    request = {"prefix": "/nowhere", "minutes": minutes, "host": "gpu1", "nonce": "n0nce"}
    return {"schema": 1, "run": run, "by": "me@here", "request": {**request, "checks": checks}}


def until(state: str, run: str = RUN) -> Document:
    end = time.monotonic() + 20
    while (found := detached.answer("poll", words(run)))["state"] != state:
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return found


def test_a_run_that_was_started_has_its_answer_for_any_controller(place: Path) -> None:
    started = detached.answer("start", words())
    assert (started["state"], started["by"]) == ("started", "me@here")
    assert started["left_s"] > 60 or until("ended")
    found = until("ended")
    assert found["answer"] == 'GPUFLEET {"nonce": "n0nce"}\n'
    newest = detached.answer("poll", words(""))
    assert (newest["run"], newest["nonce"], newest["bundle"]) == (RUN, "n0nce", "b" * 64)
    assert Told.model_validate_json(json.dumps(found)).state == "ended"
    assert (place / RUN / "request.json").stat().st_mode & 0o777 == 0o600


def test_a_second_run_is_refused_and_a_stop_ends_the_first(place: Path) -> None:
    detached.answer("start", words(RUN, "wait"))
    second = detached.answer("start", words("20261122T130000Z"))
    assert (second["state"], second["run"], second["by"]) == ("refused", RUN, "me@here")
    assert until("running")["left_s"] > 0
    detached.answer("stop", words())
    until("ended")
    assert (place / RUN / "soak/stop").read_text() == "stopped by me@here"
    assert detached.answer("start", words("20261122T140000Z"))["state"] == "started"


def test_checks_that_fail_have_no_answer_and_a_reason(place: Path) -> None:
    detached.answer("start", words(RUN, "fail"))
    found = until("ended")
    assert found["answer"] == ""
    assert "nothing works" in found["why"]


def test_what_was_killed_or_went_down_is_lost_with_what_it_had_done(place: Path) -> None:
    detached.answer("start", words(RUN, "wait"))
    pid = int((place / RUN / "pid").read_text())
    rank = {"state": "running", "stage": "memory", "memory": {"rounds": 3, "bytes": 2**30,
            "wrong_words": 0}, "compute": {"products": 9, "wrong_products": 0}}  # fmt: skip
    (place / RUN / "soak/rank-0.json").write_text(json.dumps(rank))
    (place / RUN / "soak/rank-1.json").write_text('{"state": [], "memory": 3}')
    os.kill(pid, signal.SIGKILL)
    found = until("lost")
    assert found["why"] == "its process was killed"
    assert found["partial"][0].startswith("rank 0: running in memory, 3 rounds over 1024 MiB")
    assert found["partial"][1] == "rank 1: its record cannot be used"
    record = json.loads((place / RUN / "record.json").read_text())
    (place / RUN / "record.json").write_text(json.dumps({**record, "boot_id": "another"}))
    assert until("lost")["why"] == "the host went down in the middle"
    detached.keep(place / RUN / "end.json", json.dumps({"why": "it was told to stop"}))
    assert "in order" in until("ended")["why"]


def test_old_runs_go_and_the_newest_stay(place: Path) -> None:
    for hour in range(10, 15):
        detached.answer("start", words(f"20261122T{hour}0000Z"))
        until("ended", f"20261122T{hour}0000Z")
        while detached.held(place):
            time.sleep(0.02)
    assert len(list(place.glob("2026*"))) == detached.KEPT


@pytest.mark.parametrize("run", ["../../etc", "a b", "x" * 80, "run"])
def test_a_run_has_a_name_and_no_path(place: Path, run: str) -> None:
    assert detached.answer("poll", words(run))["state"] == "failed"


def test_a_link_of_another_user_is_not_read(place: Path) -> None:
    place.mkdir()
    (place / "secret").write_text('{"state": "running"}')
    (place / "rank-0.json").symlink_to(place / "secret")
    assert detached.read(place / "rank-0.json") is None
    os.mkfifo(place / "pipe")
    assert detached.read(place / "pipe") is None


# ---- at the controller


def fleet(*names: str) -> Fleet:
    hosts = {name: Host(name, (), NodeSpec(), {}) for name in names}
    return Fleet("lab", Path("lab.py"), hosts)


QUESTION = Question(
    level="deep", checks=(), asked=frozenset(answers.QUICK), known=frozenset(answers.KNOWN),
    expected={"gpu1": None, "gpu2": None}, accept_hardware=False, bundle=BUNDLE, minutes=15,
)  # fmt: skip


class Hosts:
    """What each host says next; the last one stays."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **said: list[Told | Answer]) -> None:
        self.said, self.asked = said, list[tuple[str, str]]()
        monkeypatch.setattr(deep, "converse", self.converse)
        monkeypatch.setattr(deep.gevent, "sleep", lambda seconds: None)
        clock = iter(range(0, 10**9, 30))
        monkeypatch.setattr(deep.time, "time", lambda: float(next(clock)))

    def converse(
        self, host: Host, bundle: object, action: str, words: Callable[[Any], Document]
    ) -> Told | Answer:
        class Connection:
            user = "ops"

        self.asked.append((host.name, action))
        words(Connection())
        said = self.said[host.name]
        return said.pop(0) if len(said) > 1 else said[0]


def told(state: str, **more: Any) -> Told:
    return Told.model_validate({"schema": 1, "state": state, **more})


def attended(tmp_path: Path, *names: str, minutes: int = 15) -> Attended:
    hosts = {name: Waits(nonce="n0nce", prefix="/opt/gpufleet") for name in names}
    known = tuple(sorted(answers.KNOWN))
    opened = Open(run=RUN, bundle=answers.BUNDLE, asked=tuple(sorted(answers.QUICK)), known=known,
                  minutes=minutes, hosts=hosts)  # fmt: skip
    found = Attended(tmp_path, BUNDLE, opened)
    found.keep()
    return found


def test_what_started_is_kept_and_what_did_not_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = told("refused", by="bob@there", run="20261122T080000Z", started=0.0, left_s=300.0)
    Hosts(monkeypatch, gpu1=[told("started", left_s=900.0)], gpu2=[there])
    silent, found = deep.begin(fleet("gpu1", "gpu2"), QUESTION, tmp_path)
    (one,) = silent
    for word in ("bob@there", "20261122T080000Z", "5 min left", "--stop", "status --inventory"):
        assert word in one.message
    opened = deep.read_open(tmp_path)
    assert opened == found.open
    assert opened is not None
    assert set(opened.hosts) == {"gpu1"}
    assert len(opened.hosts["gpu1"].nonce) == 16


def test_who_waits_is_told_and_gets_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = answers.printed(answers.answer(level="deep"))
    away = Answer("gpu1", silence="unreachable", message="gpu1: no route")
    hosts = Hosts(
        monkeypatch,
        gpu1=[told("running", left_s=40.0), away, told("ended", answer=answer)],
        gpu2=[told("lost", why="the host went down in the middle", partial=["rank 0: x"])],
    )
    mine = attended(tmp_path, "gpu1", "gpu2")
    found = {one.host: one for one in deep.attend(fleet("gpu1", "gpu2"), mine, wait=True)}
    assert found["gpu1"].result is not None
    assert found["gpu2"].silence == "hung"
    assert found["gpu2"].notes == ("rank 0: x",)
    assert not (tmp_path / deep.OPEN).exists()
    assert [name for name, _ in hosts.asked].count("gpu1") == 3


def test_without_waiting_who_still_runs_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = Hosts(
        monkeypatch,
        gpu1=[told("running", left_s=600.0, stage="soak")],
        gpu2=[Answer("gpu2", silence="unreachable", message="gpu2: no route")],
    )
    mine = attended(tmp_path, "gpu1", "gpu2", "gone")
    found = {
        one.host: one for one in deep.attend(fleet("gpu1", "gpu2"), mine, wait=False, stop=True)
    }
    assert "soak, 10 min left" in found["gpu1"].message
    assert "its soak goes on" in found["gpu2"].notes[0]
    assert "no longer in the inventory" in found["gone"].message
    assert set(mine.open.hosts) >= {"gpu1", "gpu2"}
    assert {action for _, action in hosts.asked} == {"stop"}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"answer": "GPUFLEET {"}, "cannot be used"),
        ({"answer": answers.printed(answers.answer(nonce="other", level="deep"))}, "nonce"),
        ({"answer": answers.printed(answers.answer(host="gpu9", level="deep"))}, "host"),
        ({"answer": answers.printed(answers.answer(bundle="c" * 64, level="deep"))}, "bundle"),
        ({"answer": "", "why": "the checks ended with 1"}, "ended with 1"),
        ({"answer": ""}, "knows nothing"),
    ],
)
def test_an_answer_that_cannot_be_used_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: Document, says: str
) -> None:
    Hosts(monkeypatch, gpu1=[told("ended", **more)])
    (one,) = deep.attend(fleet("gpu1"), attended(tmp_path, "gpu1"), wait=True)
    assert one.result is None
    assert one.silence == "not-run"
    assert says in one.message


def test_a_host_that_never_answers_again_is_left_at_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hosts(monkeypatch, gpu1=[Answer("gpu1", silence="unreachable", message="gpu1: no route")])
    mine = attended(tmp_path, "gpu1", minutes=1)
    (one,) = deep.attend(fleet("gpu1"), mine, wait=True)
    assert one.silence == "unreachable"
    assert set(mine.open.hosts) == {"gpu1"}  # it may be collected yet


@pytest.mark.parametrize(
    "text", ["", "{", '{"schema": 2, "state": "ended"}', '{"schema": 1, "state": "fine"}',
             '{"schema": 1, "state": "running", "left_s": NaN}',
             '{"schema": 1, "state": "running", "left_s": -5}',
             '{"schema": 1, "state": "running", "more": 1}']
)  # fmt: skip
def test_what_a_host_says_of_a_run_is_hostile_data(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(deep, "output", lambda *words: f"GPUFLEET {text}\n")
    found = deep.converse(fleet("gpu1").hosts["gpu1"], BUNDLE, "poll", lambda _: {})
    assert isinstance(found, Answer)
    assert "no answer that can be used" in found.message
