"""What the torch tier answered, read as hostile data, and what may be concluded from it. Pure.

Travels to the host: standard library only, Python 3.10. The payload measures
(verify/payload/gpu_bench.py); what its figures are held against is here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from verify import nccl_log, training
from verify.checks import Component
from verify.gpus import part
from verify.training import STATES, Document, faults

STAGES = (
    "start", "rendezvous", "products", "memory", "copies", "peer", "collectives", "repeats",
    "leave",
)  # fmt: skip
PARTS = ("products", "memory", "copies", "peer", "collectives", "repeats")
"""Stages that leave figures."""

# ---- the form of the document; "?" behind a key: what a rank that did not get there leaves out

_NUMBER = (float, int, type(None))
_COUNT = (int, type(None))
_RANK = {
    # What ranks.py makes of every payload's ranks.
    **{key: form for key, form in training.RANK.items() if not key.endswith("?")},
    "stages?": {str: float},
    "loaded?": [float],
    "products?": {
        "compared": {str: int},
        "wrong": {str: int},
        "left_out": {str: str},
        "speed": {str: {"tflops": float, "shape": [int]}},
        "first": str,
    },
    "memory?": {
        "buffer": int, "cache": int, "cache_by": str, "beyond": bool,
        "copy": float, "triad": float, "wrong": int,
    },
    "copies?": {"compared": int, "wrong": int, "checksum": bool, "speed": {str: float}},
    "peer?": {
        str: [{
            "to": int, "compared": int, "wrong": int, "checksum": bool, "access": bool,
            "speed": float,
        }],
    },
    "collectives?": {
        "compared": {str: int}, "wrong": int, "first": str, "left_out": {str: str},
        "seconds": {str: float},
    },
    "repeats?": {"compared": int, "different": int, "first": str, "prints": {str: str}},
}  # fmt: skip
_RUN = {
    "user": str,
    "torch": str,
    "cuda": (str, type(None)),
    "cudnn": str,
    "nccl": str,
    "backend": str,
    "device": str,
    "machine": str,
    "capability": [int],
    "environment": {str: str},
}
_LOADED = {
    "rank": int,
    "index": int,
    "uuid": str,
    "samples": int,
    "temperature": _NUMBER,
    "power": _NUMBER,
    "sm_clock": _NUMBER,
    "reasons": ({str: int}, type(None)),
    "pcie": {"gen": _COUNT, "gen_max": _COUNT, "width": _COUNT, "width_max": _COUNT},
    "before": {str: _COUNT},
    "after": {str: _COUNT},
}
_LOAD = {"state": str, "error": str, "gpus": [_LOADED], "relations": {str: str}}
_FORM = {
    "schema": int,
    "payload": str,
    "host": str,
    "world": int,
    "asked_device": str,
    "limit_s": float,
    "seconds": float,
    "perturbed": str,
    "pretended": [str],
    "not_proven": [str],
    "run": (_RUN, {}),
    "ranks": [_RANK],
    "load": (_LOAD, type(None)),
    "nccl": {str: [str]},
}
MOST_PAIRS = 64 * 63


def read(said: Document, ranks: int, device: str) -> Document:
    """The document in what within.py says of the payload. Raises Unusable with the reason."""
    found = training.told(said)
    pairs = found["load"].pop("relations", {}) if isinstance(found.get("load"), dict) else {}
    wrong = faults(found, {**_FORM, "load": (_without_relations(), type(None))})
    wrong = wrong or _wrong_relations(pairs) or _contradictions(found, ranks, device)
    training.refuse(wrong)
    if found["load"] is not None:
        found["load"]["relations"] = pairs
    return found


def _without_relations() -> Document:
    # Every pair of 64 GPUs is more than `faults` takes for a sane number of entries.
    return {key: form for key, form in _LOAD.items() if key != "relations"}


def _wrong_relations(pairs: Any) -> list[str]:
    if not isinstance(pairs, dict) or len(pairs) > MOST_PAIRS:
        return [f"the document.load.relations is no object of at most {MOST_PAIRS} entries"]
    good = all(isinstance(one, str) and len(one) <= 20 and _pair(key) for key, one in pairs.items())
    return [] if good else ["the document.load.relations names what is no pair of ranks"]


def _pair(text: str) -> tuple[int, int] | None:
    one, _, other = text.partition("-")
    known = one.isascii() and one.isdigit() and other.isascii() and other.isdigit()
    return (int(one), int(other)) if known and len(text) < 10 else None


def _contradictions(found: Document, ranks: int, device: str) -> list[str]:
    """What is of the form and cannot be."""
    wrong = []
    if found["world"] != ranks or [one["rank"] for one in found["ranks"]] != list(range(ranks)):
        wrong.append(f"it tells of {found['world']} ranks and not of the {ranks} that were asked")
    if found["asked_device"] != device or found["run"].get("device", device) != device:
        wrong.append(f"it ran on another device than {device}")
    for one in found["ranks"]:
        name = f"rank {one['rank']}"
        if one["state"] not in STATES or one["stage"] not in STAGES:
            wrong.append(f"{name} is in a state or stage that nobody knows")
        if (one["state"] == "ended") != one["ended"]:
            wrong.append(f"{name} has ended and has not")
        if one["ended"] and not all(key in one for key in (*PARTS, "stages")):
            wrong.append(f"{name} has ended without having done everything")
        if one["ended"] and one["device"] is None:
            wrong.append(f"{name} has ended on no device")
        targets = [(source, to["to"]) for source, all in one.get("peer", {}).items() for to in all]
        if any(
            source not in map(str, range(ranks)) or not 0 <= to < ranks for source, to in targets
        ):
            wrong.append(f"{name} copied between GPUs that are not there")
    if any(one["ended"] for one in found["ranks"]) and not found["run"]:
        wrong.append("it does not say what it ran on")
    wrong += training.lost_alone(found["ranks"])
    known = set(map(str, range(ranks)))
    if (
        not set(found["nccl"]) <= known
        or not {str(gpu["rank"]) for gpu in (found["load"] or {"gpus": []})["gpus"]} <= known
    ):
        wrong.append("it tells of ranks that are not there")
    return wrong


# ---- what ranks are


def on_cpu(document: Document) -> bool:
    """Torch's CPU build ran, and no GPU was loaded."""
    return bool(document["asked_device"] == "cpu")


def component(number: int, document: Document, gpus: list[Document]) -> Component:
    """The GPU of a rank, as NVML shows it; a rank of the CPU is itself."""
    if on_cpu(document):
        return Component(kind="rank", name="cpu", index=number)
    return training.component(document["ranks"][number], gpus)


def stand_in(number: int, document: Document, gpus: list[Document]) -> Component:
    """The same; but a CPU that pretends, since a test wants it so, takes the GPUs in order."""
    if on_cpu(document):
        for gpu in gpus:
            if gpu["index"] == number:
                return part(gpu)
    return component(number, document, gpus)


def perturbed(document: Document) -> list[str]:
    """The line of evidence that a finding was made on purpose."""
    words = document.get("perturbed", "")
    return [f"perturbed on purpose: {words}"] if words else []


# ---- collectives

FACTORS = {
    "all-reduce": 2.0, "all-gather": 1.0, "reduce-scatter": 1.0, "all-to-all": 1.0,
}  # fmt: skip
"""Times (n - 1) / n: bus bandwidth by algorithm bandwidth (nccl-tests, doc/PERFORMANCE.md)."""
_NCCL_NAMES = {
    "all-reduce": "AllReduce", "all-gather": "AllGather", "reduce-scatter": "ReduceScatter",
}  # fmt: skip


def case_of(name: str) -> tuple[str, int] | None:
    """Operation and bytes of a figure's name, as "all-reduce 4096"."""
    operation, _, size = name.partition(" ")
    known = operation in FACTORS and size.isascii() and size.isdigit() and len(size) < 16
    return (operation, int(size)) if known else None


def bus_bandwidth(operation: str, size: int, world: int, seconds: float) -> float:
    """GB/s by nccl-tests' definition: `size` is all that a rank gives or gets, whichever is more.

    It does not depend on the number of ranks where the hardware's slowest part is used fully.
    """
    return FACTORS[operation] * (world - 1) / world * size / seconds / 1e9


def slowest(document: Document) -> dict[tuple[str, int], float]:
    """Seconds of each collective, on the rank that took longest; only what all ranks have."""
    times: dict[str, list[float]] = {}
    for rank in document["ranks"]:
        for name, seconds in rank.get("collectives", {"seconds": {}})["seconds"].items():
            times.setdefault(name, []).append(seconds)
    found = {}
    for name, all_times in times.items():
        case = case_of(name)
        if case and len(all_times) == document["world"] and min(all_times) > 0:
            found[case] = max(all_times)
    return found


def statement(document: Document) -> nccl_log.Statement:
    """What NCCL said, of all ranks."""
    return nccl_log.read(line for lines in document["nccl"].values() for line in lines)


def algorithm(said: nccl_log.Statement, operation: str, size: int, world: int) -> str:
    """What NCCL says that it ran; "unsaid" where it does not (it never does of all-to-all).

    NCCL counts the bytes of all ranks or of one, by its version.
    """
    name = _NCCL_NAMES.get(operation)
    found = {
        one.algorithm
        for one in said.choices
        if one.operation == name and one.bytes in (size, size // world)
    } or {
        one.algorithm for one in said.choices if one.operation == "" and name and one.bytes == size
    }
    return found.pop() if len(found) == 1 else "unsaid" if not found else "mixed"


def relations(document: Document) -> dict[tuple[int, int], str]:
    """How the GPUs of each directed pair of ranks are joined: NV18, PIX ...; unknown."""
    world = range(document["world"])
    said = (document["load"] or {"relations": {}})["relations"]
    return {
        (one, other): said.get(f"{one}-{other}", "unknown")
        for one in world
        for other in world
        if one != other
    }


# ---- copies between GPUs


def pairs(document: Document) -> Iterator[tuple[int, int, Document]]:
    """Source, target and what was seen of each copy between GPUs."""
    for rank in document["ranks"]:
        for source, targets in rank.get("peer", {}).items():
            for one in targets:
                yield int(source), one["to"], one


def culprit(bad: Iterable[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """For each wrong pair, the GPU that explains most of them; of two, the source."""
    wrong = list(bad)
    times: dict[int, int] = {}
    for pair in wrong:
        for one in pair:
            times[one] = times.get(one, 0) + 1
    return {(a, b): b if times[b] > times[a] else a for a, b in wrong}


# ---- fingerprints


def print_key(rank: Document, document: Document) -> str:
    """What makes the bits of two parts comparable: product, software, payload, kind of device."""
    run, device = document["run"], rank["device"]
    gpu = device["kind"] != "cpu"
    product = device["name"] if gpu else run["machine"]
    software = f"torch {run['torch']}"
    if gpu:
        software += f" cuda {run['cuda']} cudnn {run['cudnn']}"
    return " | ".join((product, software, document["payload"], device["kind"]))[:200]


# ---- load

REASONS = {
    0x8: ("hardware slowdown", "fail"),
    0x20: ("software thermal slowdown", "degraded"),
    0x40: ("hardware thermal slowdown", "fail"),
    0x80: ("power brake", "fail"),
}
"""Clock event reasons that no healthy GPU has under load, and how bad they are (NVML API reference,
nvmlClocksEventReasons). The power cap of software (0x4) is what a loaded GPU usually runs at."""

COUNTERS = {
    "pcie_replays": ("PCIe replays", "degraded", "service"),
    "ecc_corrected": ("corrected memory errors", "degraded", "keep"),
    "ecc_uncorrected": ("uncorrected memory errors", "fail", "drain"),
    "remapped_corrected": ("rows remapped after corrected errors", "degraded", "keep"),
    "remapped_uncorrected": ("rows remapped after uncorrected errors", "fail", "reset"),
    "nvlink_replay": ("NVLink replays", "degraded", "service"),
    "nvlink_recovery": ("NVLink recoveries", "fail", "service"),
    "nvlink_crc_flit": ("NVLink CRC errors in flits", "degraded", "service"),
    "nvlink_crc_data": ("NVLink CRC errors in data", "degraded", "service"),
}
"""Counter -> what it counts, and what its growth under load is worth."""


def reasons(gpu: Document) -> list[tuple[str, int, str]]:
    """What held a GPU's clocks back under load, in how many samples, and how bad that is."""
    found = []
    for bit, (words, verdict) in REASONS.items():
        times = (gpu["reasons"] or {}).get(str(bit), 0)
        if times:
            found.append((words, times, verdict))
    return found
