"""Every GPU at once, by torch alone: what it computes and moves is exact, the same, and unhindered.

One rank per GPU that answers, over NCCL; two ranks over gloo where torch is the CPU build, which
says what it cannot prove. Each check holds one property of one run of the payload.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from verify import bench, nccl_log, told_ranks, training
from verify.applies import Scene
from verify.checks import HOST, Component, Look, check
from verify.gpus import same_slot
from verify.told_ranks import NEEDS, Told
from verify.training import Document, Unusable, odd_ones

LIMIT_S = 100
"""The payload's own limit; a healthy run with eight GPUs takes half of it."""
DEADLINE_S = LIMIT_S + 10
CPU_BUILD = "torch is the CPU build: no GPU is loaded"
MEASURED = "ours: exact results in the very environment that was installed"
ENDED, CLOCKS = "bench.ended", "load.clocks"
tier = partial(check, component="gpu", level="standard", needs=NEEDS, action="drain")
"""Marks a check of the torch tier."""

_runs: dict[str, Document | Unusable] = {}
"""One run per host and session: it is what the checks below look at."""


@pytest.fixture
def benched(
    host: Any, scene: Scene, bundle: str, python: str, train: Callable[..., Document]
) -> Document | Unusable:
    """What the payload says of this host, run once; Unusable when it says nothing."""
    return told_ranks.once(host, _runs, lambda: _bench(scene, bundle, python, train))


def _bench(
    scene: Scene, bundle: str, python: str, train: Callable[..., Document]
) -> Document | Unusable:
    words = [python, "-B", f"{bundle}/verify/payload/gpu_bench.py", f"--limit={LIMIT_S}"]
    return told_ranks.asked(scene, train, DEADLINE_S, words, bench.read)


TOLD = Told(
    what="the torch tier",
    ended=ENDED,
    short="was stopped before",
    component=lambda rank, document, gpus: bench.component(rank["rank"], document, gpus),
)
seen, with_part = TOLD.seen, TOLD.with_part


def conditions(document: Document) -> dict[str, object]:
    """What every figure of this run shares."""
    return {"device": "cpu"} if bench.on_cpu(document) else {}


def on_gpus(
    benched: Document | Unusable, look: Look, not_asked: Callable[[str], None], *pretended: str
) -> Document | None:
    """The document of a run on GPUs, or of one that pretends for a test to be such a run."""
    document = seen(benched, look)
    if document and bench.on_cpu(document) and not set(pretended) & set(document["pretended"]):
        not_asked(CPU_BUILD)
    return document


@tier(
    ENDED,
    source=MEASURED + "; a barrier that hangs names nobody: huggingface/transformers issue 15618",
    fault="bench:die:1",
)
def test_ended(
    benched: Document | Unusable,
    gpus: list[dict[str, Any]],
    look: Look,
    measure: Callable[..., None],
    inform: Callable[[str], None],
) -> None:
    """Every GPU gets through its measurements, in time."""
    document = seen(benched, look)
    if document is None:
        return
    for rank in document["ranks"]:
        of = bench.component(rank["rank"], document, gpus)
        if rank["state"] == "lost":
            why = f"rank {rank['rank']} waited for one that failed"
            look.unknown(of, "the torch tier", why=why, because=ENDED)
            continue
        look.at(
            of,
            "the torch tier",
            found="ended" if rank["ended"] else training.failure(rank),
            expected="ended",
            verdict="hung" if rank["state"] == "hung" else "fail",
            evidence=training.evidence(rank, document),
        )
    if all(rank["ended"] for rank in document["ranks"]):
        measure("bench.seconds", "s", document["seconds"], HOST, **conditions(document))
    if bench.on_cpu(document):
        inform("the torch tier ran reduced, on the CPU over gloo")
    if document["not_proven"]:
        inform(f"not proven on hardware: {', '.join(document['not_proven'])}")


@tier(
    "bench.products",
    source="integers whose sums are exact in every type: IEEE 754, OCP 8-bit floating point (OFP8)",
    fault="bench:product:1",
)
def test_products(
    benched: Document | Unusable,
    gpus: list[dict[str, Any]],
    look: Look,
    measure: Callable[..., None],
    inform: Callable[[str], None],
) -> None:
    """Products of matrices, and sums over memory, are exactly what they must be."""
    document = seen(benched, look)
    if document is None:
        return
    shared = conditions(document)
    left_out: dict[str, str] = {}
    for rank, of in with_part("products", document, gpus, look):
        found = rank["products"]
        left_out |= found["left_out"]
        if not found["compared"]:
            look.unknown(of, "products of integers", why="none was compared")
        for dtype, compared in found["compared"].items():
            bad = found["wrong"].get(dtype, 0)
            look.at(
                of,
                f"wrong elements of {compared} in products in {dtype}",
                found=bad,
                expected=0,
                evidence=[f"rank {rank['rank']}: {found['first']}", *bench.perturbed(document)],
            )
        for dtype, speed in found["speed"].items():
            measure("bench.matmul", "TFLOPS", speed["tflops"], of, dtype=dtype, **shared)
    for rank, of in with_part("memory", document, gpus, look):
        memory = rank["memory"]
        what = "wrong elements after the triad a = b + 3 c"
        look.at(of, what, found=memory["wrong"], expected=0, evidence=bench.perturbed(document))
        for name in ("copy", "triad"):
            measure(f"bench.{name}", "GB/s", memory[name], of, **shared)
    for dtype, why in sorted(left_out.items()):
        inform(f"products in {dtype} were left out: {why}")
    if any(not rank["memory"]["beyond"] for rank in document["ranks"] if "memory" in rank):
        memory = next(rank["memory"] for rank in document["ranks"] if "memory" in rank)
        inform(
            f"copy and triad ran on {memory['buffer'] >> 20} MiB, which is within four times the "
            f"cache of {memory['cache'] >> 20} MiB: they tell of the cache as well"
        )


@tier(
    "bench.copies",
    source=MEASURED + "; checksums are made on both sides",
    fault="bench:copy:1",
)
def test_copies(
    benched: Document | Unusable,
    gpus: list[dict[str, Any]],
    look: Look,
    measure: Callable[..., None],
    not_asked: Callable[[str], None],
) -> None:
    """Copies from pinned host memory to every GPU and back arrive bit for bit."""
    document = on_gpus(benched, look, not_asked, "copy")
    if document is None:
        return
    for rank, _ in with_part("copies", document, gpus, look):
        found, of = rank["copies"], bench.stand_in(rank["rank"], document, gpus)
        if not found["compared"]:
            look.unknown(of, "copies from and to the host", why="none was compared")
            continue
        evidence = [f"rank {rank['rank']}", *bench.perturbed(document)]
        what = f"wrong words of {found['compared']} copied to it and back"
        look.at(of, what, found=found["wrong"], expected=0, evidence=evidence)
        look.at(
            of,
            "checksum on the GPU of what the host sent",
            found="the host's" if found["checksum"] else "another one",
            expected="the host's",
            evidence=evidence,
        )
        for name, speed in found["speed"].items() if not bench.on_cpu(document) else ():
            way, _, others = name.partition(" ")
            figure = "bench.host-to-device" if way == "to" else "bench.device-to-host"
            measure(figure, "GB/s", speed, of, **{"with": others})


@tier(
    "bench.peer",
    source="peer copies that hang or arrive damaged: pytorch/pytorch issue 84803, "
    "NVIDIA/nccl issue 2079",
    fault="bench:peer:1",
)
def test_peer(
    benched: Document | Unusable,
    scene: Scene,
    gpus: list[dict[str, Any]],
    look: Look,
    measure: Callable[..., None],
    not_asked: Callable[[str], None],
) -> None:
    """Copies from each GPU to each other one arrive bit for bit."""
    document = on_gpus(benched, look, not_asked, "peer")
    if document is None:
        return
    if document["world"] < 2:
        not_asked("one GPU has no peer")
    joined = bench.relations(document)
    copied = {(one, other): pair for one, other, pair in bench.pairs(document)}
    bad = [at for at, pair in copied.items() if pair["wrong"] or not pair["checksum"]]
    whose = bench.culprit(bad)
    for at, relation in joined.items():
        one, other = (bench.stand_in(number, document, gpus) for number in at)
        what = f"copies from GPU {one.index} to GPU {other.index}"
        pair = copied.get(at)
        if pair is None or not pair["compared"]:
            ended = all(rank["ended"] for rank in document["ranks"])
            look.unknown(one, what, why="they were not made", because="" if ended else ENDED)
            continue
        found = f"{pair['wrong']} of {pair['compared']} words wrong"
        found += "" if pair["checksum"] else f", and another checksum on GPU {other.index}"
        look.at(
            bench.stand_in(whose.get(at, at[0]), document, gpus),
            what,
            found=found,
            expected="every word, and the sender's checksum",
            held=at not in bad,
            evidence=[
                f"from {one.uuid or one.name} to {other.uuid or other.name}, joined by {relation}",
                *(between(scene, one, other) if at in bad else []),
                *bench.perturbed(document),
            ],
        )
        if not bench.on_cpu(document):
            to = {"to": other.index, "relation": relation}
            measure("bench.peer", "GB/s", pair["speed"], one, **to)


def between(scene: Scene, *ends: Component) -> list[str]:
    """What stands between two GPUs on the PCI bus, where copies through it may be damaged."""
    lines = []
    for one in scene.report.get("iommu", {}).get("gpus", []):
        if any(same_slot(one["slot"], end.slot) for end in ends):
            redirects = [bridge["slot"] for bridge in one["bridges"] if bridge["redirects"]]
            says = f"IOMMU domain of {one['slot']}: {one['domain'] or 'not known'}"
            lines.append(says + (f"; ACS redirects at {', '.join(redirects)}" if redirects else ""))
    return lines[:4]


@tier(
    "bench.collectives",
    source=MEASURED + "; NVIDIA/nccl-tests doc/PERFORMANCE.md",
    fault="bench:collective:1",
)
def test_collectives(
    benched: Document | Unusable,
    gpus: list[dict[str, Any]],
    look: Look,
    measure: Callable[..., None],
    inform: Callable[[str], None],
) -> None:
    """Collectives give exactly their closed form at every size, on every GPU."""
    document = seen(benched, look)
    if document is None:
        return
    missing: dict[str, str] = {}
    for rank, of in with_part("collectives", document, gpus, look):
        found = rank["collectives"]
        tried = {name.partition(" ")[0] for name in found["compared"]}
        for operation in sorted(bench.FACTORS.keys() - tried):
            reasons = [why for name, why in found["left_out"].items() if name.startswith(operation)]
            if reasons and bench.on_cpu(document):
                missing[operation] = reasons[0]  # older versions of gloo have not all of them
                continue
            look.unknown(of, operation, why=reasons[0] if reasons else "it was not compared")
        look.at(
            of,
            f"wrong elements of {sum(found['compared'].values())} in collectives",
            found=found["wrong"],
            expected=0,
            evidence=[f"rank {rank['rank']}: {found['first']}", *bench.perturbed(document)],
        )
    for operation, why in missing.items():
        inform(f"not proven: {operation} on the CPU: {why}")
    world, run = document["world"], document["run"]
    if world < 2:
        return
    said = bench.statement(document)
    cpu = bench.on_cpu(document)
    for (operation, size), seconds in bench.slowest(document).items():
        measure(
            f"bench.{operation}",
            "GB/s",
            bench.bus_bandwidth(operation, size, world, seconds),
            HOST,
            bytes=size,
            world=world,
            backend=run["backend"],
            transport="loopback" if cpu else nccl_log.transport(said),
            algorithm="unsaid" if cpu else bench.algorithm(said, operation, size, world),
            **conditions(document),
        )


@tier(
    "bench.transport",
    source=MEASURED + "; NCCL's own log (verify/nccl_log.py); NVIDIA/nccl issue 2079",
    fault="bench:transport:1",
)
def test_transport(
    benched: Document | Unusable,
    scene: Scene,
    gpus: list[dict[str, Any]],
    look: Look,
    not_asked: Callable[[str], None],
) -> None:
    """NCCL goes the way that GPUs are joined by: NVLink where there is one, NVSwitch in full."""
    document = on_gpus(benched, look, not_asked, "transport")
    if document is None:
        return
    if document["world"] < 2:
        not_asked("one GPU has no other to talk to")
    said = bench.statement(document)
    ended = all(rank["ended"] for rank in document["ranks"])
    judged = nccl_log.within_host(said, bench.relations(document))
    run, switches = document["run"], len(scene.report["pci"]["nvswitches"])
    if run and not bench.on_cpu(document):
        capability = (run["capability"][0], run["capability"][1])
        most = nccl_log.reductions(
            said, gpus=document["world"], switches=switches, capability=capability
        )
        judged += [most] if most else []
    for one in judged:
        of = HOST if one.source is None else bench.stand_in(one.source, document, gpus)
        if one.verdict == "not-run":
            because = "" if ended else ENDED
            look.unknown(of, one.what, why=one.found, because=because, evidence=one.evidence)
            continue
        look.at(
            of,
            one.what,
            found=one.found,
            expected=one.expected,
            held=not one.verdict,
            verdict=one.verdict or "fail",
            action="keep" if one.verdict == "degraded" else "",
            baseline="physics",
            evidence=[*one.evidence, f"NCCL {said.version or run.get('nccl', '')}",
                      *bench.perturbed(document)],
        )  # fmt: skip


@tier(
    "bench.deterministic",
    source="ours: one kernel, one order of sums, equal bits; microsoft/superbenchmark (2026-04) "
    "fails on any variance between runs",
    fault="bench:repeat:1",
)
def test_deterministic(
    benched: Document | Unusable, gpus: list[dict[str, Any]], look: Look
) -> None:
    """The same product and the same training, again on the same GPU, have the same bits."""
    document = seen(benched, look)
    for rank, of in with_part("repeats", document, gpus, look):
        found = rank["repeats"]
        if not found["compared"]:
            look.unknown(of, "repetitions", why="nothing was repeated")
            continue
        look.at(
            of,
            f"repetitions of {found['compared']} with other bits",
            found=found["different"],
            expected=0,
            evidence=[
                f"rank {rank['rank']}: first {found['first']}",
                *bench.perturbed(document or {"perturbed": ""}),
            ],
        )


@tier(
    "bench.agrees",
    source="ours: equal parts with equal software give equal bits",
    fault="bench:print:1",
)
def test_agrees(
    benched: Document | Unusable,
    gpus: list[dict[str, Any]],
    look: Look,
    fingerprint: Callable[..., None],
    not_asked: Callable[[str], None],
) -> None:
    """Equal GPUs of this host compute the same bits."""
    document = seen(benched, look)
    if document is None:
        return
    by_key: dict[str, list[tuple[Document, Component]]] = {}
    for rank, of in with_part("repeats", document, gpus, look):
        if rank["repeats"]["different"]:
            why = "it does not agree with itself"
            look.unknown(of, "its bits", why=why, because="bench.deterministic")
            continue
        if rank["device"] is None or not document["run"]:
            look.unknown(of, "its bits", why="it does not say what it ran on", because=ENDED)
            continue
        by_key.setdefault(bench.print_key(rank, document), []).append((rank, of))
    for key, members in by_key.items():
        for name in sorted({name for rank, _ in members for name in rank["repeats"]["prints"]}):
            bits = {
                rank["rank"]: rank["repeats"]["prints"][name]
                for rank, _ in members
                if name in rank["repeats"]["prints"]
            }
            odd = odd_ones(bits)
            for rank, of in members:
                number = rank["rank"]
                if number not in bits:
                    look.unknown(of, name, why="it has no fingerprint of it")
                    continue
                fingerprint(key, name, bits[number], of)
                if len(bits) < 2:
                    continue  # the fleet's vote compares it
                look.at(
                    of,
                    f"bits of {name}, among {len(bits)} equal parts",
                    found="other bits" if number in odd else "the same bits",
                    expected="the same bits",
                    baseline="neighbours",
                    evidence=[f"rank {number}: SHA-256 {bits[number]}", *bench.perturbed(document)],
                )
    if not look.observations:
        not_asked("no two equal GPUs are on this host; the fleet is asked for their like")


# ---- what NVML said under load


def loaded(
    document: Document | None, gpus: list[Document], look: Look, what: str
) -> Iterator[tuple[Document, Component]]:
    """The GPUs that NVML was asked of while they worked; why not, for the others."""
    if document is None:
        return
    load = document["load"] or {"state": "failed", "error": "nothing was sampled", "gpus": []}
    sampled = {gpu["rank"]: gpu for gpu in load["gpus"]}
    for rank in document["ranks"]:
        of = bench.stand_in(rank["rank"], document, gpus)
        gpu = sampled.get(rank["rank"])
        if load["state"] == "hung":
            because = "" if look.check.id == CLOCKS else CLOCKS
            look.unknown(of, what, why=load["error"], hung=not because, because=because)
        elif gpu is None:
            why = load["error"] or "NVML does not know the GPU of this rank"
            look.unknown(of, what, why=why, because="" if look.check.id == CLOCKS else CLOCKS)
        elif not gpu["samples"]:
            ended = rank["ended"]
            why = "nothing was sampled while it worked"
            look.unknown(of, what, why=why, because="" if ended else ENDED)
        else:
            yield gpu, of


@tier(
    CLOCKS,
    source="NVML API reference, nvmlClocksEventReasons; heat: 6 of Llama 3's 419 interruptions",
    fault="bench:clocks:1",
)
def test_clocks(
    benched: Document | Unusable,
    gpus: list[dict[str, Any]],
    look: Look,
    measure: Callable[..., None],
    not_asked: Callable[[str], None],
) -> None:
    """Under load nothing but its power limit holds a GPU's clocks back."""
    document = on_gpus(benched, look, not_asked, "clocks")
    for gpu, of in loaded(document, gpus, look, "clocks under load"):
        assert document is not None
        found = bench.reasons(gpu)
        what = f"what held clocks back, in {gpu['samples']} samples under load"
        if gpu["reasons"] is None:
            look.unknown(of, what, why="NVML does not tell clock event reasons")
        else:
            worst = "fail" if any(verdict == "fail" for _, _, verdict in found) else "degraded"
            look.at(
                of,
                what,
                found=[f"{words} in {times}" for words, times, _ in found],
                expected="nothing but the power limit",
                held=not found,
                verdict=worst,
                action="keep" if worst == "degraded" else "",
                evidence=[
                    f"{gpu['temperature']} C and {gpu['power']} W at most, SM clock "
                    f"{gpu['sm_clock']} MHz in the middle",
                    *bench.perturbed(document),
                ],
            )
        figures = (("temperature", "C"), ("power", "W"), ("sm-clock", "MHz"))
        for name, unit in figures if not bench.on_cpu(document) else ():
            value = gpu[name.replace("-", "_")]
            if value is not None:
                measure(f"load.{name}", unit, value, of)


@tier(
    "load.pcie",
    action="service",
    verdict="degraded",
    source="NVML API reference (current and maximum link); an idle GPU lowers its generation",
    fault="bench:pcie:1",
)
def test_pcie(
    benched: Document | Unusable,
    gpus: list[dict[str, Any]],
    look: Look,
    not_asked: Callable[[str], None],
) -> None:
    """Under load every GPU's PCIe link has the generation and width that both its ends can."""
    document = on_gpus(benched, look, not_asked, "pcie")
    for gpu, of in loaded(document, gpus, look, "PCIe link under load"):
        link = gpu["pcie"]
        for name, words in (("gen", "generation"), ("width", "lanes")):
            now, most = link[name], link[f"{name}_max"]
            what = f"PCIe {words} under load"
            if now is None or most is None:
                look.unknown(of, what, why="NVML does not tell it")
                continue
            look.at(
                of,
                what,
                found=now,
                expected=most,
                held=now >= most,
                verdict="degraded",
                baseline="physics",
                evidence=[f"{gpu['samples']} samples", *bench.perturbed(document or {})],
            )


@tier(
    "load.counters",
    source="NVML API reference, replay and error counters; ours: none grows where links are sound",
    fault="bench:counters:1",
)
def test_counters(
    benched: Document | Unusable,
    gpus: list[dict[str, Any]],
    look: Look,
    not_asked: Callable[[str], None],
) -> None:
    """No error counter of a GPU, its memory or its links grows while it works."""
    document = on_gpus(benched, look, not_asked, "counters")
    for gpu, of in loaded(document, gpus, look, "error counters under load"):
        compared = 0
        for name, (words, verdict, action) in bench.COUNTERS.items():
            before, after = gpu["before"].get(name), gpu["after"].get(name)
            if before is None:
                continue  # this model has none, or NVML keeps it from us
            compared += 1
            if after is None:
                look.unknown(of, words, why="NVML told it before the load and not after")
                continue
            look.at(
                of,
                f"{words} under load",
                found=max(0, after - before),
                expected=0,
                verdict=verdict,
                action=action,
                evidence=[f"{before} before, {after} after", *bench.perturbed(document or {})],
            )
        if not compared:
            look.unknown(of, "error counters under load", why="NVML tells none of them")
