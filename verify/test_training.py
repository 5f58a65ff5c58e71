"""The host trains, across all its GPUs: each check holds one property of one run of the payload.

One rank per GPU that answers, over NCCL; two ranks over gloo where torch is the CPU build, which
proves the software and no GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from verify import told_ranks, training
from verify.applies import Scene
from verify.checks import HOST, Component, Look, check
from verify.gpus import answering, part
from verify.told_ranks import NEEDS, Told, cuda_wanted
from verify.training import Document, Unusable

LIMIT_S = 100
"""The payload's own limit; a healthy run takes a third of it."""
DEADLINE_S = LIMIT_S + 10
MEASURED = "ours: closed forms and a single process's results, in the installed environment"
ENDED = "train.ended"

_runs: dict[str, Document | Unusable] = {}
"""One run per host and session: it is what the checks below look at."""


@pytest.fixture
def trained(
    host: Any, scene: Scene, bundle: str, python: str, train: Callable[..., Document]
) -> Document | Unusable:
    """What the payload says of this host, run once; Unusable when it says nothing."""
    return told_ranks.once(host, _runs, lambda: _train(scene, bundle, python, train))


def _train(
    scene: Scene, bundle: str, python: str, train: Callable[..., Document]
) -> Document | Unusable:
    words = [python, "-B", f"{bundle}/verify/payload/train_ddp.py", f"--limit={LIMIT_S}"]

    def read(said: Document, ranks: int, _: str) -> Document:
        return training.read(said, ranks)

    return told_ranks.asked(scene, train, DEADLINE_S, words, read)


TOLD = Told(
    what="training",
    ended=ENDED,
    short="was stopped before",
    component=lambda rank, _, gpus: training.component(rank, gpus),
)
seen = TOLD.seen


def with_part(
    name: str, trained: Document | Unusable, gpus: list[Document], look: Look
) -> list[tuple[Document, Component]]:
    """The ranks that got to a stage; those that did not are recorded first, as consequences."""
    return list(TOLD.with_part(name, trained, gpus, look))


@check(
    ENDED,
    component="training",
    level="standard",
    needs=NEEDS,
    action="drain",
    source=MEASURED + "; a barrier that hangs names nobody: huggingface/transformers issue 15618",
    fault="train:die:1",
)
def test_ended(
    trained: Document | Unusable,
    gpus: list[dict[str, Any]],
    look: Look,
    measure: Callable[..., None],
) -> None:
    """Every rank trains to its end, in time."""
    document = seen(trained, look)
    for rank in document["ranks"] if document else []:
        component = training.component(rank, gpus)
        if rank["state"] == "lost":
            why = f"rank {rank['rank']} waited for one that failed"
            lines = training.evidence(rank, document or {})
            look.unknown(component, "training", why=why, because=ENDED, evidence=lines)
            continue
        look.at(
            component,
            "training",
            found="ended" if rank["ended"] else training.failure(rank),
            expected="ended",
            verdict="hung" if rank["state"] == "hung" else "fail",
            evidence=training.evidence(rank, document or {}),
        )
        if rank["ended"]:
            _measure(rank, component, document or {}, measure)
    if document and all(rank["ended"] for rank in document["ranks"]):
        measure("train.seconds", "s", document["seconds"], HOST, world=document["world"])


def _measure(
    rank: Document, component: Component, document: Document, measure: Callable[..., None]
) -> None:
    run = document["run"]
    for model in training.MODELS:
        speed = rank[model]["throughput"]
        conditions = {
            "model": model,
            "backend": run["backend"],
            "device": rank["device"]["name"],
            "world": document["world"],
            "torch": run["torch"],
            "user": run["user"],
        }
        unit = f"{speed['unit']}/s"
        measure(f"train.{model}", unit, speed["together"], component, **conditions)
        alone = {**conditions, "world": 1}
        measure(f"train.{model}.alone", unit, speed["alone"], component, **alone)


@check(
    "train.backend",
    component="training",
    level="standard",
    needs=NEEDS,
    source="NCCL is what training on NVIDIA GPUs runs over; 7 of 8 GPUs: NVIDIA/aicr issue 1858",
    fault="train:die:1:start",
)
def test_backend(
    trained: Document | Unusable, scene: Scene, gpus: list[dict[str, Any]], look: Look
) -> None:
    """Training runs over NCCL with one rank on each GPU; over gloo only in torch's CPU build."""
    document = seen(trained, look)
    if document is None:
        return
    wanted = "nccl on cuda" if cuda_wanted(scene) else "gloo on cpu"
    run = document["run"]
    if run:
        found = f"{run['backend']} on {run['device']}"
        look.at(HOST, "backend and device of the ranks", found=found, expected=wanted)
    else:
        why = "no rank came as far as choosing one"
        look.unknown(HOST, "backend and device of the ranks", why=why, because=ENDED)
    devices = [rank["device"] for rank in document["ranks"]]
    for rank, device in zip(document["ranks"], devices, strict=True):
        if device is None:
            component = training.component(rank, gpus)
            why = f"rank {rank['rank']} was stopped before it had one"
            look.unknown(component, "device of a rank", why=why, because=ENDED)
    if not cuda_wanted(scene) or None in devices:
        return
    used = [training.component(rank, gpus) for rank in document["ranks"]]
    for gpu in answering(gpus, scene, look):
        times = used.count(part(gpu))
        look.at(part(gpu), "ranks that trained on it", found=times, expected=1)


TYPES = ("float32", "float64", "float16", "bfloat16", "int32", "int64")
COLLECTIVES = (
    "all_reduce sum", "all_reduce min", "all_reduce max",
    "broadcast", "all_gather", "reduce_scatter", "all_to_all",
)  # fmt: skip
"""What must have been compared on every rank. The average is too, where it is exact."""


@check(
    "train.collectives",
    component="training",
    level="standard",
    needs=NEEDS,
    action="drain",
    source=MEASURED + "; nccl-tests counts wrong elements, issue 172: repetitions find more",
    fault="train:collective:1",
)
def test_collectives(trained: Document | Unusable, gpus: list[dict[str, Any]], look: Look) -> None:
    """Every collective gives exactly its closed form, in every type, on every rank."""
    parts = with_part("collectives", trained, gpus, look)
    senders = training.senders([rank for rank, _ in parts])
    for rank, component in parts:
        found = rank["collectives"]
        for name in (f"{one} {dtype}" for one in COLLECTIVES for dtype in TYPES):
            if not found["compared"].get(name):
                why = found["left_out"].get(name, "it was not compared")
                look.unknown(component, name, why=why)
        sent = rank["rank"] in senders
        look.at(
            component,
            f"wrong elements of {sum(found['compared'].values())} in collectives",
            found=found["wrong_elements"] or ("others got wrong ones from it" if sent else 0),
            expected=0,
            evidence=[f"rank {rank['rank']}", *(_wrong(one) for one in found["wrong"])],
            because="train.collectives" if senders and not sent else "",
        )


def _wrong(one: Document) -> str:
    source = "" if one["source"] is None else f", from rank {one['source']}"
    return (
        f"{one['operation']} of {one['length']}, turn {one['turn']}: {one['elements']} wrong; "
        f"element {one['index']} is {one['found']} and not {one['wanted']}{source}"
    )


@check(
    "train.gradients",
    component="training",
    level="standard",
    needs=NEEDS,
    action="drain",
    source=MEASURED + "; rounding: N. Higham and T. Mary, 2019 (verify/training.py)",
    fault="train:gradient:1",
)
def test_gradients(trained: Document | Unusable, gpus: list[dict[str, Any]], look: Look) -> None:
    """Gradients under DDP are a single process's: exactly on integers, else within rounding."""
    parts = with_part("gradients", trained, gpus, look)
    odd = training.odd_ones({rank["rank"]: rank["gradients"]["reference"] for rank, _ in parts})
    senders = {rank["rank"] for rank, _ in parts if rank["gradients"]["sent_wrong"]}
    for rank, component in parts:
        found, name = rank["gradients"], rank["rank"]
        if not 0 < found["largest"] < found["exact_below"] or not found["compared"]:
            why = "it was not run where the arithmetic is exact"
            look.unknown(component, "gradients of integers", why=why)
            continue
        because = (
            "train.gradients" if (odd | senders) - {name} and name not in odd | senders else ""
        )
        look.at(
            component,
            f"wrong elements of {found['compared']} in gradients of integers",
            found=found["sent_wrong"] + found["received_wrong"],
            expected=0,
            evidence=[f"rank {name}: {found['first']}"],
            because=because,
        )
        look.at(
            component,
            "gradients of integers, computed without the other ranks",
            found="other bits than most ranks" if name in odd else "the same bits",
            expected="the same bits",
            evidence=[f"rank {name}: SHA-256 {found['reference']}"],
        )
    for model in training.MODELS:
        for rank, component in with_part(model, trained, gpus, look):
            assert not isinstance(trained, Unusable)
            gradient = rank[model]["gradient"]
            bound = training.gradient_bound(gradient, trained["run"]["epsilon"])
            apart = gradient["relative"]
            look.at(
                component,
                f"gradient of the {model}, apart from a single process's",
                found="not a number" if apart is None else f"{apart:.1e}",
                expected=f"at most {bound:.1e} of its norm",
                held=apart is not None and 0 <= apart <= bound,
                baseline="physics",
                evidence=[f"rank {rank['rank']}: most of it in {gradient['worst']}"],
            )


@check(
    "train.parameters",
    component="training",
    level="standard",
    needs=NEEDS,
    action="drain",
    source=MEASURED + "; equal gradients and equal steps keep parameters equal bit by bit",
    fault="train:parameter:1",
)
def test_parameters(trained: Document | Unusable, gpus: list[dict[str, Any]], look: Look) -> None:
    """After training all ranks hold the same parameters, bit by bit."""
    for model in training.MODELS:
        parts = with_part(model, trained, gpus, look)
        digests = {rank["rank"]: rank[model]["digest"] for rank, _ in parts}
        changed = {
            rank["rank"] for rank, _ in parts if rank[model]["digest"] != rank[model]["replayed"]
        }
        odd = training.odd_ones(digests)
        # Where no majority tells who is right, what each rank's last step must have made does.
        odd = changed & odd if changed & odd else odd | changed
        for rank, component in parts:
            look.at(
                component,
                f"parameters of the {model} after training",
                found="other bits" if rank["rank"] in odd else "the same bits",
                expected="the same bits",
                evidence=[
                    f"rank {rank['rank']}: SHA-256 {rank[model]['digest']}",
                    f"of its last step, repeated: {rank[model]['replayed']}",
                ],
            )


@check(
    "train.loss",
    component="training",
    level="standard",
    needs=NEEDS,
    action="drain",
    source="entropy of the synthetic data (verify/training.py); rom1504/gpu-tester: golden values",
    fault="train:loss:1:transformer",
)
def test_loss(trained: Document | Unusable, gpus: list[dict[str, Any]], look: Look) -> None:
    """Training learns what there is to be learnt, on every rank."""
    for model in training.MODELS:
        for rank, component in with_part(model, trained, gpus, look):
            assert not isinstance(trained, Unusable)
            task, loss = trained["run"]["tasks"][model], rank[model]["loss"]
            lowest, highest = training.loss_bounds(task, loss["samples"])
            last = loss["last"]
            look.at(
                component,
                f"loss of the {model} after training",
                found="not a number" if last is None else f"{last:.3f}",
                expected=f"{lowest:.3f} to {highest:.3f} nats",
                held=last is not None and lowest <= last <= highest,
                baseline="physics",
                evidence=[
                    f"rank {rank['rank']}: {loss['first']} at the beginning; entropy of the data "
                    f"{task['entropy']:.3f}, of a guess {math.log(task['choices']):.3f}"
                ],
            )


@check(
    "train.libraries",
    component="library",
    level="standard",
    needs=(*NEEDS, "cuda-build"),
    source="ours: a system cuDNN in front of the wheel's breaks torch at the first convolution",
    fault="library-in-front",
)
def test_libraries(
    trained: Document | Unusable,
    host: Any,
    python: str,
    gpus: list[dict[str, Any]],
    look: Look,
) -> None:
    """After convolutions and collectives, the libraries in use are the environment's own."""
    folder = python.rpartition("/bin/")[0]
    real = host.run("readlink -f %s", folder).stdout.strip() or folder
    for rank, component in with_part("libraries", trained, gpus, look):
        mapped = rank["libraries"]
        for name in ("libcudnn", "libnccl", "libcublas", "libcudart"):
            if not any(one.startswith(name) for one in mapped):
                look.unknown(component, name, why=f"rank {rank['rank']} has mapped none")
        for name, path in sorted(mapped.items()):
            look.at(
                component,
                f"{name} in use",
                found=path,
                expected=f"one in {folder}",
                held=path.startswith((f"{folder}/", f"{real}/")),
                evidence=[f"rank {rank['rank']}"],
            )
