"""What is made of a training run: green when all holds, red at the rank and GPU that failed."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from tests import reported
from tests.reported import Host, changed
from tests.sim import faults
from tests.trained import said, stopped, trained
from verify import test_training, training
from verify.applies import NEEDS, Scene, applies
from verify.checks import Check, Component, Look
from verify.results import Finding
from verify.told_ranks import cuda_wanted, usable_gpus
from verify.training import Document, Unusable, odd_ones, read

CHECKS = {
    value.check.id: value for value in vars(test_training).values() if hasattr(value, "check")
}
SCENE = reported.scene("hgx-h100", asked=reported.request(level="standard"))
GPUS = SCENE.report["nvml"]["gpus"]
PYTHON = f"{reported.ENVIRONMENT}/bin/python"


def ask(
    document: Document | Unusable, of: Scene = SCENE, there: Host | None = None
) -> dict[str, Look]:
    """Every check of the training, by its id."""
    looks = {}
    for id, function in CHECKS.items():
        if applies(function.check, of).kind != "asked":
            continue
        look = Look(function.check)
        given = {
            "trained": document,
            "scene": of,
            "gpus": of.report["nvml"]["gpus"],
            "look": look,
            "host": there or Host(),
            "python": PYTHON,
            "measure": lambda *words, **conditions: None,
        }
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        function(**{name: given[name] for name in names})
        looks[id] = look
    return looks


def cpu_scene() -> Scene:
    """A host without GPUs whose environment holds torch's CPU build."""

    def cpu(parts: dict[str, Any]) -> None:
        parts["expected"]["environment"]["build"] = "cpu"
        parts["report"]["torch"]["cuda"] = None
        parts["report"]["nvml"]["gpus"] = []

    return changed(SCENE, cpu)


def causes(looks: dict[str, Look]) -> dict[str, set[int | None]]:
    """Checks with findings that nothing else explains -> indexes of the components."""
    found: dict[str, set[int | None]] = {}
    for id, look in looks.items():
        for one in look.findings:
            if not one.because:
                found.setdefault(id, set()).add(one.component.index)
    return found


# ---- green


@pytest.mark.parametrize("cpu", [False, True], ids=["gpus", "cpu"])
def test_a_run_in_which_all_holds_is_green(cpu: bool) -> None:
    of = cpu_scene() if cpu else SCENE
    gpus = of.report["nvml"]["gpus"]
    looks = ask(read(said(trained(gpus)), len(gpus) or 2), of)
    assert set(looks) == (set(CHECKS) - {"train.libraries"} if cpu else set(CHECKS))
    assert {look.verdict for look in looks.values()} == {"pass"}


def test_checks_keep_the_contract() -> None:
    assert len(CHECKS) == 7
    for id, function in CHECKS.items():
        check: Check = function.check
        assert id.startswith("train.")
        assert check.level == "standard"
        assert set(check.needs) <= NEEDS.keys()
        assert "idle" in check.needs
        assert faults.parse(check.fault)


def test_every_rank_is_a_gpu_by_its_uuid_and_a_rank_of_the_cpu_itself() -> None:
    document = trained(GPUS)
    document["ranks"][2]["device"]["index"] = 7
    assert training.component(document["ranks"][2], GPUS).index == 2
    assert training.component(document["ranks"][2], GPUS).kind == "gpu"
    rank = trained([])["ranks"][1]
    assert training.component(rank, []) == Component(kind="rank", name="cpu", index=1)


def test_speeds_of_each_rank_are_measured_and_no_others() -> None:
    kept: list[tuple[str, float, Component]] = []

    def measure(name: str, unit: str, value: float, component: Component, **more: object) -> None:
        kept.append((name, value, component))

    document = trained(GPUS)
    stopped(document["ranks"][1], "cnn", state="died", code=-9)
    look = Look(CHECKS["train.ended"].check)
    test_training.test_ended(document, GPUS, look, measure)
    assert {component.index for _, _, component in kept} == {0, 2, 3, 4, 5, 6, 7}
    assert ("train.transformer", 1000.0, training.component(document["ranks"][0], GPUS)) in kept


# ---- red


def wrong(index: int, source: int | None) -> Document:
    """One wrong element of a collective, as the payload tells it."""
    return {
        "operation": "all_gather float32", "length": 1023, "turn": 0, "elements": 1,
        "index": index, "found": 8.0, "wanted": 7.0, "source": source,
    }  # fmt: skip


def received(rank: Document) -> None:
    """A wrong element that only this rank got."""
    rank["collectives"]["wrong_elements"] = 1
    rank["collectives"]["wrong"] = [wrong(5, None)]


FAULTY: dict[str, tuple[Callable[[Document], None], dict[str, set[int]]]] = {
    "died": (lambda r: stopped(r, "collectives", state="died", code=-9), {"train.ended": {3}}),
    "raised": (
        lambda r: stopped(r, "cnn", state="raised", error="RuntimeError: CUDA error: ECC"),
        {"train.ended": {3}},
    ),
    "hung": (lambda r: stopped(r, "start", state="hung", device=None), {"train.ended": {3}}),
    "wrong element received": (received, {"train.collectives": {3}}),
    "not compared": (
        lambda r: r["collectives"]["compared"].pop("all_to_all bfloat16"),
        {"train.collectives": {3}},
    ),
    "wrong gradient": (
        lambda r: r["gradients"].update(received_wrong=1), {"train.gradients": {3}},
    ),
    "wrong gradient sent": (
        lambda r: r["gradients"].update(sent_wrong=2), {"train.gradients": {3}},
    ),
    "computes otherwise": (
        lambda r: r["gradients"].update(reference="0000"), {"train.gradients": {3}},
    ),
    "not exact": (lambda r: r["gradients"].update(largest=2**24), {"train.gradients": {3}}),
    "far from single": (
        lambda r: r["cnn"]["gradient"].update(relative=1e-3), {"train.gradients": {3}},
    ),
    "no number": (
        lambda r: r["cnn"]["gradient"].update(relative=None), {"train.gradients": {3}},
    ),
    "other parameters": (
        lambda r: r["transformer"].update(digest="00", replayed="00"), {"train.parameters": {3}},
    ),
    "learns nothing": (
        lambda r: r["transformer"]["loss"].update(last=3.4), {"train.loss": {3}},
    ),
    "loss that cannot be": (
        lambda r: r["transformer"]["loss"].update(last=0.5), {"train.loss": {3}},
    ),
    "loss is no number": (lambda r: r["cnn"]["loss"].update(last=None), {"train.loss": {3}}),
    "foreign library": (
        lambda r: r["libraries"].update({"libcudnn.so.9": "/usr/lib/libcudnn.so.9"}),
        {"train.libraries": {3}},
    ),
    "maps no NCCL": (lambda r: r["libraries"].pop("libnccl.so.2"), {"train.libraries": {3}}),
    "on another's GPU": (
        lambda r: r["device"].update(uuid=GPUS[4]["uuid"]), {"train.backend": {3, 4}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTY)
def test_what_is_wrong_is_found_at_its_gpu_and_nowhere_else(name: str) -> None:
    change, expected = FAULTY[name]
    document = trained(GPUS)
    change(document["ranks"][3])
    looks = ask(read(said(document), 8))
    assert causes(looks) == expected
    for look in looks.values():
        for one in look.document():
            Finding.model_validate(json.loads(json.dumps(one)))


def test_a_failed_rank_is_told_with_stage_and_evidence_and_the_lost_ones_as_consequences() -> None:
    document = trained(GPUS)
    document["perturbed"] = "die:3"
    for rank in document["ranks"]:
        stopped(rank, "collectives", state="lost")
    document["ranks"][3].update(state="died", code=-11, stderr="one\nSegmentation fault\n")
    looks = ask(read(said(document), 8))
    assert causes(looks) == {"train.ended": {3}}
    (died,) = [one for one in looks["train.ended"].findings if not one.because]
    assert died.verdict == "fail"
    assert died.component.uuid == GPUS[3]["uuid"]
    assert died.found == "died of signal 11 in stage collectives (begins)"
    assert "Segmentation fault" in died.evidence
    assert "perturbed on purpose: die:3" in died.evidence
    assert len(looks["train.ended"].findings) == 8
    consequences = [one for one in looks["train.loss"].findings]
    assert {one.because for one in consequences} == {"train.ended"}
    assert {one.verdict for one in consequences} == {"not-run"}


def test_a_hanging_rank_is_hung() -> None:
    document = trained(GPUS)
    stopped(document["ranks"][0], "transformer", state="hung", code=None, abandoned=True)
    look = ask(read(said(document), 8))["train.ended"]
    assert look.verdict == "hung"
    assert look.findings[0].found == ("hung in stage transformer (begins), and could not be killed")


def test_a_hang_names_rank_host_gpu_collective_number_and_stack() -> None:
    document = trained(GPUS)
    for rank in document["ranks"]:
        stopped(rank, "transformer", state="lost", at="step 3: backward", inside=True, calls=440)
        rank.update(collective="nccl:all_reduce", sequence=437, stack=["a.py:1 f"] * 5)
    culprit = document["ranks"][3]
    culprit.update(state="hung", at="step 3: forward", inside=False, calls=439, sequence=436)
    looks = ask(read(said(document), 8))
    assert causes(looks) == {"train.ended": {3}}
    found = {one.component.index: one for one in looks["train.ended"].findings}
    assert found[3].verdict == "hung"
    assert found[3].evidence[:2] == (
        f"rank 3 of 8 on gpu001, {GPUS[3]['uuid']}",
        "before call 440 for the other ranks (step 3: forward); torch's last: nccl:all_reduce, "
        "sequence number 436",
    )
    assert found[0].evidence[1] == (
        "in call 440 for the other ranks (step 3: backward); torch's last: nccl:all_reduce, "
        "sequence number 437"
    )
    assert all("  a.py:1 f" in one.evidence for one in found.values())


def test_the_backend_must_be_the_one_of_the_build() -> None:
    document = trained(GPUS)
    document["run"].update(backend="gloo")
    assert causes(ask(document)) == {"train.backend": {None}}
    assert cuda_wanted(SCENE)
    assert not cuda_wanted(cpu_scene())


def test_the_sender_of_wrong_elements_is_the_cause_and_not_who_got_them() -> None:
    document = trained(GPUS)
    for rank in document["ranks"]:
        rank["collectives"].update(wrong_elements=1, wrong=[wrong(5, 6)])
    looks = ask(read(said(document), 8))
    assert causes(looks) == {"train.collectives": {6}}
    assert len(looks["train.collectives"].findings) == 8


def test_who_alone_sees_another_s_element_wrong_got_it_wrong() -> None:
    document = trained(GPUS)
    document["ranks"][3]["collectives"].update(wrong_elements=1, wrong=[wrong(5, 6)])
    assert causes(ask(read(said(document), 8))) == {"train.collectives": {3}}


def test_the_sender_of_a_wrong_gradient_is_the_cause() -> None:
    document = trained(GPUS)
    for rank in document["ranks"]:
        rank["gradients"].update(received_wrong=1)
    document["ranks"][5]["gradients"].update(sent_wrong=1)
    assert causes(ask(read(said(document), 8))) == {"train.gradients": {5}}


def test_of_two_ranks_that_differ_the_repeated_step_tells_which_else_both_are_named() -> None:
    of = cpu_scene()
    document = trained([])
    document["ranks"][1]["cnn"]["digest"] = "ffff"
    assert causes(ask(document, of)) == {"train.parameters": {1}}
    document["ranks"][1]["cnn"]["replayed"] = "ffff"
    assert causes(ask(document, of)) == {"train.parameters": {0, 1}}


@pytest.mark.parametrize(
    ("values", "odd"),
    [
        ({}, set()),
        ({0: "a"}, set()),
        ({0: "a", 1: "a"}, set()),
        ({0: "a", 1: "b"}, {0, 1}),
        ({0: "a", 1: "a", 2: "b"}, {2}),
        ({0: "a", 1: "a", 2: "b", 3: "b"}, {0, 1, 2, 3}),
        ({0: "a", 1: "b", 2: "c", 3: "a"}, {0, 1, 2, 3}),
    ],
)
def test_odd_ones(values: dict[int, str], odd: set[int]) -> None:
    assert odd_ones(values) == odd


# ---- bounds


def test_the_gradient_s_bound_grows_with_rounding_depth_length_and_ranks() -> None:
    one = {"sums": [64, 64], "ranks": 2}
    assert training.gradient_bound(one, 2.0**-23) == pytest.approx(18 * 2.0**-23)
    for more in (
        {"sums": [64] * 3, "ranks": 2},
        {"sums": [64, 81], "ranks": 2},
        one | {"ranks": 3},
    ):
        assert training.gradient_bound(more, 2.0**-23) > training.gradient_bound(one, 2.0**-23)
    # TF32 keeps 10 bits: a gradient computed in it is beyond the bound of a real run.
    real = {"sums": [64, 64, 16, 32, 32, 64, 64, 64, 256] * 4 + [64, 64, 32] * 2, "ranks": 8}
    assert training.gradient_bound(real, 2.0**-23) < 2.0**-11


def test_the_loss_ends_between_entropy_and_half_way_to_a_guess() -> None:
    lowest, highest = training.loss_bounds(
        {"choices": 32, "entropy": 1.0, "deviation": 2.0}, samples=10_000
    )
    assert lowest == pytest.approx(0.9)
    assert highest == pytest.approx((1.0 + math.log(32)) / 2)


# ---- hostile output


def broken(path: str, value: Any) -> Document:
    """A good document with one value, at a dotted path, replaced; ... removes it."""
    document: Any = copy.deepcopy(trained(GPUS))
    *way, last = path.split(".")
    inner = document
    for name in way:
        inner = inner[int(name) if name.isdigit() else name]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return document  # type: ignore[no-any-return]


LINE = said(trained(GPUS))["out"]
HOSTILE = {
    "nothing": (said(""), "0 documents"),
    "truncated": (said(LINE[: len(LINE) // 2]), "no JSON"),
    "duplicated": (said(LINE + LINE), "2 documents"),
    "interleaved": (said(LINE[:300] + "NCCL INFO\n" + LINE[300:]), "no JSON"),
    "nested": (said("GPUFLEET " + "[" * 100_000), "no JSON"),
    "huge": (said("x" * 2_000_000), "2000000 characters"),
    "another schema": (said(broken("schema", 2)), "another schema"),
    "a list": (said("GPUFLEET [1]"), "another schema"),
    "not a number": (said(LINE.replace("1.2,", "NaN,", 1)), "no JSON"),
    "exit": (said("", rc=1, err="a\nTraceback\nOSError: full"), "exit 1"),
    "stopped": (said("", rc=None, err="there is no user 'x' on this host"), "no user 'x'"),
    "other ranks": (said(trained(GPUS[:4])), "4 ranks and not of the 8"),
    "missing": (said(broken("ranks.0.state", ...)), "state is missing"),
    "unknown entry": (said(broken("surprise", 1)), "nobody knows"),
    "state": (said(broken("ranks.0.state", "<script>")), "nobody knows"),
    "stage": (said(broken("ranks.0.stage", "x")), "nobody knows"),
    "text for a number": (said(broken("ranks.0.steps", "1")), "no whole number"),
    "yes for a number": (said(broken("ranks.0.steps", True)), "no whole number"),
    "long text": (said(broken("ranks.0.stderr", "x" * 5000)), "5000 characters"),
    "out of bounds": (said(broken("ranks.0.cnn.loss.last", 1e300)), "out of all bounds"),
    "large integer": (said(broken("seconds", 10**400)), "out of all bounds"),
    "many entries": (
        said(broken("ranks.0.libraries", {str(n): "" for n in range(1000)})), "at most",
    ),
    "ended, with nothing": (said(broken("ranks.0.cnn", ...)), "without having done everything"),
    "ended, nowhere": (said(broken("ranks.0.device", None)), "on no device"),
    "ended and not": (said(broken("ranks.0.ended", False)), "has ended and has not"),
    "no run": (said(broken("run", {})), "what was trained"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_bad_output_did_not_run_and_says_why(name: str) -> None:
    answer, why = HOSTILE[name]
    with pytest.raises(Unusable, match=why) as caught:
        read(answer, 8)
    looks = ask(caught.value)
    assert {look.verdict for look in looks.values()} == {"not-run"}
    assert causes(looks) == {"train.ended": {None}}
    assert len(str(caught.value)) < 600


def test_lost_ranks_need_one_that_failed() -> None:
    document = trained(GPUS)
    stopped(document["ranks"][0], "cnn", state="lost")
    with pytest.raises(Unusable, match="none failed"):
        read(said(document), 8)


def test_a_payload_that_never_came_back_is_hung() -> None:
    with pytest.raises(Unusable, match="stage collectives") as caught:
        read(said("", rc=None, hung=True, stage="collectives"), 8)
    looks = ask(caught.value)
    assert looks["train.ended"].verdict == "hung"
    assert causes(looks) == {"train.ended": {None}}


# ---- how it is started


def run_with(of: Scene, **answer: Any) -> tuple[Document | Unusable, list[Any]]:
    """What the fixture makes of an answer, and what it started."""
    started: list[Any] = []

    def train(seconds: float, *command: str) -> Document:
        started.append((seconds, command))
        gpus = usable_gpus(of) if cuda_wanted(of) else []
        return {**said(trained(gpus), **answer), "user": "alice"}

    found = test_training._train(of, "/bundle", PYTHON, train)
    return found, started


def test_one_rank_is_started_for_each_gpu_that_answers() -> None:
    def lose(parts: dict[str, Any]) -> None:
        parts["report"]["nvml"]["gpus"][5]["lost"] = True

    for of, ranks, device in ((SCENE, 8, "cuda"), (changed(SCENE, lose), 7, "cuda")):
        found, [(seconds, command)] = run_with(of)
        assert not isinstance(found, Unusable)
        assert command[:3] == (PYTHON, "-B", "/bundle/verify/payload/train_ddp.py")
        assert {
            f"--ranks={ranks}",
            f"--device={device}",
            f"--limit={test_training.LIMIT_S}",
        } <= set(command)
        assert seconds > test_training.LIMIT_S
    _, [(_, command)] = run_with(cpu_scene())
    assert {"--ranks=2", "--device=cpu"} <= set(command)


def test_what_a_user_may_not_run_is_told_with_the_user() -> None:
    found, _ = run_with(SCENE, rc=126, err=f"exec: {PYTHON}: Permission denied")
    assert isinstance(found, Unusable)
    assert "Permission denied" in str(found)
    assert "(as user alice)" in str(found)
    stuck, _ = run_with(SCENE, rc=None, hung=True, stage="collectives")
    assert isinstance(stuck, Unusable)
    assert stuck.hung


def test_a_gpu_is_known_by_its_index_where_torch_tells_no_uuid() -> None:
    document = trained(GPUS)
    for rank in document["ranks"]:
        rank["device"]["uuid"] = ""
    assert causes(ask(read(said(document), 8))) == {}


def test_a_cuda_build_without_gpus_starts_nothing() -> None:
    found, started = run_with(changed(SCENE, lambda parts: parts["report"]["nvml"].update(gpus=[])))
    assert isinstance(found, Unusable)
    assert started == []


def test_a_busy_host_gets_no_load_and_one_without_environment_is_not_asked() -> None:
    busy = changed(
        SCENE,
        lambda parts: parts["report"]["holders"].update(jobs=[{"id": "4711", "user": "trainer"}]),
    )
    bare = changed(SCENE, lambda parts: parts["expected"].update(environment=None))
    for function in CHECKS.values():
        assert applies(function.check, busy).kind == "not-run"
        assert "job 4711 of trainer" in applies(function.check, busy).reason
        assert applies(function.check, bare).kind == "not-asked"
    quick = reported.scene("hgx-h100")
    assert {applies(one.check, quick).kind for one in CHECKS.values()} == {"not-asked"}
