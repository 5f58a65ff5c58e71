"""An environment trains whole models, and does what jobs use besides: each check is one workload.

Asked by name alone (`gpufleet verify INVENTORY --workload NAME|all`), one process run each, so that
one that hangs takes no other along. On a host with several GPUs each of them runs it; on the CPU
build of torch it proves the software and no GPU. What a workload must come to, and why, is in
verify/workload_bounds.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from verify import told_ranks, training, workloads
from verify.applies import Scene
from verify.checks import HOST, Component, Look, check
from verify.told_ranks import NEEDS
from verify.training import Document, Unusable
from verify.workload_bounds import Lacking

LIMIT_S = 100
"""The payload's own limit; on a quiet CPU most take five seconds."""
LIMITS_S = {"compile": 240}
"""Compiling takes twenty processor seconds there, and much longer where processors are scarce."""
MARGIN_S = 5
"""The payload ends by itself this long before it is stopped, so that it can say how far it came."""
SOURCE = "the workloads' data are made, so their best result is known (verify/workload_bounds.py)"
GONE = "absent from some releases of torch: then it is not asked"

Prove = Callable[[str], None]


@pytest.fixture
def ran(
    scene: Scene, bundle: str, python: str, train: Callable[..., Document]
) -> Callable[[str], Document | Unusable]:
    """ran(name): what the payload says of a workload; Unusable when it says nothing."""

    def run(name: str) -> Document | Unusable:
        limit = LIMITS_S.get(name, LIMIT_S)
        words = [python, "-B", f"{bundle}/verify/payload/workloads.py", name, f"--limit={limit}"]

        def read(said: Document, ranks: int, _: str) -> Document:
            return workloads.read(said, name, ranks)

        def ranks_of(gpus: int) -> int:
            return workloads.ranks_of(name, gpus)

        return told_ranks.asked(scene, train, limit + MARGIN_S, words, read, ranks_of)

    return run


@pytest.fixture
def prove(
    ran: Callable[[str], Document | Unusable],
    gpus: list[dict[str, Any]],
    look: Look,
    measure: Callable[..., None],
    inform: Callable[[str], None],
    not_asked: Callable[[str], None],
) -> Prove:
    """prove(name) runs a workload and records what holds of it, rank by rank."""
    return lambda name: judged(name, ran(name), gpus, look, measure, inform, not_asked)


def judged(
    name: str,
    document: Document | Unusable,
    gpus: list[dict[str, Any]],
    look: Look,
    measure: Callable[..., None],
    inform: Callable[[str], None],
    not_asked: Callable[[str], None],
) -> None:
    """What a workload came to; `not_asked` where the environment lacks what it is about."""
    if isinstance(document, Unusable):
        look.unknown(HOST, name, why=str(document), hung=document.hung)
        return
    if reason := workloads.absent(document):
        not_asked(reason)
        return
    try:
        alike = workloads.alike(name, document)
    except Lacking as lacking:
        look.unknown(HOST, name, why=str(lacking))
        alike = {}
    for rank in document["ranks"]:
        part = training.component(rank, gpus)
        if rank["state"] == "ended":
            _held(name, rank, part, document, look)
            if one := alike.get(rank["rank"]):
                lines = [f"rank {rank['rank']}", *workloads.told(document)]
                look.at(part, one.what, found=one.found, expected=one.expected, evidence=lines)
            _told(name, rank, part, document, measure, inform)
        elif rank["state"] in ("lost", "absent"):
            why = rank["absent"] or f"rank {rank['rank']} waited for one that failed"
            because = look.check.id if rank["state"] == "lost" else ""
            look.unknown(part, name, why=why, because=because)
        else:
            look.at(
                part,
                name,
                found=workloads.failure(rank),
                expected="ended",
                verdict="hung" if rank["state"] == "hung" else "fail",
                evidence=workloads.evidence(rank, document),
            )


def _held(name: str, rank: Document, part: Component, document: Document, look: Look) -> None:
    try:
        for one in workloads.claims(name, rank):
            look.at(
                part,
                one.what,
                found=one.found,
                expected=one.expected,
                held=one.held,
                evidence=workloads.told(document),
            )
    except Lacking as lacking:
        look.unknown(part, name, why=str(lacking))


def _told(
    name: str,
    rank: Document,
    part: Component,
    document: Document,
    measure: Callable[..., None],
    inform: Callable[[str], None],
) -> None:
    """The speed; and what was left out."""
    device, world = rank["device"]["name"], len(document["ranks"])
    together = workloads.WORKLOADS[name] == workloads.TOGETHER
    if speed := workloads.speed(rank):
        conditions = {"device": device, "world": world if together else 1}
        measure(f"workload.{name}", "steps/s", speed, part, **conditions)
    left_out = rank["figures"].get("sync_absent")
    if isinstance(left_out, str) and rank["rank"] == 0:
        inform(f"workload.{name}: {left_out}")


def workload(name: str, fault: str, source: str = SOURCE) -> Callable[[Any], Any]:
    """Marks a check of a workload: what all of them share."""
    return check(
        f"workload.{name}",
        component="training",
        level="workload",
        needs=NEEDS,
        action="drain",
        source=source,
        fault=f"workload:{name}:{fault}",
    )


@workload("linear", "state")
def test_linear(prove: Prove) -> None:
    """A linear model finds slope and intercept within the noise, and survives being saved."""
    prove("linear")


@workload("mlp", "labels")
def test_mlp(prove: Prove) -> None:
    """A multi-layer perceptron learns a regression that bends."""
    prove("mlp")


@workload("cnn-mnist", "flatten")
def test_cnn_mnist(prove: Prove) -> None:
    """A convolution with log-softmax and NLL tells ten classes of 28x28 images."""
    prove("cnn-mnist")


@workload("cnn-mnist-2", "scores")
def test_cnn_mnist_2(prove: Prove) -> None:
    """Two convolutions with logits and cross-entropy tell them too, and are scored exactly."""
    prove("cnn-mnist-2")


@workload("cnn-cifar", "labels")
def test_cnn_cifar(prove: Prove) -> None:
    """A convolution tells ten classes of 32x32 images in colour."""
    prove("cnn-cifar")


@workload("lstm", "axis")
def test_lstm(prove: Prove) -> None:
    """An LSTM remembers the first token of a sequence to its end, whatever else is in the batch."""
    prove("lstm")


@workload("transformer", "labels")
def test_transformer(prove: Prove) -> None:
    """A decoder-only transformer comes down to the entropy of its language, in bfloat16."""
    prove("transformer")


@workload("finetune", "thaw")
def test_finetune(prove: Prove) -> None:
    """A pretrained model is fine-tuned whole, frozen and by adapters, augmented, stopped early."""
    prove("finetune")


@workload("batch-norm", "mode")
def test_batch_norm(prove: Prove) -> None:
    """Batch normalisation trains on the batch's statistics and evaluates with the kept ones."""
    prove("batch-norm")


@workload("host-copy", "value")
def test_host_copy(prove: Prove) -> None:
    """Pinned, non-blocking copies to a GPU and back lose no value."""
    prove("host-copy")


@workload("amp", "overflow", "torch.amp.GradScaler: docs.pytorch.org/docs/stable/amp.html")
def test_amp(prove: Prove) -> None:
    """Mixed precision with gradient scaling keeps small gradients and skips an overflow."""
    prove("amp")


@workload("compile", "output")
def test_compile(prove: Prove) -> None:
    """A model compiled by torch.compile computes what the plain one does."""
    prove("compile")


@workload("quantise", "output", f"torch.ao.quantization, {GONE}")
def test_quantise(prove: Prove) -> None:
    """A dynamically quantised network is off by its rounding step at most."""
    prove("quantise")


@workload("prune", "mask", f"torch.nn.utils.prune, {GONE}")
def test_prune(prove: Prove) -> None:
    """A pruned layer has exactly its share of zeros, keeps them and still trains."""
    prove("prune")


@workload("checkpoint", "optimizer")
def test_checkpoint(prove: Prove) -> None:
    """Training goes on from a checkpoint to the same bits."""
    prove("checkpoint")


@workload("data-parallel", "gradient")
def test_data_parallel(prove: Prove) -> None:
    """DataParallel over all GPUs gives the outputs and gradients of one, bit by bit."""
    prove("data-parallel")


@workload("ddp", "parameter")
def test_ddp(prove: Prove) -> None:
    """DistributedDataParallel accumulates, synchronises and keeps all ranks alike."""
    prove("ddp")


@workload("fsdp2", "parameter", f"torch.distributed.fsdp.fully_shard, {GONE}")
def test_fsdp2(prove: Prove) -> None:
    """FSDP2 holds a share on each rank and takes the steps of the whole model."""
    prove("fsdp2")
