"""The workloads: the payload by itself, its bounds, and checks that see both colours.

Whatever really trains is marked `long`: `make test` runs some of it, `make soak` all.
"""

from __future__ import annotations

import ast
import json
import math
import random
import re
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests import reported
from tests.faulted import MATRIX
from tests.sim import faults
from tests.worked import NAMES, said, stopped, worked
from verify import test_workload, workload_bounds, workloads
from verify.checks import Check, Look
from verify.payload import workloads as payload
from verify.runner import ASK_S, CONNECT_S
from verify.training import Document, Unusable
from verify.workload_bounds import Figures, Lacking, mistaken_noise, scaled, stops
from verify.workloads import read

CHECKS = {
    value.check.id: value.check
    for value in vars(test_workload).values()
    if isinstance(getattr(value, "check", None), Check)
}
GPUS = reported.scene("hgx-h100").report["nvml"]["gpus"]
FILE = Path(payload.__file__)
TEXT = FILE.read_text()


class Asked:
    """One check, judged on one document."""

    def __init__(self, name: str, document: Document | Unusable, gpus: list[Document]) -> None:
        self.look = Look(CHECKS[f"workload.{name}"])
        self.figures: list[tuple[str, str, float, int | None, dict[str, Any]]] = []
        self.information: list[str] = []
        self.not_asked: list[str] = []
        test_workload.judged(
            name,
            document,
            gpus,
            self.look,
            self._measure,
            self.information.append,
            self.not_asked.append,
        )

    def _measure(self, name: str, unit: str, value: float, part: Any, **conditions: Any) -> None:
        self.figures.append((name, unit, value, part.index, conditions))

    @property
    def causes(self) -> list[tuple[int | None, str, str]]:
        """Findings that nothing else explains: component, verdict, what."""
        return [(f.component.index, f.verdict, f.what) for f in self.look.findings if not f.because]


def ask(name: str, change: Callable[[Document], None] = lambda d: None) -> Asked:
    """A check on the eight GPUs, after a change of its document."""
    document = worked(name, GPUS)
    change(document)
    return Asked(name, read(said(document), name, len(document["ranks"])), GPUS)


# ---- the file


def test_it_needs_the_standard_library_and_torch_alone_and_python_3_10() -> None:
    for node in ast.walk(ast.parse(TEXT, feature_version=(3, 10))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
        for name in names:
            assert name.partition(".")[0] in {*sys.stdlib_module_names, "torch"}, name


def test_the_launcher_comes_before_torch() -> None:
    start = TEXT.index("sys.exit(launch(arguments()))")
    assert start < TEXT.index("\nimport torch")
    assert "torch." not in re.sub(r"#.*|\"\"\".*?\"\"\"", "", TEXT[:start], flags=re.S)


def test_payload_checks_bounds_and_matrix_know_the_same_workloads() -> None:
    assert payload.WORKLOADS == workloads.WORKLOADS
    assert set(payload.RUNS) == set(workload_bounds.CLAIMS) == set(NAMES)
    assert set(CHECKS) == {f"workload.{name}" for name in NAMES}
    on_cpu = {f"workload.{name}" for name in NAMES} - {
        "workload.host-copy",
        "workload.data-parallel",
    }
    assert {row.check for row in MATRIX if row.level == "workload"} == on_cpu


@pytest.mark.parametrize(
    "options",
    [
        [], ["nothing"], ["mlp", "--ranks=0"], ["mlp", "--ranks=65"], ["mlp", "--device=tpu"],
        ["mlp", "--perturb=mlp"], ["mlp", "--perturb=mlp:explode"], ["mlp", "--size=huge"],
    ],
)  # fmt: skip
def test_wrong_options_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        payload.arguments(options)
    assert caught.value.code == 2
    assert capsys.readouterr().err


def test_the_hook_for_tests_is_silent_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(payload.PERTURB, raising=False)
    assert payload.arguments(["mlp"]).perturb == ""
    monkeypatch.setenv(payload.PERTURB, "mlp:labels,ddp:die")
    asked = payload.arguments(["mlp"])
    assert payload.perturbations(asked.perturb) == [("mlp", "labels"), ("ddp", "die")]


def test_checks_keep_the_contract() -> None:
    for id, one in CHECKS.items():
        assert one.level == "workload"
        assert one.component == "training"
        assert {"torch", "idle"} <= set(one.needs)
        kind, argument = faults.parse(one.fault)
        assert kind.name == "workload"
        ((name, wrong),) = payload.perturbations(argument)
        assert f"workload.{name}" == id
        assert wrong in payload.PERTURBATIONS
        assert workload_bounds.CLAIMS[name].__doc__, "a bound says where it comes from"


def test_even_if_every_workload_hangs_the_time_box_holds() -> None:
    limits = [test_workload.LIMITS_S.get(name, test_workload.LIMIT_S) for name in NAMES]
    longest = sum(limits) + len(NAMES) * test_workload.MARGIN_S
    assert longest + 2 * CONNECT_S + 60 <= ASK_S["workload"]


# ---- bounds, against closed forms


def test_recall_and_f1_are_those_of_hand_made_matrices() -> None:
    # Two classes, 40 and 60: 30 and 50 right. F1 = 2 TP / (2 TP + FP + FN).
    matrix = [[30, 10], [10, 50]]
    accuracy, recall, f1 = workload_bounds.scores(matrix)
    assert accuracy == Fraction(8, 10)
    assert recall == (Fraction(3, 4) + Fraction(5, 6)) / 2
    assert f1 == (Fraction(60, 80) + Fraction(100, 120)) / 2
    assert workload_bounds.scores([[5, 0], [0, 7]]) == (1, 1, 1)
    # All are called the first of ten equal classes: recall 1/10, F1 of the first 2/11.
    one = [[10] + [0] * 9 for _ in range(10)]
    assert workload_bounds.scores(one) == (Fraction(1, 10), Fraction(1, 10), Fraction(2, 110))
    # A class without labels counts for nothing.
    assert workload_bounds.scores([[3, 1], [0, 0]]) == (
        Fraction(3, 4),
        Fraction(3, 4),
        Fraction(6, 7),
    )


def test_the_payload_scores_any_matrix_as_the_fractions_do() -> None:
    source = random.Random(1)
    for size in (2, 3, 10):
        for _ in range(50):
            matrix = [[source.randrange(20) for _ in range(size)] for _ in range(size)]
            matrix[0][0] += 1
            for mine, exact in zip(
                payload.scores(matrix), workload_bounds.scores(matrix), strict=True
            ):
                assert mine == pytest.approx(float(exact), abs=1e-12)


def test_early_stopping_ends_when_the_best_is_longer_ago_than_allowed() -> None:
    assert stops([3, 2, 1, 1.1, 1.2, 1.3, 1.4], 3, 60) == 7
    assert stops([3, 2, 1, 1.1, 1.2, 1.3], 3, 60) == 7  # stopped one too early
    assert stops([3, 2, 1, 1.1, 1.2, 1.3, 1.4, 1.5], 3, 60) == 7
    assert stops([3, 2, 1], 3, 3) == 3
    assert stops([], 3, 60) == 1


def test_the_scale_doubles_after_good_steps_and_halves_after_bad_ones() -> None:
    assert scaled(8, [1, 1, 0, 1, 1, 1, 1], 2) == [8, 8, 16, 8, 8, 16, 16, 32]


def test_entropy_and_the_cost_of_a_mistaken_noise() -> None:
    mean, deviation = workload_bounds.entropy_of(2, 1.0)
    assert mean == pytest.approx(math.log(2))
    assert deviation == pytest.approx(0)
    assert mistaken_noise(32, 0.2, 0.2) == pytest.approx(0)
    assert mistaken_noise(32, 0.2, 0.4) == pytest.approx(0.087, abs=1e-3)


# ---- green and red, on documents


@pytest.mark.parametrize("name", NAMES)
def test_a_good_run_is_green_on_the_cpu_and_on_each_gpu(name: str) -> None:
    on_gpus = ask(name)
    assert [(f.what, f.found, f.expected) for f in on_gpus.look.findings] == []
    assert on_gpus.look.verdict == "pass"
    assert {one[:2] for one in on_gpus.figures} == {(f"workload.{name}", "steps/s")}
    ranks = 1 if name == "data-parallel" else 8
    assert [one[3] for one in on_gpus.figures] == list(range(ranks))
    document = worked(name)
    on_cpu = Asked(name, read(said(document), name, len(document["ranks"])), [])
    if name not in ("host-copy", "data-parallel"):
        assert on_cpu.look.verdict == "pass"
        assert on_cpu.figures[0][4]["device"] == "cpu"


def test_what_the_cpu_leaves_out_of_ddp_is_told() -> None:
    document = worked("ddp")
    on_cpu = Asked("ddp", read(said(document), "ddp", 2), [])
    assert on_cpu.information == ["workload.ddp: SyncBatchNorm is for GPUs: it was not looked at"]


RED: dict[str, list[tuple[str, Any]]] = {
    "linear": [("line_weight", 0.1), ("line_bias", 0.06), ("plane_weight", 0.5),
               ("plane_bias", None), ("loaded", ["a", "b"]), ("line_on", "cpu")],
    "mlp": [("error", 0.61), ("error", None), ("error", 0.1)],
    "cnn-mnist": [("probability_off", 1e-3), ("f1", 0.5), ("confusion", [10] * 100)],
    "cnn-mnist-2": [("loss_off", 0.1), ("accuracy", 0.99), ("recall", 0.1)],
    "cnn-cifar": [("confusion", [10] * 100), ("accuracy", None)],
    "lstm": [("alone_apart", 0.1), ("confusion", [500, 500, 500, 500])],
    "transformer": [("above", 2.3), ("above", -0.5), ("above", None)],
    "finetune": [("whole_loss", 1.6), ("frozen_loss", 1.6), ("adapters_loss", 1.6),
                 ("trunk_after", "x"), ("base_after", "x"), ("head_moved", False),
                 ("adapters_add", 3), ("loaded", "x"), ("epochs", [3.0, 2.0]),
                 ("put_back", 9.0), ("strange_pairs", 4), ("windows", 16)],
    "batch-norm": [("train_apart", 0.1), ("kept_mean_apart", 0.1), ("kept_variance_apart", 0.1),
                   ("eval_apart", 0.1), ("eval_alone", 0.1), ("eval_kept", False),
                   ("modes_apart", 0.0)],
    "host-copy": [("wrong", 1), ("pinned", False), ("copied", 0)],
    "amp": [("dtype", "torch.float32"), ("unscaled_gradient", 2.0**-28),
            ("scaled_gradient", 0.0), ("scales", [65536.0] * 61), ("moved", [1] * 60)],
    "compile": [("output_apart", 0.01), ("gradient_apart", 0.01), ("kernels", 0)],
    "quantise": [("of_bound", 1.5), ("step", 0.1), ("weight_type", "torch.float32")],
    "prune": [("zeros", 4095), ("regrown", 1), ("zeros_after", 0), ("moved", 0),
              ("permanent", False), ("changed_outputs", 1), ("largest_pruned", 9.0)],
    "checkpoint": [("continued", "x"), ("loaded", "x")],
    "data-parallel": [("wrong_outputs", 1), ("wrong_gradients", 1), ("gpus", 1), ("compared", 0)],
    "ddp": [("gradient_apart", 0.01), ("parameters", "x"), ("sync_apart", 0.5)],
    "fsdp2": [("parameters_apart", 1e-3), ("mine", 106272), ("last", 3.4), ("parameters", "x")],
}  # fmt: skip
"""Workload -> figures that must not be, each by itself."""


@pytest.mark.parametrize(("name", "key", "value"), [(n, *one) for n in NAMES for one in RED[n]])
def test_a_figure_out_of_its_bound_is_red_at_its_gpu(name: str, key: str, value: Any) -> None:
    at = 0 if name == "data-parallel" else 3

    def change(document: Document) -> None:
        assert key in document["ranks"][at]["figures"]
        document["ranks"][at]["figures"][key] = value

    asked = ask(name, change)
    assert asked.look.verdict == "fail"
    assert {(index, verdict) for index, verdict, _ in asked.causes} == {(at, "fail")}


OPTIONAL = {"nearest", "sync_apart"}
"""Read where they are: sequences have no pictures, and SyncBatchNorm is for GPUs."""


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_that_is_lacking_or_of_another_type_is_never_a_pass(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_of: set[str] = set()
    plain = Figures._of
    with monkeypatch.context() as patched:
        patched.setattr(Figures, "_of", lambda of, key: (read_of.add(key), plain(of, key))[1])
        ask(name)
    assert len(read_of) >= 3
    for key in read_of:
        for value in (None,) if key in OPTIONAL else (None, "gone"):

            def change(document: Document, key: str = key, value: str | None = value) -> None:
                figures = document["ranks"][0]["figures"]
                figures[key] = 7 if isinstance(figures[key], str) else "strange"
                if value == "gone":
                    del figures[key]

            asked = ask(name, change)
            assert asked.look.verdict in ("not-run", "fail"), (key, value)


@pytest.mark.parametrize(
    ("state", "verdict"), [("died", "fail"), ("raised", "fail"), ("hung", "hung")]
)
def test_a_rank_that_does_not_end_is_named_with_its_stage(state: str, verdict: str) -> None:
    def change(document: Document) -> None:
        rank = document["ranks"][2]
        stopped(rank, state, stage="evaluates", error="" if state != "raised" else "ValueError: no")
        if state == "died":
            rank["code"] = -9

    asked = ask("lstm", change)
    assert asked.causes == [(2, verdict, "lstm")]
    (finding,) = asked.look.findings
    assert "in stage 'evaluates'" in finding.found
    assert any("steps_per_s" in line for line in finding.evidence)


def test_who_waited_for_the_one_that_failed_is_a_consequence() -> None:
    def change(document: Document) -> None:
        for rank in document["ranks"]:
            stopped(rank, "lost")
        stopped(document["ranks"][5], "raised", error="RuntimeError: CUDA error")

    asked = ask("fsdp2", change)
    assert [index for index, _, _ in asked.causes] == [5]
    assert {one.because for one in asked.look.findings} == {"", "workload.fsdp2"}


def test_what_is_absent_is_not_asked_and_neither_pass_nor_finding() -> None:
    def change(document: Document) -> None:
        for rank in document["ranks"]:
            stopped(rank, "absent", absent="torch 3.0 has no torch.ao.quantization", figures={})

    asked = ask("quantise", change)
    assert asked.not_asked == ["torch 3.0 has no torch.ao.quantization"]
    assert asked.look.observations == []


def test_what_only_one_gpu_lacks_is_unknown_there() -> None:
    def change(document: Document) -> None:
        stopped(document["ranks"][1], "absent", absent="no triton")

    asked = ask("compile", change)
    assert asked.not_asked == []
    assert asked.causes == [(1, "not-run", "compile")]


@pytest.mark.parametrize(
    ("name", "module", "why"),
    [
        ("quantise", "torch.ao.quantization", "has no torch.ao.quantization"),
        ("prune", "torch.nn.utils.prune", "has no torch.nn.utils.prune"),
        ("fsdp2", "torch.distributed.fsdp", "fully_shard"),
    ],
)
def test_a_library_that_is_gone_is_absent_with_the_reason(
    name: str, module: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(wanted: str) -> Any:
        assert wanted == module
        raise ImportError(f"No module named {wanted!r}")

    monkeypatch.setattr(payload.importlib, "import_module", gone)
    with pytest.raises(payload.AbsentError, match=why):
        payload.RUNS[name](SimpleNamespace(device=torch.device("cpu")))  # type: ignore[arg-type]


def test_scaling_that_is_gone_and_what_needs_gpus_are_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu: Any = SimpleNamespace(device=torch.device("cpu"))
    monkeypatch.delattr(torch.amp, "GradScaler")
    for name in ("amp", "host-copy", "data-parallel"):
        with pytest.raises(payload.AbsentError):
            payload.RUNS[name](cpu)


def test_compiling_needs_a_compiler_headers_and_triton_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(payload.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(payload.shutil, "which", lambda name: None)
    assert "no g++, c++, clang++" in payload.no_compiler(cpu)
    monkeypatch.setattr(payload.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "headers" in payload.no_compiler(cpu)
    (tmp_path / "Python.h").touch()
    assert payload.no_compiler(cpu) == ""
    monkeypatch.setattr(payload.importlib.util, "find_spec", lambda name: None)
    assert "triton" in payload.no_compiler(cuda)
    with pytest.raises(payload.AbsentError, match="triton"):
        payload.compiled(SimpleNamespace(device=cuda))  # type: ignore[arg-type]


# ---- documents that cannot be used


def spoilt(change: Callable[[Document], Any]) -> str:
    document = worked("mlp")
    change(document)
    return f"GPUFLEET {json.dumps(document)}\n"


WHOLE = f"GPUFLEET {json.dumps(worked('mlp'))}\n"


@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("", "0 documents"),
        (WHOLE + WHOLE, "2 documents"),
        (WHOLE[:-40], "no JSON"),
        (WHOLE.replace('"seconds": ', '"seconds": NaN, "x": '), "no JSON"),
        ("x" * 1_000_001, "1000001 characters"),
        (spoilt(lambda d: d.update(schema=2)), "another schema"),
        (spoilt(lambda d: d.update(workload="lstm")), "not of mlp"),
        (spoilt(lambda d: d["ranks"].append(d["ranks"][0])), "the 1 ranks"),
        (spoilt(lambda d: d["ranks"][0].update(state="fine")), "nobody knows"),
        (spoilt(lambda d: d["ranks"][0].update(ended=False)), "has ended and has not"),
        (spoilt(lambda d: d["ranks"][0].update(absent="x")), "lacks something and does not"),
        (spoilt(lambda d: d["ranks"][0].update(device=None)), "no device"),
        (spoilt(lambda d: d["ranks"][0].update(surprise=1)), "nobody knows"),
        (spoilt(lambda d: d["ranks"][0]["figures"].update(a={"b": 1})), "cannot be used"),
        (spoilt(lambda d: d["ranks"][0]["figures"].update(a=1e300)), "out of all bounds"),
        (spoilt(lambda d: d["ranks"][0]["figures"].update(a=[0] * 1000)), "cannot be used"),
        (spoilt(lambda d: d["ranks"][0].update(state="lost", ended=False)), "none failed"),
    ],
)
def test_hostile_output_is_not_run_with_the_reason(out: str, why: str) -> None:
    with pytest.raises(Unusable, match=why) as caught:
        read(said(out), "mlp", 1)
    asked = Asked("mlp", caught.value, [])
    assert asked.look.verdict == "not-run"
    assert asked.figures == []


def test_a_payload_that_never_came_back_is_hung_with_its_stage() -> None:
    with pytest.raises(Unusable) as caught:
        read(said("", rc=None, hung=True, stage="mlp, trains"), "mlp", 1)
    assert Asked("mlp", caught.value, []).look.verdict == "hung"
    assert "mlp, trains" in str(caught.value)
    with pytest.raises(Unusable, match="exit 1"):
        read(said("", rc=1, err="no torch"), "mlp", 1)


def test_figures_are_read_with_their_type() -> None:
    of = Figures({"n": 1, "none": None, "t": "x", "y": True, "l": [1, None], "bad": [1, "x"]})
    assert of.number("n") == 1
    assert math.isnan(of.number("none"))
    for name, how in (
        ("t", of.number), ("y", of.number), ("gone", of.number), ("n", of.text), ("n", of.yes),
        ("n", of.numbers), ("bad", of.numbers), ("l", of.counts), ("l", of.texts),
    ):  # fmt: skip
        with pytest.raises(Lacking):
            how(name)


# ---- real runs


def run(name: str, kind: str = "", limit: float = 100) -> Document | Unusable:
    """A real run on the CPU, as the check would read it."""
    ranks = workloads.ranks_of(name, 0)
    words = [sys.executable, "-B", str(FILE), name, "--device=cpu", f"--ranks={ranks}"]
    words += [f"--limit={limit}", *([f"--perturb={name}:{kind}"] if kind else [])]
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=150
    )
    return read(said(done.stdout, rc=done.returncode, err=done.stderr), name, ranks)


QUICK = ("batch-norm", "checkpoint", "prune")
"""Workloads that take little more than loading torch."""
SLOW = tuple(name for name in NAMES if name not in QUICK)


def _green(name: str) -> None:
    asked = Asked(name, run(name), [])
    if asked.not_asked:
        assert name in ("host-copy", "data-parallel", "compile")
        return
    assert [(f.what, f.found, f.expected) for f in asked.look.findings] == []


def _red(name: str, kind: str) -> None:
    asked = Asked(name, run(name, kind), [])
    assert asked.causes
    assert {verdict for _, verdict, _ in asked.causes} == {"fail"}
    assert all(
        f"perturbed on purpose: {name}:{kind}" in one.evidence for one in asked.look.findings
    )


@pytest.mark.long
@pytest.mark.parametrize("name", QUICK)
def test_a_real_run_is_green(name: str) -> None:
    _green(name)


@pytest.mark.soak
@pytest.mark.parametrize("name", SLOW)
def test_a_real_run_of_the_others_is_green(name: str) -> None:
    _green(name)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("batch-norm", "mode"),
        ("checkpoint", "optimizer"),
        ("prune", "mask"),
        ("cnn-mnist", "flatten"),
    ],
)
def test_a_real_run_that_does_wrong_is_red(name: str, kind: str) -> None:
    _red(name, kind)


WRONG = [
    ("linear", "state"), ("linear", "labels"), ("mlp", "labels"), ("cnn-mnist", "labels"),
    ("cnn-mnist-2", "labels"), ("cnn-mnist-2", "scores"), ("cnn-cifar", "labels"),
    ("lstm", "axis"), ("lstm", "labels"), ("transformer", "labels"), ("finetune", "scratch"),
    ("finetune", "thaw"), ("finetune", "base"), ("finetune", "patience"), ("finetune", "misalign"),
    ("finetune", "state"), ("amp", "overflow"), ("compile", "output"), ("quantise", "output"),
    ("checkpoint", "random"), ("ddp", "parameter"), ("fsdp2", "parameter"), ("mlp", "die"),
    ("mlp", "raise"),
]  # fmt: skip


@pytest.mark.soak
@pytest.mark.parametrize(("name", "kind"), WRONG)
def test_every_other_wrong_run_is_red(name: str, kind: str) -> None:
    _red(name, kind)


@pytest.mark.long
def test_a_run_that_hangs_ends_at_its_limit_and_says_where() -> None:
    asked = Asked("mlp", run("mlp", "hang", limit=12), [])
    assert [(verdict, what) for _, verdict, what in asked.causes] == [("hung", "mlp")]
    # Where processors are scarce it may not have got further than loading torch by then.
    assert re.fullmatch(r"hung in stage '(trains|loads torch)'", asked.look.findings[0].found)
