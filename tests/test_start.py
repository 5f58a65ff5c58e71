"""The checks of how training starts: green, and red at what is withheld or refused."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from tests import reported
from tests.reported import changed
from tests.sim import faults
from verify import started, test_start, thresholds
from verify.applies import Scene, applies
from verify.checks import Look
from verify.started import CannotStart, Given
from verify.training import Unusable

STANDARD = reported.scene("hgx-h100", asked=reported.request(level="standard"))
JOB = reported.scene("hgx-h100", asked=reported.request(level="standard", via="slurm"))
CHECKS = (test_start.test_starts, test_start.test_limits)
LIMITS = {"memlock": None, "nofile": 1024, "as": None, "nproc": 100}
GIVEN: dict[str, Any] = {
    "schema": 1, "uid": 1001, "user": "trainer", "home": "/home/trainer", "python": "/x",
    "limits": LIMITS, "cpus": 8, "host_cpus": 16, "memory": None, "host_memory": 64 << 30,
    "gpus": None, "job": "",
}  # fmt: skip


def said(**answer: Any) -> dict[str, Any]:
    """What within.py says of limits.py."""
    line = "GPUFLEET " + json.dumps({**GIVEN, **answer}) + "\n"
    return {"schema": 1, "rc": 0, "hung": False, "out": line, "err": "", "stage": ""}


def ask(found: Any, of: Scene = STANDARD) -> tuple[Look, Look, list[str]]:
    """Both checks, and what they inform of."""
    lines: list[str] = []
    looks = (Look(CHECKS[0].check), Look(CHECKS[1].check))  # type: ignore[attr-defined]
    test_start.test_starts(found, of, looks[0], lines.append)
    default = partial(thresholds.value, given={})
    test_start.test_limits(found, of, of.report["nvml"]["gpus"], looks[1], default)
    return *looks, lines


def causes(look: Look) -> list[tuple[str, str, str]]:
    return [(one.verdict, one.what, one.found) for one in look.findings if not one.because]


def test_a_process_that_gets_everything_is_green() -> None:
    starts, limits, lines = ask(started.given(said()))
    assert (starts.verdict, limits.verdict) == ("pass", "pass")
    assert lines == [
        "training starts as trainer; 8 of 16 processors, all memory; locked memory unlimited, "
        "open files 1024"
    ]
    starts, limits, _ = ask(started.given(said(gpus=8, job="47")), JOB)
    assert (starts.verdict, limits.verdict) == ("pass", "pass")


@pytest.mark.parametrize(
    ("answer", "what", "found"),
    [
        ({"gpus": 7}, "GPUs that a training process is given", "7"),
        ({"gpus": 0}, "GPUs that a training process is given", "0"),
        (
            {"limits": {**LIMITS, "as": 8 << 30}},
            "address space of a training process",
            "8192 MiB",
        ),
    ],
)
def test_what_is_withheld_is_named(answer: dict[str, Any], what: str, found: str) -> None:
    starts, limits, _ = ask(started.given(said(**answer)))
    assert starts.verdict == "pass"
    assert causes(limits) == [("fail", what, found)]


def test_memory_is_locked_only_where_there_is_rdma() -> None:
    def ports(*found: str) -> Scene:
        network = {"ports": [{"device": one} for one in found]}
        return changed(STANDARD, lambda parts: parts["report"].update(network=network))

    bounded = started.given(said(limits={**LIMITS, "memlock": 8 << 20}))
    _, limits, _ = ask(bounded, ports("mlx5_0"))
    what = "memory that a training process may lock, where there is RDMA"
    assert causes(limits) == [("degraded", what, "8 MiB")]
    _, limits, _ = ask(bounded, ports())
    assert limits.verdict == "pass"


def test_whoever_trains_as_root_or_outside_the_job_is_red() -> None:
    starts, _, _ = ask(started.given(said(uid=0)))
    assert causes(starts) == [("fail", "rights of the user that trains", "root's rights")]
    starts, _, _ = ask(started.given(said()), JOB)
    assert causes(starts) == [("fail", "start of training as a job of Slurm", "outside any job")]


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [
        (CannotStart("no user bob on this host", "the user bob", "--as USER"), "fail"),
        (CannotStart("job 7 of alice", "this host, free", verdict="not-run"), "not-run"),
        (CannotStart("srun did not end", "a job", verdict="hung"), "hung"),
        (Unusable("exit 126: Permission denied"), "fail"),
    ],
)
def test_what_cannot_start_is_one_cause(reason: Exception, verdict: str) -> None:
    starts, limits, _ = ask(reason)
    ((found, _, _),) = causes(starts)
    assert found == verdict
    assert {one.because for one in limits.findings} == {"train.starts"}
    assert causes(limits) == []


HOSTILE: dict[str, dict[str, Any]] = {
    "nothing": {"out": ""},
    "two": {"out": said()["out"] * 2},
    "no json": {"out": "GPUFLEET {\n"},
    "a list": {"out": "GPUFLEET []\n"},
    "another schema": {"out": said(schema=2)["out"]},
    "no limits": {"out": said(limits=None)["out"]},
    "not a number": {"out": 'GPUFLEET {"schema":1,"uid":NaN}\n'},
    "text for a number": {"out": said(host_memory="all")["out"]},
    "yes for a number": {"out": said(gpus=True)["out"]},
    "below nothing": {"out": said(limits={**LIMITS, "as": -1})["out"]},
    "ended badly": {"rc": 126, "err": "exec: Permission denied"},
    "hung": {"rc": None, "hung": True},
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
def test_what_cannot_be_read_is_never_a_pass(answer: dict[str, Any]) -> None:
    with pytest.raises(Unusable):
        started.given({**said(), **answer})


# ---- through Slurm


def of_job(answer: Any, **changed: Any) -> dict[str, Any]:
    """What is made of an answer of slurm_job.py."""
    out = answer if isinstance(answer, str) else "GPUFLEET " + json.dumps(answer) + "\n"
    document = {"rc": 0, "hung": False, "out": out, "err": "", "stage": "", **changed}
    return started.of_job(document)


RAN = {"schema": 1, "state": "ran", "node": "n1", "reason": "", "said": said(), "err": "oom-kill"}


def test_out_of_a_job_comes_what_a_direct_start_says() -> None:
    assert of_job(RAN) == said()
    died = {**said(), "rc": 1, "err": "killed"}
    assert of_job({**RAN, "said": died})["err"] == "killed\nsrun: oom-kill"


@pytest.mark.parametrize(
    ("answer", "verdict", "found"),
    [
        ({**RAN, "state": "absent", "reason": "there is no srun here"}, "not-run", "no srun"),
        ({**RAN, "state": "down", "reason": "DRAIN: bad disk"}, "not-run", "bad disk"),
        ({**RAN, "state": "taken", "reason": "job 7 of alice"}, "not-run", "job 7 of alice"),
        ({**RAN, "state": "refused", "reason": "Invalid account"}, "fail", "Invalid account"),
        ({**RAN, "state": "late", "reason": "cancelled"}, "hung", "cancelled"),
        ({**RAN, "said": None}, "fail", "cannot be read"),
        ({**RAN, "said": {"rc": "0"}}, "fail", "cannot be read"),
        ({**RAN, "said": {**said(), "hung": "no"}}, "fail", "cannot be read"),
        ("", "not-run", "no answer"),
        ("GPUFLEET {}\n", "not-run", "no answer"),
        ("GPUFLEET {\n", "not-run", "no answer"),
    ],
)
def test_without_a_job_there_is_a_reason(answer: Any, verdict: str, found: str) -> None:
    with pytest.raises(CannotStart) as told:
        of_job(answer)
    assert told.value.verdict == verdict
    assert found in told.value.found


def test_a_job_is_bounded_inside_and_outside() -> None:
    seconds, words = started.job("/bundle", "/usr/bin/python3", 110, ["python", "x.py"], "g-1")
    question = json.loads(words[5])
    assert question["seconds"] > 110
    assert seconds >= question["seconds"] + question["free_s"]
    assert words[4].endswith("slurm_job.py")
    assert words[7:] == [
        "/usr/bin/python3", "-I", "-S", "-B", "/bundle/verify/payload/within.py", "110", "--",
        "python", "x.py",
    ]  # fmt: skip


# ---- what is asked, and of whom


def test_checks_keep_the_contract() -> None:
    for function in CHECKS:
        check = function.check  # type: ignore[attr-defined]
        assert faults.parse(check.fault)
        assert applies(check, STANDARD).kind == "asked"
        assert applies(check, reported.scene("hgx-h100")).kind == "not-asked"


def test_an_ordinary_user_trains_where_slurm_keeps_others_away() -> None:
    def blind(parts: dict[str, Any]) -> None:
        parts["report"]["holders"].update(complete=False, error="only root sees")

    def used(parts: dict[str, Any]) -> None:
        parts["report"]["holders"].update(jobs=[{"id": "7", "user": "alice"}])

    check = test_start.test_starts.check  # type: ignore[attr-defined]
    assert applies(check, changed(STANDARD, blind)).kind == "not-run"
    assert applies(check, changed(JOB, blind)).kind == "asked"
    assert applies(check, changed(JOB, used)).kind == "not-run"
    assert "job 7 of alice" in applies(check, changed(JOB, used)).reason


def test_what_is_given_is_a_line_of_bounded_words() -> None:
    found = Given(1, "u", 1, 2, 3, 4 << 20, None, None, None, None, "9")
    assert found.line("/env") == (
        "training starts as u in job 9; 1 of 2 processors, 4 MiB of memory; "
        "locked memory unlimited, open files unlimited; environment /env"
    )
