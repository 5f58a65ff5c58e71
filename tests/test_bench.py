"""What is made of a run of the torch tier: green when all holds, red at the GPU that did wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests import reported
from tests.benched import benched, stopped
from tests.broken_bench import BROKEN, Broken, in_rings, set_in
from tests.faulted import bench as faulted
from tests.reported import changed
from tests.sim import faults
from tests.trained import said
from verify import bench, test_bench
from verify.applies import NEEDS, Scene, applies
from verify.checks import BY_NAME, Check, Component, Look
from verify.training import Document, Unusable

CHECKS = {value.check.id: value for value in vars(test_bench).values() if hasattr(value, "check")}
SCENE = reported.scene("hgx-h100", asked=reported.request(level="standard"))
GPUS = SCENE.report["nvml"]["gpus"]
ON_GPUS = {
    "bench.copies", "bench.peer", "bench.transport", "load.clocks", "load.pcie", "load.counters",
}  # fmt: skip


class NotAsked(Exception):  # noqa: N818 - an answer
    """What `not_asked` of verify/conftest.py comes to."""


class Asked:
    """Every check of the torch tier, asked of one document."""

    def __init__(self, document: Document | Unusable, of: Scene = SCENE) -> None:
        self.looks: dict[str, Look] = {}
        self.not_asked: dict[str, str] = {}
        self.figures: list[tuple[str, str, float, Component, dict[str, str]]] = []
        self.information: list[str] = []
        self.prints: list[tuple[str, str, str, Component]] = []
        for id, function in CHECKS.items():
            if applies(function.check, of).kind != "asked":
                continue
            look = Look(function.check)
            given: dict[str, Any] = {
                "benched": document,
                "scene": of,
                "gpus": of.report["nvml"]["gpus"],
                "look": look,
                "measure": self.measure,
                "inform": self.information.append,
                "fingerprint": lambda *words: self.prints.append(words),
                "not_asked": self.leave,
            }
            names = function.__code__.co_varnames[: function.__code__.co_argcount]
            try:
                function(**{name: given[name] for name in names})
            except NotAsked as reason:
                self.not_asked[id] = str(reason)
                continue
            self.looks[id] = look

    def measure(
        self, name: str, unit: str, value: float, part: Component, **conditions: object
    ) -> None:
        words = {key: str(one) for key, one in conditions.items()}
        self.figures.append((name, unit, value, part, words))

    def leave(self, reason: str) -> None:
        raise NotAsked(reason)

    @property
    def causes(self) -> dict[str, set[int | None]]:
        """Checks with findings that nothing else explains -> indexes of the components."""
        found: dict[str, set[int | None]] = {}
        for id, look in self.looks.items():
            for one in look.findings:
                if not one.because:
                    found.setdefault(id, set()).add(one.component.index)
        return found


def read(document: Document, ranks: int = 8, device: str = "cuda") -> Document:
    return bench.read(said(document), ranks, device)


def cpu_scene() -> Scene:
    """A host with GPUs whose environment holds torch's CPU build: as a simulated node."""

    def cpu(parts: dict[str, Any]) -> None:
        parts["expected"]["environment"]["build"] = "cpu"
        parts["report"]["torch"]["cuda"] = None

    return changed(SCENE, cpu)


# ---- green


def test_a_run_on_gpus_in_which_all_holds_is_green_and_measures_everything() -> None:
    asked = Asked(read(benched(GPUS)))
    assert set(asked.looks) == set(CHECKS)
    assert {look.verdict for look in asked.looks.values()} == {"pass"}
    names = {name for name, *_ in asked.figures}
    assert names == {
        "bench.matmul", "bench.copy", "bench.triad", "bench.host-to-device",
        "bench.device-to-host", "bench.peer", "bench.all-reduce", "bench.all-gather",
        "bench.reduce-scatter", "bench.all-to-all", "bench.seconds", "load.temperature",
        "load.power", "load.sm-clock",
    }  # fmt: skip
    peers = [one for one in asked.figures if one[0] == "bench.peer"]
    assert len(peers) == 56
    assert peers[0][4] == {"to": "1", "relation": "NV18"}
    assert asked.information == [
        "products in fp8 were left out: no fp8 before compute capability 8.9"
    ]
    assert len({key for key, *_ in asked.prints}) == 1
    assert len(asked.prints) == 16


def test_a_run_on_the_cpu_is_green_says_what_it_cannot_prove_and_asks_nothing_of_gpus() -> None:
    asked = Asked(read(benched([]), 2, "cpu"), cpu_scene())
    assert set(asked.looks) == set(CHECKS) - ON_GPUS
    assert asked.not_asked == dict.fromkeys(ON_GPUS, "torch is the CPU build: no GPU is loaded")
    assert {look.verdict for look in asked.looks.values()} == {"pass"}
    assert any(line.startswith("not proven on hardware: peer copies") for line in asked.information)
    assert "the torch tier ran reduced, on the CPU over gloo" in asked.information
    assert any("tell of the cache as well" in line for line in asked.information)
    assert all(conditions["device"] == "cpu" for *_, conditions in asked.figures)
    assert not {"bench.peer", "bench.host-to-device"} & {name for name, *_ in asked.figures}


def test_one_gpu_has_no_peer_and_no_collective_figure() -> None:
    alone = changed(SCENE, lambda parts: parts["report"]["nvml"].update(gpus=GPUS[:1]))
    asked = Asked(read(benched(GPUS[:1]), 1), alone)
    assert set(asked.not_asked) == {"bench.peer", "bench.transport", "bench.agrees"}
    assert len(asked.prints) == 2
    assert asked.causes == {}
    assert not any(name.startswith("bench.all") for name, *_ in asked.figures)


def test_checks_keep_the_contract() -> None:
    rows = {(row.check, row.fault) for row in faulted.ROWS}
    for id, function in CHECKS.items():
        check: Check = function.check
        assert id.startswith(("bench.", "load."))
        assert check.level == "standard"
        assert check.level not in BY_NAME
        assert {"idle", "torch"} <= set(check.needs) <= NEEDS.keys()
        assert faults.parse(check.fault)
        assert (id, check.fault) in rows
        assert check.claim.endswith(".")


# ---- red


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: f"{case.id} {case.says}")
def test_what_is_wrong_is_found_at_its_gpu_and_nothing_else_is(case: Broken) -> None:
    document = benched(GPUS)
    case.change(document)
    asked = Asked(read(document))
    assert asked.causes == {case.id: set(case.parts)}
    findings = [one for one in asked.looks[case.id].findings if not one.because]
    assert {one.verdict for one in findings} == {case.verdict}
    assert {one.action for one in findings} == {case.action}
    assert any(case.says in one.found for one in findings)
    for look in asked.looks.values():
        for one in look.findings:
            assert not one.because or asked.looks[one.because].findings


def test_every_check_has_a_red_case() -> None:
    assert {case.id for case in BROKEN} == set(CHECKS)


def test_a_gpu_that_died_is_the_one_cause_and_the_rest_are_consequences() -> None:
    document = benched(GPUS)
    BROKEN[0].change(document)
    document["load"]["gpus"] = [{**one, "samples": 0} for one in document["load"]["gpus"]]
    document["nccl"] = {}
    asked = Asked(read(document))
    assert asked.causes == {"bench.ended": {1}}
    # Ranks that were stopped say nothing that holds.
    assert all(look.verdict != "pass" for look in asked.looks.values())


def test_a_wrong_pair_names_both_gpus_and_what_is_between_them() -> None:
    document = benched(GPUS)
    next(one for one in BROKEN if one.id == "bench.peer").change(document)

    def translated(parts: dict[str, Any]) -> None:
        bridges = [{"slot": "0000:17:00.0", "redirects": True, "error": ""}]
        parts["report"]["iommu"] = {
            "gpus": [{"slot": GPUS[4]["slot"], "domain": "DMA", "bridges": bridges}],
            "error": "",
        }

    (finding,) = Asked(read(document), changed(SCENE, translated)).looks["bench.peer"].findings
    assert finding.what == "copies from GPU 4 to GPU 6"
    assert any(GPUS[4]["uuid"] in line and GPUS[6]["uuid"] in line for line in finding.evidence)
    assert any("domain" in line and "ACS redirects at 0000:17:00.0" in line
               for line in finding.evidence)  # fmt: skip


def test_rings_where_switches_reduce_are_degraded_with_nccls_own_reason() -> None:
    document = benched(GPUS)
    in_rings(document)
    (finding,) = Asked(read(document)).looks["bench.transport"].findings
    assert "NVLS" in finding.expected
    assert "NCCL: NVLS multicast support is not available" in finding.evidence


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (set_in("nccl", {}), "NCCL did not say"),
        (set_in("nccl/1", ["Channel 00 : 1[1] -> 0[0] via TELEPATHY/9"]), "no form that is known"),
        (set_in("load/relations", {}), "NVML does not say how"),
        (set_in("load", None), "NVML does not say how"),
    ],
)
def test_what_nccl_or_nvml_did_not_say_is_never_a_pass(
    change: Callable[[Document], None], says: str
) -> None:
    document = benched(GPUS)
    change(document)
    look = Asked(read(document)).looks["bench.transport"]
    assert look.verdict in ("not-run", "fail")
    assert any(says in one.found for one in look.findings if one.verdict == "not-run")


@pytest.mark.parametrize(
    ("state", "verdict"), [("failed", "not-run"), ("hung", "hung"), ("ok", "not-run")]
)
def test_load_that_was_not_sampled_is_no_pass(state: str, verdict: str) -> None:
    document = benched(GPUS)
    document["load"].update(state=state, error="NVML says no", gpus=[])
    asked = Asked(read(document))
    assert asked.looks["load.clocks"].verdict == verdict
    assert {one.because for one in asked.looks["load.pcie"].findings} == {"load.clocks"}
    assert asked.causes["load.clocks"] == set(range(8))


def test_a_cpu_that_pretends_is_asked_what_a_test_wants_and_gives_no_figures_of_it() -> None:
    document = benched([])
    gpu = benched(GPUS[:2])
    document |= {"load": gpu["load"], "pretended": ["clocks"], "perturbed": "clocks:1"}
    document["load"]["gpus"][1]["reasons"] = {"8": 4}
    asked = Asked(read(document, 2, "cpu"), cpu_scene())
    assert set(asked.not_asked) == ON_GPUS - {"load.clocks"}
    assert asked.causes == {"load.clocks": {1}}
    (finding,) = asked.looks["load.clocks"].findings
    assert finding.component.kind == "gpu"
    assert "perturbed on purpose: clocks:1" in finding.evidence
    assert not any(name.startswith("load.") for name, *_ in asked.figures)


# ---- figures


def test_bus_bandwidth_is_that_of_nccl_tests() -> None:
    # 8 ranks, 1 GiB in 4 ms: algorithm bandwidth 268.4 GB/s.
    assert bench.bus_bandwidth("all-reduce", 1 << 30, 8, 0.004) == pytest.approx(469.76, abs=0.01)
    for operation in ("all-gather", "reduce-scatter", "all-to-all"):
        assert bench.bus_bandwidth(operation, 1 << 30, 8, 0.004) == pytest.approx(234.88, abs=0.01)


def test_the_slowest_rank_gives_the_time_and_nccl_the_algorithm() -> None:
    document = read(benched(GPUS))
    assert bench.slowest(document)["all-reduce", 1 << 30] == pytest.approx(0.0047)
    figures = {
        (name, conditions["bytes"]): conditions
        for name, _, _, _, conditions in Asked(document).figures
        if "bytes" in conditions
    }
    large = figures["bench.all-reduce", str(1 << 30)]
    assert (large["algorithm"], large["transport"]) == ("nvls", "P2P/CUMEM")
    assert figures["bench.all-reduce", "65536"]["algorithm"] == "ring"
    assert figures["bench.all-to-all", "65536"]["algorithm"] == "unsaid"


def test_a_collective_that_not_all_ranks_timed_has_no_figure() -> None:
    document = benched(GPUS)
    del document["ranks"][3]["collectives"]["seconds"]["all-reduce 65536"]
    assert ("all-reduce", 65536) not in bench.slowest(read(document))


def test_what_makes_bits_comparable() -> None:
    document = read(benched(GPUS))
    key = bench.print_key(document["ranks"][0], document)
    assert key.startswith(f"{GPUS[0]['name']} | torch 2.13.0+cu130 cuda 13.0 cudnn 92000 | 0123")
    assert key.endswith("| cuda")
    cpu = read(benched([]), 2, "cpu")
    assert bench.print_key(cpu["ranks"][0], cpu).startswith("a processor 01234567 | torch")


def test_gpus_that_disagree_without_a_majority_are_all_named() -> None:
    document = benched(GPUS[:2])
    document["ranks"][1]["repeats"]["prints"]["training"] = "beef"
    two = changed(SCENE, lambda parts: parts["report"]["nvml"].update(gpus=GPUS[:2]))
    assert Asked(read(document, 2), two).causes["bench.agrees"] == {0, 1}


def test_what_gloo_does_not_have_is_said_on_the_cpu_and_never_a_pass_on_gpus() -> None:
    def without(document: Document) -> Document:
        for rank in document["ranks"]:
            found = rank["collectives"]
            for name in [one for one in found["compared"] if one.startswith("all-to-all")]:
                del found["compared"][name], found["seconds"][name]
                found["left_out"][name] = "gloo does not support it"
        return document

    cpu = Asked(read(without(benched([])), 2, "cpu"), cpu_scene())
    assert cpu.looks["bench.collectives"].verdict == "pass"
    assert "not proven: all-to-all on the CPU: gloo does not support it" in cpu.information
    gpus = Asked(read(without(benched(GPUS))))
    assert gpus.looks["bench.collectives"].verdict == "not-run"


# ---- bad documents


def broken_text(document: Document) -> dict[str, str]:
    """Documents of a payload that went wrong, by how."""
    text = said(document)["out"]
    return {
        "truncated": text[: len(text) // 2],
        "interleaved": text[:900] + "NCCL WARN something\n" + text[900:],
        "twice": text + text,
        "nothing": "",
        "huge": text + "x" * 1_000_001,
        "not a number": text.replace("600.0", "NaN", 1),
        "infinite": text.replace("600.0", "Infinity", 1),
        "enormous": text.replace("600.0", "1e300", 1),
        "another schema": text.replace('"schema": 1', '"schema": 2', 1),
        "another world": text.replace('"world": 8', '"world": 7', 1),
        "another device": text.replace('"asked_device": "cuda"', '"asked_device": "cpu"', 1),
        "text for a number": text.replace("600.0", '"fast"', 1),
        "an unknown entry": text.replace('"schema": 1', '"schema": 1, "verdict": "pass"', 1),
        "deep": 'GPUFLEET {"schema":' + "[" * 100_000 + "\n",
        "relations of no pair": text.replace('"0-1"', '"0-x"', 1),
        "a peer that is not there": text.replace('"to": 1,', '"to": 99,', 1),
        "a rank that is not there": text.replace('"nccl": {"0"', '"nccl": {"88"', 1),
        "an unknown state": text.replace('"state": "ended"', '"state": "fine"', 1),
    }


@pytest.mark.parametrize("how", broken_text(benched(GPUS)))
def test_a_document_that_cannot_be_used_is_not_run_with_the_reason(how: str) -> None:
    text = broken_text(benched(GPUS))[how]
    with pytest.raises(Unusable) as caught:
        bench.read(said(text), 8, "cuda")
    asked = Asked(caught.value)
    assert {look.verdict for look in asked.looks.values()} == {"not-run"}
    assert asked.causes == {"bench.ended": {None}}
    assert asked.figures == []
    assert len(str(caught.value)) < 400


def test_a_rank_that_ended_without_a_part_is_no_pass() -> None:
    document = benched(GPUS)
    del document["ranks"][2]["repeats"]
    with pytest.raises(Unusable, match="without having done everything"):
        read(document)
    document = benched(GPUS)
    stopped(document["ranks"][2], "repeats", state="lost")
    with pytest.raises(Unusable, match="none failed"):
        read(document)


def test_a_payload_that_hung_or_failed_is_named() -> None:
    with pytest.raises(Unusable) as caught:
        bench.read(said("", hung=True, stage="peer"), 8, "cuda")
    assert Asked(caught.value).looks["bench.ended"].verdict == "hung"
    with pytest.raises(Unusable, match="exit 3"):
        bench.read(said("", rc=3, err="no torch"), 8, "cuda")


def test_json_of_the_document_stays_below_what_is_read() -> None:
    assert len(json.dumps(benched(GPUS))) < 200_000
