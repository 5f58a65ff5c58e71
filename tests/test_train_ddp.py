"""The training payload by itself: what it promises, who is named, and real runs on the CPU.

Whatever really trains is marked `long`: `make test` runs it, `make check` does not.
"""

from __future__ import annotations

import ast
import copy
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from verify import training
from verify.payload import ranks, train_ddp
from verify.training import Document, read

FILE = Path(train_ddp.__file__)
RANKS = Path(ranks.__file__)
TEXT = FILE.read_text()


def run(*options: str, command: tuple[str, ...] = (), timeout: float = 150) -> Document:
    """The document of a real run, as the checks would read it."""
    words = [*(command or (sys.executable, "-B", str(FILE), "--ranks=2")), *options]
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, text=True
    )
    ranks = 1 if "--ranks=1" in options else 2
    rc = 0 if command else done.returncode  # torchrun's own tells of its ranks
    return read(
        {"rc": rc, "hung": False, "out": done.stdout, "err": done.stderr, "stage": ""}, ranks
    )


def states(document: Document) -> list[str]:
    """Of each rank."""
    return [rank["state"] for rank in document["ranks"]]


# ---- the file


@pytest.mark.parametrize("file", [FILE, RANKS], ids=lambda file: file.name)
def test_it_needs_the_standard_library_and_torch_alone_and_python_3_10(file: Path) -> None:
    tree = ast.parse(file.read_text(), feature_version=(3, 10))
    allowed = {*sys.stdlib_module_names, *(("torch",) if file == FILE else ())}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
        for name in names:
            assert name.partition(".")[0] in allowed or name == "verify.payload.ranks", name


def test_the_launcher_comes_before_torch() -> None:
    """A rank that hangs in loading torch is named by a launcher that does not load it."""
    start = TEXT.index("sys.exit(launch(arguments()))")
    assert start < TEXT.index("\nimport torch")
    assert "torch." not in re.sub(r"torchrun|#.*|\"\"\".*?\"\"\"", "", TEXT[:start], flags=re.S)


def test_the_docstring_opens_with_commands_that_it_takes() -> None:
    lines = [line.strip() for line in TEXT.splitlines()[1:10] if "train_ddp.py" in line]
    commands = [re.split(r"\s{2,}", line)[0] for line in lines]
    assert len(commands) == 4
    for line in commands:
        words = shlex.split(line)
        options = words[words.index("train_ddp.py") + 1 :]
        assert train_ddp.arguments(options).ranks >= 1


@pytest.mark.parametrize(
    "options",
    [
        ["--ranks=0"], ["--ranks=65"], ["--device=tpu"], ["--perturb=explode:1"],
        ["--perturb=die"], ["--perturb=die:x"], ["--perturb=die:1:nowhere"],
        ["--perturb=stall:1"], ["--perturb=stall:1:cnn"],
    ],
)  # fmt: skip
def test_wrong_options_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        train_ddp.arguments(options)
    assert caught.value.code == 2
    assert options[0].removeprefix("--").partition("=")[0] in capsys.readouterr().err


def test_the_hook_for_tests_is_silent_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(train_ddp.PERTURB, raising=False)
    assert train_ddp.arguments([]).perturb == ""
    monkeypatch.setenv(train_ddp.PERTURB, "die:1,loss:0:cnn")
    asked = train_ddp.arguments([])
    assert train_ddp.perturbations(asked.perturb) == [("die", "1", ""), ("loss", "0", "cnn")]


def test_stages_and_states_are_those_that_the_checks_know() -> None:
    assert train_ddp.STAGES == training.STAGES


# ---- what is exact is exact


@pytest.mark.parametrize("world", [1, 2, 3, 7, 8, 16, 64])
def test_sums_over_all_ranks_stay_where_every_type_is_exact(world: int) -> None:
    cpu = torch.device("cpu")
    data = [
        train_ddp.pattern(rank, 4096, turn, world, cpu) for rank in range(world) for turn in (0, 2)
    ]
    assert min(int(one.min()) for one in data) >= 0
    assert sum(int(one.max()) for one in data[::2]) < train_ddp.NARROWEST
    whole = torch.arange(train_ddp.NARROWEST + 1)
    for dtype in train_ddp.TYPES:
        assert torch.equal(whole.to(dtype).long(), whole), dtype
    first_two = [train_ddp.pattern(rank, 4096, 0, world, cpu) for rank in (0, 1)]
    if world > 1:
        assert not torch.equal(*first_two), "one rank's data would do for another's"


@pytest.mark.parametrize("world", [1, 2, 8, 64])
def test_the_bound_on_integers_is_reached_and_stays_exact(world: int) -> None:
    """All inputs, weights and targets 1: nothing in {-1, 0, 1} gives larger figures."""
    shapes = (
        (train_ddp.HIDDEN, train_ddp.INPUTS),
        (train_ddp.HIDDEN, train_ddp.HIDDEN),
        (train_ddp.OUTPUTS, train_ddp.HIDDEN),
    )
    weights = [torch.ones(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    samples = train_ddp.BATCH * world
    value = torch.ones(samples, train_ddp.INPUTS, dtype=torch.float64)
    seen = []
    for weight in weights:
        value = value @ weight.T
        value.retain_grad()
        seen.append(value)
    value.sum().backward()
    figures = [float(one.detach().abs().max()) for one in seen]
    figures += [float(one.grad.abs().max()) for one in (*seen, *weights) if one.grad is not None]
    assert len(figures) == 9
    assert max(figures) == train_ddp.largest(world)
    assert train_ddp.largest(world) < train_ddp.EXACT_BELOW


def test_the_entropy_is_that_of_the_language_it_speaks() -> None:
    size = train_ddp.SIZES["cpu"]
    text, follows = train_ddp.language(size, 3, 1, 400)
    rule = (5 * text + 3) % train_ddp.SYMBOLS
    kept = (follows == rule).double().mean()
    chance = 1 - train_ddp.NOISE + train_ddp.NOISE / train_ddp.SYMBOLS
    best = train_ddp.best_loss(train_ddp.SYMBOLS, train_ddp.NOISE)
    spread = 5 / math.sqrt(follows.numel())
    assert float(kept) == pytest.approx(chance, abs=spread * math.sqrt(chance * (1 - chance)))
    other = train_ddp.NOISE / train_ddp.SYMBOLS
    losses = torch.where(follows == rule, -math.log(chance), -math.log(other)).double()
    assert float(losses.mean()) == pytest.approx(best["entropy"], abs=spread * best["deviation"])
    assert float(losses.std()) == pytest.approx(best["deviation"], rel=0.05)
    guess = train_ddp.best_loss(32, 1.0)
    assert guess["entropy"] == pytest.approx(math.log(32))
    assert guess["deviation"] == pytest.approx(0)


def test_ranks_and_parts_get_their_own_data_and_always_the_same() -> None:
    size = train_ddp.SIZES["cpu"]
    for make in (train_ddp.language, train_ddp.images):
        one = make(size, 0, 0, 2)
        assert all(torch.equal(*pair) for pair in zip(one, make(size, 0, 0, 2), strict=True))
        for other in (make(size, 1, 0, 2), make(size, 0, 1, 2)):
            assert not torch.equal(one[0], other[0])


def test_a_digest_tells_apart_what_compares_equal() -> None:
    zero, minus = torch.zeros(3), -torch.zeros(3)
    assert torch.equal(zero, minus)
    assert train_ddp.digest([zero]) != train_ddp.digest([minus])
    assert train_ddp.digest([zero]) == train_ddp.digest([torch.zeros(3)])


@pytest.mark.long
def test_a_repeated_step_is_the_step_and_one_changed_bit_is_not() -> None:
    torch.manual_seed(1)
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        torch.autograd.backward(model(torch.randn(5, 4)).square().sum())
        expected = train_ddp.replay(model, optimizer)
        optimizer.step()
    assert train_ddp.digest(model.state_dict().values()) == expected
    model.weight.data.view(torch.int32)[0, 0] ^= 1
    assert train_ddp.digest(model.state_dict().values()) != expected


# ---- who failed


def record(**changes: Any) -> Document:
    """A rank that waits in a collective with the others."""
    waiting = {
        "ended": False, "error": "", "others": False, "inside": True, "steps": 9, "gone": False,
        "code": None,
    }  # fmt: skip
    return waiting | changes


ENDED = {"ended": True, "gone": True, "code": 0}
BROKEN = {"error": "RuntimeError: connection closed", "others": True, "gone": True, "code": 1}
CASES: dict[str, tuple[list[Document], list[str]]] = {
    "all ended": ([record(**ENDED), record(**ENDED)], ["ended", "ended"]),
    "one died, one saw it": (
        [record(gone=True, code=-9, inside=False, steps=8), record(**BROKEN)],
        ["died", "lost"],
    ),
    "one died inside, the others wait": (
        [record(), record(gone=True, code=-11), record()], ["lost", "died", "lost"],
    ),
    "exit without a word": ([record(gone=True, code=0, inside=False), record()], ["died", "lost"]),
    "one raised": (
        [record(**BROKEN), record(error="ValueError: x", inside=False, gone=True, code=1)],
        ["lost", "raised"],
    ),
    "a kernel's error inside a collective": (
        [record(), record(error="RuntimeError: CUDA error", gone=True, code=1)],
        ["lost", "raised"],
    ),
    "one hangs by itself, the others time out": (
        [record(inside=False, steps=8), record(**BROKEN), record(**BROKEN)],
        ["hung", "lost", "lost"],
    ),
    "one hangs, NCCL aborts who waited": (
        [record(gone=True, code=-6), record(inside=False, steps=8), record(gone=True, code=-6)],
        ["lost", "hung", "lost"],
    ),
    "one is behind, inside an earlier collective": (
        [record(steps=9), record(steps=7), record(steps=9)], ["lost", "hung", "lost"],
    ),
    "nobody is told apart": ([record(), record()], ["hung", "hung"]),
    "one hangs in torch, one waits for it": (
        [record(inside=False, steps=2), record(steps=4)], ["hung", "lost"],
    ),
    "one ended, one hangs": ([record(**ENDED), record(inside=False)], ["ended", "hung"]),
    "alone": ([record(inside=False)], ["hung"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_cause_is_named_and_its_victims_are_lost(name: str) -> None:
    records, expected = CASES[name]
    found = copy.deepcopy(records)
    train_ddp.name_states(found)
    assert [one["state"] for one in found] == expected
    backwards = copy.deepcopy(records[::-1])
    train_ddp.name_states(backwards)
    assert [one["state"] for one in backwards] == expected[::-1]


@pytest.mark.parametrize(
    ("text", "others"),
    [
        ("[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer", True),
        ("Timed out waiting 15000ms for recv operation to complete", True),
        ("NCCL communicator was aborted on rank 0", True),
        ("NCCL error: unhandled cuda error. Last error: Cuda failure 'ECC'", False),
        ("CUDA error: uncorrectable ECC error encountered", False),
        ("torch sees 7 CUDA devices; rank 7 has none", False),
    ],
)
def test_an_error_of_the_connection_is_the_others(text: str, others: bool) -> None:
    assert ranks.of_others(RuntimeError(text)) is others


# ---- real runs


@pytest.fixture(scope="module")
def healthy() -> Document:
    """Two ranks on the CPU, as the docstring says."""
    return run("--device=cpu")


@pytest.mark.long
def test_two_ranks_on_the_cpu_train_and_all_holds(healthy: Document) -> None:
    from tests.test_training import ask, causes, cpu_scene

    assert states(healthy) == ["ended", "ended"]
    assert healthy["run"]["backend"] == "gloo"
    looks = ask(healthy, cpu_scene())
    assert causes(looks) == {}
    assert {look.verdict for look in looks.values()} == {"pass"}
    assert all(len(look.observations) > 1 or id == "train.backend" for id, look in looks.items())


@pytest.mark.long
def test_every_collective_is_compared_in_every_type(healthy: Document) -> None:
    for rank in healthy["ranks"]:
        found = rank["collectives"]
        tried = {
            (name, str(dtype)) for name in train_ddp.operations(2) for dtype in train_ddp.TYPES
        }
        assert len(found["compared"]) + len(found["left_out"]) == len(tried)
        assert set(found["left_out"]) == {"all_reduce avg int32", "all_reduce avg int64"}
        lengths = train_ddp.TURNS * sum(train_ddp.LENGTHS["cpu"])
        assert found["compared"]["all_reduce sum bfloat16"] == lengths


@pytest.mark.long
def test_a_rank_0_that_dies_is_named_all_the_same() -> None:
    document = run("--device=cpu", "--perturb=die:0")
    assert states(document) == ["died", "lost"]
    dead, victim = document["ranks"]
    assert dead["code"] == -signal.SIGKILL
    assert dead["stage"] == "collectives"
    assert dead["device"]["kind"] == "cpu"
    assert victim["others"]
    assert document["perturbed"] == "die:0"


WRONG = {
    "collective:1": {"train.collectives": {1}},
    "gradient:0": {"train.gradients": {0}},
    "gradient:1:transformer": {"train.gradients": {1}},
    "parameter:0:cnn": {"train.parameters": {0}},
    "parameter:1": {"train.parameters": {1}},
    "loss:1:transformer": {"train.loss": {1}},
    "loss:0:cnn": {"train.loss": {0}},
    "contribution:1:gradients": {"train.gradients": {1}},
    "contribution:0:collectives": {"train.collectives": {0}},
}


@pytest.mark.long
@pytest.mark.parametrize(
    "together",
    [
        ["collective:1", "gradient:0", "parameter:0:cnn", "loss:1:transformer"],
        ["contribution:0:collectives", "contribution:1:gradients", "parameter:1", "loss:0:cnn"],
        ["gradient:1:transformer"],
    ],
    ids=lambda kinds: kinds[0],
)
def test_what_a_rank_computes_wrongly_is_found_at_that_rank(together: list[str]) -> None:
    from tests.test_training import ask, causes, cpu_scene

    document = run("--device=cpu", f"--perturb={','.join(together)}")
    assert states(document) == ["ended", "ended"]
    expected = {check: ranks for one in together for check, ranks in WRONG[one].items()}
    assert causes(ask(document, cpu_scene())) == expected


@pytest.mark.long
@pytest.mark.parametrize(
    ("perturb", "expected", "stage"),
    [
        ("hang:1", ["lost", "hung"], "collectives"),
        ("hang:0:transformer", ["hung", "lost"], "transformer"),
        ("raise:0:cnn", ["raised", "lost"], "cnn"),
        ("die:1:leave", ["lost", "died"], "leave"),
        ("raise:1:start", ["lost", "raised"], "start"),
    ],
)
def test_who_hangs_dies_or_raises_is_named_with_the_stage(
    perturb: str, expected: list[str], stage: str
) -> None:
    document = run("--device=cpu", "--patience=4", f"--perturb={perturb}")
    assert states(document) == expected
    (cause,) = [one for one in document["ranks"] if one["state"] != "lost"]
    assert cause["stage"] == stage


@pytest.mark.long
def test_a_hang_at_a_collective_names_it_with_number_and_stacks() -> None:
    document = run("--device=cpu", "--patience=4", "--perturb=stall:1:40")
    assert states(document) == ["lost", "hung"]
    waits, hangs = document["ranks"]
    assert (waits["calls"], waits["inside"]) == (40, True)
    assert (hangs["calls"], hangs["inside"]) == (39, False)
    assert waits["at"].startswith("reduce_scatter")
    assert waits["sequence"] == hangs["sequence"] + 1
    assert waits["collective"].startswith("gloo:")
    assert any("train_ddp.py" in frame and "run" in frame for frame in waits["stack"])
    assert hangs["stack"][0].startswith("ranks.py")
    assert any(frame.endswith(" collectives") for frame in hangs["stack"])
    assert len(hangs["stack"]) <= ranks.MOST_FRAMES


DUMP = """Fatal Python error: unlikely words

Thread 0x00007f0000000002 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait

Current thread 0x00007f0000000001 (most recent call first):
  File "/env/torch/cuda/__init__.py", line 1083 in synchronize
  File "/opt/gpufleet/bundle/x/verify/payload/train_ddp.py", line 420 in settle
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DUMP, ["__init__.py:1083 synchronize", "train_ddp.py:420 settle"]),
        ("", []),
        (DUMP[: DUMP.index("Current")], ["threading.py:320 wait"]),
        ("x" * 100_000, []),
        ("\0\n" + '  File "a", line 1 in b\n' * 100, ["a:1 b"] * ranks.MOST_FRAMES),
    ],
    ids=["whole", "empty", "truncated", "noise", "long"],
)
def test_a_stack_is_read_from_what_faulthandler_wrote(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    (tmp_path / "rank-0.stack").write_text(text)
    assert ranks.read_stack(tmp_path, 0) == expected
    assert ranks.read_stack(tmp_path, 1) == []


def test_torchs_record_tells_the_oldest_collective_that_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As torch 2.13 gives it with gloo, and as docs.pytorch.org has it for NCCL: states scheduled,
    started, completed."""

    def entry(number: int, state: str, retired: bool, name: str) -> Document:
        return {
            "collective_seq_id": number, "state": state, "retired": retired,
            "profiling_name": name,
        }  # fmt: skip

    def recorded(*entries: Document) -> Document:
        class Bindings:
            _dump_nccl_trace_json = staticmethod(lambda: json.dumps({"entries": entries}))

        monkeypatch.setitem(sys.modules, "torch._C._distributed_c10d", Bindings)  # type: ignore[arg-type]
        return ranks.last_collective()

    done = entry(6, "completed", True, "nccl:all_reduce")
    stuck = entry(7, "started", False, "nccl:reduce_scatter")
    after = entry(8, "scheduled", False, "nccl:all_reduce")
    assert recorded(done, stuck, after) == {"collective": "nccl:reduce_scatter", "sequence": 7}
    assert recorded(done) == {"collective": "nccl:all_reduce", "sequence": 6}
    assert recorded() == {}
    assert recorded({"other": "form"}) == {}


@pytest.mark.long
def test_one_rank_trains_by_itself_and_a_slow_one_shows() -> None:
    document = run("--ranks=1", "--perturb=slow:0:cnn")
    assert states(document) == ["ended"]
    speed = document["ranks"][0]["cnn"]["throughput"]
    assert speed["alone"] < train_ddp.SIZES["cpu"].images / 0.05


@pytest.mark.long
def test_whoever_stops_the_launcher_still_gets_the_document(tmp_path: Path) -> None:
    words = [sys.executable, "-B", str(FILE), "--ranks=2", "--device=cpu", "--perturb=hang:1:start"]
    launcher = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    try:
        until = time.monotonic() + 100
        while not any("rendezvous" in one.read_text() for one in tmp_path.glob("*/rank-0.at")):
            assert time.monotonic() < until
            time.sleep(0.05)
        launcher.terminate()
        out, err = launcher.communicate(timeout=20)
    finally:
        launcher.kill()
    said = {"rc": launcher.returncode, "hung": False, "out": out, "err": err, "stage": ""}
    document = read(said, 2)
    assert states(document) == ["lost", "hung"]
    assert list(tmp_path.iterdir()) == []
    for rank in document["ranks"]:
        assert not train_ddp.alive(rank["pid"])


@pytest.mark.long
@pytest.mark.parametrize(
    ("perturb", "expected"),
    [("", ["ended", "ended"]), ("die:0", ["died", "lost"]), ("raise:1", ["lost", "raised"])],
)
def test_torchrun_starts_it_too(perturb: str, expected: list[str]) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    command = (*torchrun, "--nproc-per-node=2", str(FILE))
    document = run("--device=cpu", f"--perturb={perturb}", command=command)
    assert document["launcher"] == "torchrun"
    assert states(document) == expected


def test_no_reader_of_the_line_needs_more_than_json() -> None:
    """NaN and infinity are no JSON: figures that are none become null."""
    assert train_ddp.number(float("nan")) is None
    assert train_ddp.number(torch.tensor(float("inf"))) is None
    assert json.dumps(train_ddp.number(1.5)) == "1.5"
