"""What is made of a soak: green when all holds, red at the GPU that failed; DCGM's own words."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests import reported
from tests.reported import changed
from tests.sim import faults
from verify import dcgm, soak, test_deep
from verify.applies import NEEDS, Scene, applies
from verify.checks import Look
from verify.training import Document, Unusable

CHECKS = {value.check.id: value for value in vars(test_deep).values() if hasattr(value, "check")}
SCENE = reported.scene("hgx-h100", asked=reported.request(level="deep", minutes=15))
GPUS = SCENE.report["nvml"]["gpus"]
Change = Callable[[Document], None]


def rank(number: int, gpu: Document | None) -> Document:
    """A rank that worked for its whole time."""
    device = {"kind": "cpu", "index": None, "uuid": "", "name": "cpu"}
    if gpu is not None:
        device = {"kind": "cuda", "index": number, "uuid": gpu["uuid"], "name": gpu["name"]}
    return {
        "rank": number, "pid": 900 + number, "state": "ended", "stage": "compute", "error": "",
        "seconds": 900.2, "torch": "2.13.0", "device": device, "code": 0, "abandoned": False,
        "memory": {
            "bytes": 72 << 30, "rounds": 12, "seconds": 300.0,
            "patterns": {kind: 12 * most for kind, most in soak.KINDS.items()},
            "wrong_words": 0, "wrong": [],
        },
        "compute": {
            "what": "8192 x 8192 x 8192 bfloat16", "products": 100_000, "replays": 500,
            "seconds": 600.0, "digest": "0123456789abcdef", "wrong_products": 0,
            "wrong_replays": 0, "wrong": [], "rates": [[float(at), 640.0] for at in range(90)],
        },
    }  # fmt: skip


def soaked(gpus: list[Document] = GPUS, on_cpu: bool = False) -> Document:
    """The document of a soak in which all is well."""
    ranks = [rank(n, None if on_cpu else gpu) for n, gpu in enumerate(gpus or [None, None])]
    curves = [
        {
            "index": gpu["index"], "uuid": gpu["uuid"], "slowdown_c": 89, "power_limit_w": 700.0,
            "samples": 300, "unread": 0, "reasons": {"4": 290}, "hottest_c": 71, "most_w": 699.0,
            "curve": [[float(at), 70, 690.5, 1755] for at in range(60)],
        }
        for gpu in gpus
    ]  # fmt: skip
    return {
        "schema": 1, "asked_s": 900.0, "device": "cpu" if on_cpu else "cuda", "why": "",
        "seconds": 905.0, "perturbed": "", "user": "ops", "ranks": ranks,
        "samples": {"error": "", "every_s": 1.0, "gpus": curves},
    }  # fmt: skip


def said(document: Document | str, **more: Any) -> Document:
    """As within.py tells it."""
    out = document if isinstance(document, str) else f"GPUFLEET {json.dumps(document)}\n"
    return {"rc": 0, "hung": False, "out": out, "err": "stage: soak\n", "stage": "soak"} | more


DIAGNOSED = {
    "DCGM Diagnostic": {
        "test_categories": [
            {
                "category": "Hardware",
                "tests": [
                    {
                        "name": "memory",
                        "results": [
                            {"entity_group": "GPU", "entity_group_id": 1, "entity_id": n,
                             "status": "Pass"}
                            for n in range(8)
                        ],
                        "test_summary": {"status": "Pass"},
                    },
                    {
                        "name": "eud",
                        "results": [
                            {"entity_group": "GPU", "entity_id": 0, "status": "Skip"}
                        ],
                        "test_summary": {"status": "Skip"},
                    },
                ],
            }
        ]
    },
    "metadata": {"version": "4.2.3"},
}  # fmt: skip


def ask(
    document: Document | Unusable,
    of: Scene = SCENE,
    after: Change = lambda report: None,
    diagnosed: Document | None = None,
) -> tuple[dict[str, Look], list[str]]:
    """Every check of the soak by its id, and the names of what was measured."""
    later = copy.deepcopy(of.report)
    after(later)
    looks, measured = {}, []
    for id, function in CHECKS.items():
        if applies(function.check, of).kind != "asked":
            continue
        look = Look(function.check)
        given = {
            "soaked": document,
            "after": later,
            "scene": of,
            "report": of.report,
            "asked": of.asked,
            "gpus": of.report["nvml"]["gpus"],
            "look": look,
            "inform": lambda text: None,
            "threshold": lambda name: {"soak.sag-percent": 10, "soak.sag-cpu-percent": 95}[name],
            "within": lambda *words: diagnosed or said(json.dumps(DIAGNOSED)),
            "measure": lambda name, *words, **conditions: measured.append(name),
        }
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        function(**{name: given[name] for name in names})
        looks[id] = look
    return looks, measured


def bare() -> Scene:
    """A host without GPUs whose environment holds torch's CPU build."""

    def cpu(parts: Document) -> None:
        parts["expected"]["environment"]["build"] = "cpu"
        parts["report"]["torch"]["cuda"] = None

    return changed(reported.scene("none", asked=SCENE.asked), cpu)


def causes(looks: dict[str, Look]) -> dict[str, set[int | None]]:
    """Checks with findings that nothing else explains -> indexes of the components."""
    found: dict[str, set[int | None]] = {}
    for id, look in looks.items():
        for one in look.findings:
            if not one.because:
                found.setdefault(id, set()).add(one.component.index)
    return found


@pytest.mark.parametrize("cpu", [False, True], ids=["gpus", "cpu"])
def test_a_soak_in_which_all_holds_is_green(cpu: bool) -> None:
    of = bare() if cpu else SCENE
    gpus = of.report["nvml"]["gpus"]
    document = soak.read(said(soaked(gpus, cpu)), len(gpus) or 2)
    looks, measured = ask(document, of)
    without = {"soak.thermal", "soak.counters", "soak.dcgm"} if cpu else set()
    assert set(looks) == set(CHECKS) - without
    assert {look.verdict for look in looks.values()} == {"pass"}
    assert measured.count("soak.rate") == 24 * len(document["ranks"])  # bounded, however long


def test_checks_keep_the_contract() -> None:
    from tests.faulted import MATRIX

    assert len(CHECKS) == 7
    rows = {(row.check, row.fault, row.level) for row in MATRIX}
    for id, function in CHECKS.items():
        check = function.check
        assert id.startswith("soak.")
        assert check.level == "deep"
        assert "idle" in check.needs
        assert set(check.needs) <= NEEDS.keys()
        assert faults.parse(check.fault)
        assert (id, check.fault, "deep") in rows


def test_a_busy_host_bears_no_soak_and_no_diagnosis() -> None:
    busy = [{"id": "4711", "user": "trainer"}]
    of = changed(SCENE, lambda parts: parts["report"]["holders"].update(jobs=busy))
    for function in CHECKS.values():
        assert applies(function.check, of).kind == "not-run"


def test_without_dcgm_its_check_is_not_asked() -> None:
    for installed, running in ((False, False), (True, False)):
        found = {"installed": installed, "running": running, "error": ""}
        of = changed(SCENE, lambda parts, found=found: parts["report"].update(dcgm=found))
        assert applies(CHECKS["soak.dcgm"].check, of).kind == "not-asked"


def first(key: str, **values: Any) -> Change:
    """Rank 1 tells something else of a part."""

    def change(document: Document) -> None:
        document["ranks"][1][key].update(values)

    return change


def state(name: str, **more: Any) -> Change:
    return lambda document: document["ranks"][1].update({"state": name, "code": -9, **more})


def curve(**values: Any) -> Change:
    return lambda document: document["samples"]["gpus"][1].update(values)


WORD = {
    "pattern": "walking-ones 5", "offset": 64, "wrote": "0" * 15 + "1", "read": "0" * 16,
    "bits": "0" * 15 + "1", "at_s": 3.0,
}  # fmt: skip
SAGS = [[float(at), 640.0 if at < 60 else 500.0] for at in range(90)]


@pytest.mark.parametrize(
    ("change", "check", "verdict", "says"),
    [
        (state("died"), "soak.ended", "fail", "died (exit -9)"),
        (state("hung"), "soak.ended", "hung", "hangs"),
        (state("raised", error="CUDA error: x"), "soak.ended", "fail", "CUDA error"),
        (first("memory", wrong_words=3, wrong=[WORD]), "soak.memory", "fail", "3 in"),
        (first("compute", wrong_products=1), "soak.compute", "fail", "1 of 100000"),
        (first("compute", wrong_replays=2), "soak.compute", "fail", "2 of 500"),
        (first("compute", rates=SAGS), "soak.stable", "degraded", "22 % less"),
        (curve(hottest_c=89), "soak.thermal", "fail", "89 C"),
        (curve(reasons={"40": 7}), "soak.thermal", "fail", "thermal slowdown in 7 of 300"),
        (curve(reasons={"20": 7}), "soak.thermal", "degraded", "software thermal"),
    ],
)
def test_a_fault_is_found_at_its_gpu(change: Change, check: str, verdict: str, says: str) -> None:
    document = soaked()
    change(document)
    looks, _ = ask(soak.read(said(document), 8))
    assert causes(looks) == {check: {1}}
    finding = looks[check].findings[0]
    assert finding.verdict == verdict
    assert says in finding.found
    assert finding.component.uuid == GPUS[1]["uuid"]


def test_a_soak_that_somebody_ended_is_unknown_and_no_pass() -> None:
    document = soaked()
    document["why"] = "busy: python (pid 77) of alice"
    for one in document["ranks"]:
        one.update(state="stopped", seconds=30.0)
    looks, _ = ask(soak.read(said(document), 8))
    assert looks["soak.ended"].verdict == "not-run"
    assert "alice" in looks["soak.ended"].findings[0].found
    assert looks["soak.memory"].verdict == "pass"  # what was done until then was seen


def test_too_short_for_a_round_is_no_pass() -> None:
    document = soaked()
    document["ranks"][1]["memory"]["patterns"]["random"] = 0  # whatever it says of its rounds
    document["ranks"][1]["compute"] |= {"replays": 1, "rates": []}
    looks, _ = ask(soak.read(said(document), 8))
    for id in ("soak.memory", "soak.compute", "soak.stable"):
        assert looks[id].verdict == "not-run", id


@pytest.mark.parametrize(
    ("path", "value", "check", "verdict"),
    [
        ("ecc.uncorrected", 1, "soak.counters", "fail"),
        ("ecc.corrected", 5, "soak.counters", "degraded"),
        ("pcie.replays", 100, "soak.counters", "degraded"),
        ("remap.uncorrected", 1, "soak.counters", "fail"),
    ],
)
def test_a_counter_that_grows_is_a_finding(path: str, value: int, check: str, verdict: str) -> None:
    family, key = path.split(".")

    def grow(report: Document) -> None:
        report["nvml"]["gpus"][1][family][key] += value

    looks, _ = ask(soaked(), after=grow)
    assert causes(looks) == {check: {1}}
    assert looks[check].verdict == verdict


def test_an_xid_and_a_gpu_that_is_gone_after_the_soak() -> None:
    def xid(report: Document) -> None:
        line = {"slot": GPUS[1]["slot"].rpartition(".")[0], "code": 63, "time": "9", "line": "Xid"}
        report["log"]["xids"].append({**line})

    looks, _ = ask(soaked(), after=xid)
    assert causes(looks) == {"soak.counters": {1}}
    looks, _ = ask(soaked(), after=lambda report: report["nvml"]["gpus"].pop(1))
    assert causes(looks) == {"soak.counters": {1}}
    looks, _ = ask(soaked(), after=lambda report: report["nvml"].update(state="hung", error="x"))
    assert looks["soak.counters"].verdict == "not-run"


# ---- hostile answers


def cut(document: Document) -> Any:
    return f"GPUFLEET {json.dumps(document)}"[:400]


def twice(document: Document) -> Any:
    return f"GPUFLEET {json.dumps(document)}\n" * 2


def with_nan(document: Document) -> Any:
    document["ranks"][0]["compute"]["rates"] = [[1.0, float("nan")]]
    return f"GPUFLEET {json.dumps(document)}"


def early(document: Document) -> Any:
    document["ranks"][0]["seconds"] = 3.0
    return f"GPUFLEET {json.dumps(document)}"


def fewer(document: Document) -> Any:
    document["ranks"].pop()
    return f"GPUFLEET {json.dumps(document)}"


def stranger(document: Document) -> Any:
    document["ranks"][0]["state"] = "fine"
    return f"GPUFLEET {json.dumps(document)}"


def many(document: Document) -> Any:
    document["ranks"][0]["compute"]["rates"] = [[1.0, 1.0]] * 500
    return f"GPUFLEET {json.dumps(document)}"


@pytest.mark.parametrize("make", [cut, twice, with_nan, early, fewer, stranger, many])
def test_a_document_that_cannot_be_used_is_not_run(make: Callable[[Document], Any]) -> None:
    with pytest.raises(Unusable) as raised:
        soak.read(said(make(soaked())), 8)
    looks, _ = ask(raised.value)
    verdicts = {id: look.verdict for id, look in looks.items() if id != "soak.dcgm"}
    assert set(verdicts.values()) == {"not-run"}
    assert causes(looks) == {"soak.ended": {None}}


def test_a_payload_that_never_came_back_hung() -> None:
    with pytest.raises(Unusable) as raised:
        soak.read(said("", hung=True, rc=None), 8)
    looks, _ = ask(raised.value)
    assert looks["soak.ended"].verdict == "hung"


# ---- dcgmi


THREE = {
    "DCGM GPU Diagnostic": {
        "test_categories": [
            {"category": "Deployment", "tests": [
                {"name": "Denylist", "results": [{"gpu_ids": "0,1,2,3,4,5,6,7", "status": "PASS"}]},
                None,
            ]},
            {"category": "Hardware", "tests": [
                {"name": "GPU Memory", "results": [
                    {"gpu_ids": "0", "status": "PASS"},
                    {"gpu_ids": "1", "status": "FAIL", "warnings": ["3 errors"]},
                ]},
            ]},
        ],
        "version": "3.3.5",
    }
}  # fmt: skip


def test_both_forms_of_dcgm_are_read() -> None:
    looks, _ = ask(soaked(), diagnosed=said("WARNING: noise\n" + json.dumps(THREE), rc=226))
    assert causes(looks) == {"soak.dcgm": {1}}
    assert looks["soak.dcgm"].findings[0].found == "3 errors"
    four = copy.deepcopy(DIAGNOSED)
    memory = four["DCGM Diagnostic"]["test_categories"][0]["tests"][0]  # type: ignore[index]
    memory["results"][2] |= {
        "status": "Fail",
        "warnings": [{"warning": "persistence mode", "error_id": 29, "error_severity": 5}],
    }
    looks, _ = ask(soaked(), diagnosed=said(json.dumps(four), rc=226))
    assert causes(looks) == {"soak.dcgm": {2}}
    assert looks["soak.dcgm"].verdict == "degraded"  # a setting of the host, by DCGM's own word


@pytest.mark.parametrize(
    "out",
    [
        "",
        "Error: unable to establish a connection to the specified host: localhost",
        '{"DCGM Diagnostic": {"test_categories": [',
        '{"DCGM Diagnostic": {"runtime_error": "busy"}}',
        '{"DCGM Diagnostic": {"test_categories": {}}}',
        '{"DCGM Diagnostic": {"test_categories": []}}',
        '{"something": 1}',
        "[]",
        "{" + '"a":{' * 20_000,
        json.dumps(THREE).replace("PASS", "SUPERB"),
        json.dumps(THREE).replace('"0,1,2,3,4,5,6,7"', '"../../x"'),
    ],
)
def test_whatever_else_dcgm_prints_is_not_run(out: str) -> None:
    with pytest.raises(dcgm.Unreadable):
        dcgm.read(out)
    looks, _ = ask(soaked(), diagnosed=said(out, rc=1))
    assert looks["soak.dcgm"].verdict == "not-run"


def test_a_diagnosis_without_end_hangs() -> None:
    looks, _ = ask(soaked(), diagnosed=said("", rc=None, hung=True))
    assert looks["soak.dcgm"].verdict == "hung"
