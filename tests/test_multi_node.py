"""Training across hosts without any: who takes part, what documents come to, who is blamed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.fleet.inventory import Fleet, Host
from deploy.fleet.runs import Run
from deploy.fleet.spec import NodeSpec
from tests import reported
from tests.reported import changed
from tests.trained import rank as trained_rank
from tests.trained import said
from verify import nodes, test_nodes
from verify.applies import applies
from verify.checks import MARK, Look
from verify.multi import run
from verify.multi.claims import NODES
from verify.multi.judging import Trained
from verify.multi.team import Member, meeting, team
from verify.results import HostResult
from verify.runner import Answer, Question
from verify.training import Document, Unusable

HOSTS = ("n-01", "n-02", "n-03", "n-04")
SCENE = reported.scene("hgx-h100", asked=reported.request(level="multi-node"))
TRAINED = {
    f"{one} {dtype}": 1000
    for one in (
        "all_reduce sum", "all_reduce min", "all_reduce max", "broadcast", "all_gather",
        "reduce_scatter", "all_to_all",
    )
    for dtype in ("float32", "float64", "int32", "int64", "float16")
}  # fmt: skip


def member(name: str, **changes: Any) -> Member:
    known = {"address": f"10.0.0.{name[-1]}", "ranks": 1, "device": "cpu", "torch": "2.13.0+cpu"}
    return Member(**{"name": name, "ports": (4001, 4002), "rdma": 0, **known, **changes})


def ranks_of(name: str, at: int) -> list[Document]:
    """One healthy rank of a host, as train_nodes.py tells it."""
    one = trained_rank(at, None)
    for key in ("state", "cnn", "libraries"):
        del one[key]
    del one["transformer"]["gradient"]
    one["collectives"]["compared"] = dict(TRAINED)
    one |= {"local": 0, "bandwidth": [{"bytes": 1024, "seconds": 0.1, "bus_gbs": 0.5}]}
    return [one]


def document(name: str, at: int, asked: Document) -> Document:
    return {
        "schema": 1, "host": name, "id": asked["id"], "nodes": asked["nodes"], "device": "cpu",
        "limit_s": 120.0, "seconds": 20.0, "perturbed": "",
        "network": {"address": f"10.0.0.{at}", "interface": "eth0", "error": ""},
        "agent": {"code": 0, "error": "", "stderr": ""},
        "run": {
            "user": "alice", "torch": "2.13.0+cpu", "backend": "gloo", "world": asked["nodes"],
            "choices": 32, "entropy": 1.157, "deviation": 1.9,
        },
        "nccl": [],
        "ranks": ranks_of(name, at),
    }  # fmt: skip


def hung(of: Document, **changes: Any) -> None:
    """A host whose rank did not come out of a collective."""
    (one,) = of["ranks"]
    for part in nodes.PARTS:
        one.pop(part)
    one.update(ended=False, gone=False, stage="collectives", at="all_reduce", inside=True, calls=9)
    one.update(collective="gloo:all_reduce", sequence=7, stack=["a.py:1 f"])
    one.update(changes)


def test_of(names: tuple[str, ...], change: Callable[[dict[str, Document]], None]) -> Trained:
    members = {name: member(name) for name in names}
    asked = meeting(members.values(), "word", 0)
    documents = {name: document(name, at, asked[name]) for at, name in enumerate(names)}
    change(documents)
    for name, one in documents.items():
        documents[name] = nodes.parse(json.dumps(one), asked[name])
    return Trained(members, documents, {})


def causes(test: Trained) -> dict[str, set[str]]:
    """Host -> checks with findings that stand for themselves."""
    return {
        name: {
            check.id
            for check in test.judged(name, [])[0]
            if any(not one.because for one in check.findings)
        }
        for name in test.members
    }


test_of.__test__ = False  # type: ignore[attr-defined]

# ---- what documents come to


def test_a_run_in_which_all_holds_is_green() -> None:
    test = test_of(HOSTS, lambda documents: None)
    assert test.passed
    assert set().union(*causes(test).values()) == set()
    checks, not_asked = test.judged("n-01", [])
    assert {one.verdict for one in checks} == {"pass"}
    assert all(one.looked_at for one in checks)
    assert {one.id for one in not_asked} == {"nodes.transport"}
    (figure,) = test.measured("n-02")
    assert (figure.name, figure.unit, figure.value) == ("bench.all-reduce", "GB/s", 0.5)
    assert figure.conditions["world"] == "4"


def of_second(change: Callable[[Document], None]) -> Callable[[dict[str, Document]], None]:
    return lambda documents: change(documents["n-02"]["ranks"][0])


RED: dict[str, tuple[Callable[[Document], None], str]] = {
    "wrong element": (
        lambda one: one["collectives"].update(wrong_elements=1), "nodes.collectives",
    ),
    "not compared": (
        lambda one: one["collectives"]["compared"].pop("broadcast int64"), "nodes.collectives",
    ),
    "gradient": (lambda one: one["gradients"].update(received_wrong=1), "nodes.gradients"),
    "not exact": (lambda one: one["gradients"].update(largest=2**24), "nodes.gradients"),
    "parameters": (
        lambda one: one["transformer"].update(digest="00", replayed="00"), "nodes.parameters",
    ),
    "loss": (lambda one: one["transformer"]["loss"].update(last=3.4), "nodes.loss"),
    "no loss": (lambda one: one["transformer"]["loss"].update(last=None), "nodes.loss"),
    "no bandwidth": (lambda one: one.update(bandwidth=[]), "nodes.bandwidth"),
}  # fmt: skip


@pytest.mark.parametrize("name", RED)
def test_what_is_wrong_on_one_host_is_found_there(name: str) -> None:
    change, check = RED[name]
    test = test_of(HOSTS, of_second(change))
    assert not test.passed
    assert causes(test) == {"n-01": set(), "n-02": {check}, "n-03": set(), "n-04": set()}


def test_a_hang_names_rank_host_collective_number_and_stack() -> None:
    def all_wait(documents: dict[str, Document]) -> None:
        for one in documents.values():
            hung(one)
        hung_one = documents["n-03"]["ranks"][0]
        hung_one.update(inside=False, at="prepares all_reduce", calls=8, sequence=6, steps=12)

    test = test_of(HOSTS, all_wait)
    assert not test.passed
    ended = {name: test.judged(name, [])[0][0] for name in HOSTS}
    (found,) = ended["n-03"].findings
    assert found.verdict == "hung"
    assert found.evidence[0] == "rank 2 of 4 on n-03, cpu"
    assert found.evidence[1].startswith("before call 9 for the other ranks (prepares all_reduce)")
    assert "gloo:all_reduce, sequence number 6" in found.evidence[1]
    assert found.evidence[2] == "  a.py:1 f"
    (lost,) = ended["n-01"].findings
    assert lost.verdict == "not-run"
    assert "rank 2 of 4 on n-03" in lost.found


def test_a_bandwidth_below_what_the_site_wants_is_a_failed_test() -> None:
    test = test_of(HOSTS, lambda documents: None)
    test.least_gbs = 40.0
    assert not test.passed
    assert set().union(*causes(test).values()) == {"nodes.bandwidth"}


def test_a_host_that_says_nothing_is_the_cause() -> None:
    test = test_of(HOSTS, lambda documents: None)
    silent = Trained(
        test.members,
        {name: one for name, one in test.documents.items() if name != "n-04"},
        {"n-04": "no answer within 240 s"},
    )
    assert not silent.passed
    assert "no answer within 240 s" in silent.culprits()[0]


def test_a_name_that_leads_nowhere_is_the_hosts_own_fault() -> None:
    """torchrun ends with a bare gaierror where the host does not know its own name."""

    def blind(documents: dict[str, Document]) -> None:
        for name, one in documents.items():
            (rank,) = one["ranks"]
            for part in nodes.PARTS:
                rank.pop(part)
            rank.update(
                ended=False, gone=False, rank=None, pid=0, device=None, stage="start", steps=0,
                inside=False, calls=0,
            )  # fmt: skip
            error = "RendezvousTimeoutError: x" if name != "n-02" else ""
            one["agent"].update(
                code=1, error=error or "socket.gaierror: [Errno -2] Name or service not known"
            )

    test = test_of(HOSTS, blind)
    assert [one for one in test.culprits() if "n-02" not in one] == []


NCCL = "n-01:1:2 [0] NCCL INFO Channel 00/0 : {a}[0] -> {b}[0] [send] via NET/{net}/0"


@pytest.mark.parametrize(
    ("net", "rdma", "verdict"),
    [
        ("IB", 8, "degraded"),  # no GDRDMA
        ("Socket", 8, "fail"),
        ("Socket", 0, "pass"),
        ("nonsense", 8, "pass"),
    ],
)
def test_nccl_must_use_the_ports_that_are_there(net: str, rdma: int, verdict: str) -> None:
    """On captured forms (verify/nccl_log.py): not proven on hardware."""
    members = {name: member(name, rdma=rdma, device="cuda") for name in HOSTS[:2]}
    asked = meeting(members.values(), "word", 0)
    documents = {name: document(name, at, asked[name]) for at, name in enumerate(members)}
    for one in documents.values():
        one["run"]["backend"] = "nccl"
        one["nccl"] = [NCCL.format(a=0, b=1, net=net), NCCL.format(a=1, b=0, net=net)]
    test = Trained(members, documents, {})
    checks = {one.id: one for one in test.judged("n-01", [])[0]}
    assert checks["nodes.transport"].verdict == verdict
    assert test.passed, "the way that data take is no reason to look for a bad host"


# ---- hostile documents

ASKED = meeting([member(name) for name in HOSTS], "word", 0)["n-01"]
WHOLE = document("n-01", 0, ASKED)


def broken(**changes: Any) -> str:
    return json.dumps({**copy.deepcopy(WHOLE), **changes})


def ranks_with(**changes: Any) -> str:
    return broken(ranks=[{**copy.deepcopy(WHOLE["ranks"][0]), **changes}])


HOSTILE = {
    "truncated": (json.dumps(WHOLE)[:-100], "no JSON"),
    "not a number": (json.dumps(WHOLE).replace("0.5", "NaN"), "no JSON"),
    "schema": (broken(schema=2), "another schema"),
    "another run": (broken(id="other"), "of another run"),
    "another size": (broken(nodes=3), "of another run"),
    "more ranks": (broken(ranks=WHOLE["ranks"] * 2), "other ranks than the 1"),
    "stage": (ranks_with(stage="<script>"), "nobody knows"),
    "unknown entry": (ranks_with(surprise=1), "nobody knows"),
    "ended with nothing": (ranks_with(ended=True, rank=None), "as nobody"),
    "bandwidth": (
        ranks_with(bandwidth=[{"bytes": 1, "seconds": 0.1, "bus_gbs": -1.0}]), "cannot be",
    ),
    "huge": (broken(host="x" * 10_000), "10000 characters"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_document_is_refused_with_the_reason(name: str) -> None:
    text, why = HOSTILE[name]
    with pytest.raises(Unusable, match=why):
        nodes.parse(text, ASKED)


# ---- on the host


def ask_host(check: Any, of: Any = SCENE, **given: Any) -> tuple[Look, list[Any]]:
    look, kept = Look(check.check), []
    known = {
        "report": of.report, "scene": of, "look": look, "bundle": "/b", "python": "/env/python",
        "measure": lambda *words, **more: kept.append((*words, more)),
        "hand_over": kept.append,
        **given,
    }  # fmt: skip
    names = check.__code__.co_varnames[: check.__code__.co_argcount]
    check(**{name: known[name] for name in names})
    return look, kept


def test_a_host_that_is_ready_says_with_how_many_ranks() -> None:
    look, [(name, unit, ranks, _, told)] = ask_host(test_nodes.test_ready)
    assert look.verdict == "pass"
    assert (name, unit, ranks) == ("nodes.ranks", "ranks", 8)
    assert told["device"] == "cuda"
    assert len(set(told["ports"].split())) == test_nodes.PORTS
    assert told["rdma"] == 8


def test_a_host_that_cannot_resolve_its_own_name_is_not_ready() -> None:
    def nameless(parts: dict[str, Any]) -> None:
        parts["report"]["self_name"].update(addresses=[], error="Name or service not known")

    look, _ = ask_host(test_nodes.test_ready, changed(SCENE, nameless))
    assert look.verdict == "fail"
    assert "Name or service not known" in look.findings[0].found


def test_a_busy_host_is_left_alone_and_says_why() -> None:
    def busy(parts: dict[str, Any]) -> None:
        parts["report"]["holders"].update(jobs=[{"id": "4711", "user": "trainer"}])

    for check in (test_nodes.test_ready, test_nodes.test_took_part):
        found = applies(check.check, changed(with_rendezvous(), busy))  # type: ignore[attr-defined]
        assert found.kind == "not-run"
        assert "job 4711 of trainer" in found.reason
    assert applies(test_nodes.test_took_part.check, SCENE).kind == "not-asked"  # type: ignore[attr-defined]


def with_rendezvous() -> Any:
    return changed(SCENE, lambda parts: parts["asked"].update(rendezvous=dict(ASKED)))


def test_the_part_of_a_host_is_started_and_handed_on() -> None:
    started = []

    def train(seconds: float, *command: str) -> Document:
        started.append((seconds, command))
        return {**said(MARK + json.dumps(WHOLE) + "\n"), "user": "alice"}

    look, kept = ask_host(test_nodes.test_took_part, with_rendezvous(), train=train)
    assert look.verdict == "pass"
    assert json.loads(kept[0]) == WHOLE
    [(seconds, command)] = started
    assert seconds > ASKED["limit"]
    assert {"--device=cuda", "--nodes=4", "--id=word", "--serve"} <= set(command)

    def stuck(seconds: float, *command: str) -> Document:
        return {**said("", rc=None, hung=True, stage="collectives"), "user": "alice"}

    look, kept = ask_host(test_nodes.test_took_part, with_rendezvous(), train=stuck)
    assert look.verdict == "hung"
    assert kept == []


# ---- who takes part


def result(name: str, level: str = "multi-node", **changes: Any) -> HostResult:
    values = {
        "schema": 1, "nonce": "x", "host": name, "hostname": name, "boot_id": "b", "started": "",
        "seconds": 1.0, "level": level, "bundle": "b", "python": "3.11", "user": "root",
        "simulated": True, "expected_from": "none", "stack": "", "gpus": (), "busy": (),
        "checks": (), "not_asked": (),
    }  # fmt: skip
    return HostResult.model_validate({**values, **changes})


def ready(name: str, torch: str = "2.13.0+cpu", **changes: Any) -> Answer:
    check = {
        "id": "nodes.ready", "claim": "x", "level": "multi-node", "verdict": "pass",
        "seconds": 0.1, "looked_at": 2,
    }  # fmt: skip
    told = {"torch": torch, "device": "cpu", "ports": "4001 4002 x", "rdma": "0"}
    figure = {
        "name": "nodes.ranks", "unit": "ranks", "value": 1.0, "component": {}, "conditions": told,
    }  # fmt: skip
    made = result(name, checks=(check,), measurements=(figure,))
    return Answer(name, result=made.model_copy(update=changes))


def test_who_cannot_take_part_is_listed_with_the_reason() -> None:
    busy = {
        "component": {}, "verdict": "not-run", "what": "this check", "found": "busy: job 4711",
        "expected": "", "action": "keep", "baseline": "claim",
    }  # fmt: skip
    check = {**ready("n").result.checks[0].model_dump(), "verdict": "not-run"}  # type: ignore[union-attr]
    answers = [
        ready("n-01"),
        ready("n-02"),
        ready("n-03", torch="2.12.0+cpu"),
        Answer("n-04", silence="unreachable", message="n-04: no route"),
        Answer("n-05", result=result("n-05", checks=({**check, "findings": (busy,)},))),
        Answer(
            "n-06",
            result=result("n-06", not_asked=({"id": "nodes.ready", "reason": "no environment"},)),
        ),
        ready("n-07", measurements=()),
    ]
    able, left = team(answers, {one.host: one.host for one in answers})
    assert list(able) == ["n-01", "n-02"]
    assert able["n-01"].ports == (4001, 4002)
    assert "2.12.0" in left["n-03"]
    assert left["n-04"] == "n-04: no route"
    assert "busy: job 4711" in left["n-05"]
    assert left["n-06"] == "no environment"
    assert "how many ranks" in left["n-07"]


def test_one_serves_and_another_at_the_next_turn() -> None:
    some = [member(name) for name in HOSTS]
    for turn in (0, 1):
        asked = meeting(some, "word", turn)
        serving = [name for name, one in asked.items() if one["serve"]]
        assert serving == [HOSTS[turn]]
        assert {one["endpoint"] for one in asked.values()} == {f"10.0.0.{turn + 1}:{4001 + turn}"}


# ---- the whole, with hosts that are played


class Played:
    """Stands for ask_all: hosts answer as told, `bad` ones hang, `links` hang together."""

    def __init__(self, bad: tuple[str, ...] = (), links: tuple[tuple[str, str], ...] = ()) -> None:
        self.bad, self.links = set(bad), [set(one) for one in links]
        self.dead: set[str] = set()

    def __call__(self, fleet: Fleet, question: Question) -> Iterator[Answer]:
        if question.checks == ("nodes.ready",):
            yield from (ready(name) for name in fleet.hosts)
            return
        groups: dict[object, list[str]] = {}
        for name, one in question.rendezvous.items():
            groups.setdefault(one["id"], []).append(name)
        for names in groups.values():
            fails = self.bad | self.dead
            fails = bool(set(names) & fails) or any(one <= set(names) for one in self.links)
            for at, name in enumerate(names):
                if name in self.dead:
                    yield Answer(name, silence="unreachable", message=f"{name}: no route to host")
                    continue
                one = document(name, at, question.rendezvous[name])
                if fails:
                    hung(one)
                took = {
                    "id": "nodes.took-part", "claim": "x", "level": "multi-node",
                    "verdict": "pass", "seconds": 1.0, "looked_at": 1,
                }  # fmt: skip
                made = result(name, checks=(took,), document=json.dumps(one))
                yield Answer(name, result=made)


@pytest.fixture
def across(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[Played, int], dict[str, Answer]]:
    def asked(played: Played, count: int) -> dict[str, Answer]:
        monkeypatch.setattr(run, "ask_all", played)
        names = [f"n-{at:02}" for at in range(1, count + 1)]
        hosts = {name: Host(name, (), NodeSpec(), {}) for name in names}
        fleet = Fleet("lab", None, hosts)
        question = Question(
            level="multi-node", checks=(), asked=frozenset(), known=frozenset(),
            expected=dict.fromkeys(names), accept_hardware=False, bundle=None,  # type: ignore[arg-type]
        )  # fmt: skip
        record = Run(tmp_path, ["gpufleet", "verify"], inventory="lab.py", hosts=names)
        return {one.host: one for one in run.ask_across(fleet, question, record)}

    return asked


Asked = Callable[[Played, int], dict[str, Answer]]


def verdicts(answers: dict[str, Answer], id: str) -> dict[str, str]:
    return {
        name: check.verdict
        for name, answer in answers.items()
        for check in answer.result.checks  # type: ignore[union-attr]
        if check.id == id
    }


def findings(answers: dict[str, Answer]) -> dict[str, set[str]]:
    """Host -> checks with findings that stand for themselves."""
    return {
        name: {
            check.id
            for check in answer.result.checks  # type: ignore[union-attr]
            if any(not one.because for one in check.findings)
        }
        for name, answer in answers.items()
    }


def test_a_healthy_fleet_is_green_and_every_claim_is_there(across: Asked) -> None:
    found = across(Played(), 4)
    assert set().union(*findings(found).values()) == set()
    for answer in found.values():
        assert answer.result is not None
        checks = {one.id for one in answer.result.checks}
        not_asked = {one.id for one in answer.result.not_asked}
        assert checks | not_asked >= {one.id for one in NODES} | {"nodes.ready", "nodes.took-part"}
        assert not checks & not_asked
        assert not answer.result.document


@pytest.mark.parametrize("count", [3, 5, 9])
def test_a_bad_host_is_named_and_the_others_are_green(across: Asked, count: int) -> None:
    found = across(Played(bad=("n-02",)), count)
    named = findings(found)
    assert named.pop("n-02") == {"nodes.host"}
    assert set().union(*named.values()) == set()
    (finding,) = next(one for one in found["n-02"].result.checks if one.id == "nodes.host").findings  # type: ignore[union-attr]
    assert finding.action == "drain"
    assert "fails with each of n-" in finding.found
    assert finding.evidence
    assert verdicts(found, "nodes.ended")["n-01"] == "pass"


def test_a_bad_link_is_named_at_both_ends(across: Asked) -> None:
    found = across(Played(links=(("n-01", "n-04"),)), 5)
    named = findings(found)
    assert named.pop("n-01") == named.pop("n-04") == {"nodes.link"}
    assert set().union(*named.values()) == set()


def test_a_host_that_dies_is_named_with_what_it_did_not_answer(across: Asked) -> None:
    played = Played()
    played.dead = {"n-03"}
    found = across(played, 4)
    named = findings(found)
    assert named.pop("n-03") == {"nodes.host"}
    assert set().union(*named.values()) == set()
    (finding,) = next(one for one in found["n-03"].result.checks if one.id == "nodes.host").findings  # type: ignore[union-attr]
    assert "no route to host" in finding.found


@pytest.mark.parametrize(("count", "bad"), [(2, ("n-01",)), (3, ("n-01", "n-02", "n-03"))])
def test_where_nobody_is_known_to_be_good_that_is_said(
    across: Asked, count: int, bad: tuple[str, ...]
) -> None:
    found = across(Played(bad=bad), count)
    for name in found:
        host = next(one for one in found[name].result.checks if one.id == "nodes.host")  # type: ignore[union-attr]
        assert host.verdict == "not-run"
        assert "nobody is known to be good" in host.findings[0].found


def test_one_host_alone_is_not_asked_to_train_across_hosts(across: Asked) -> None:
    (answer,) = across(Played(), 1).values()
    assert answer.result is not None
    ended = next(one for one in answer.result.checks if one.id == "nodes.ended")
    assert ended.verdict == "not-run"
