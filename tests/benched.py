"""Documents of the torch tier for tests: eight GPUs, or two ranks on the CPU, all well."""

from __future__ import annotations

from typing import Any

from verify import bench

Document = dict[str, Any]
SIZES = (65_536, 1 << 30)


def rank(number: int, gpu: Document | None, world: int) -> Document:
    """A rank that has ended; `gpu` as NVML tells it, None on the CPU."""
    device = {"kind": "cpu", "index": None, "uuid": "", "name": "cpu"}
    if gpu is not None:
        device = {"kind": "cuda", "index": number, "uuid": gpu["uuid"], "name": gpu["name"]}
    types = ("bf16", "fp16", "tf32", "fp32") if gpu else ("bf16", "fp32", "fp64")
    names = [f"{one} {size}" for one in bench.FACTORS for size in SIZES]
    copied = {
        "to": 0,
        "compared": 300,
        "wrong": 0,
        "checksum": True,
        "access": True,
        "speed": 380.0,
    }
    others = [other for other in range(world) if other != number] if gpu else []
    return {
        "rank": number,
        "pid": 1000 + number,
        "state": "ended",
        "stage": "leave",
        "at": "leaves the process group",
        "steps": 300,
        "inside": True,
        "calls": 60,
        "collective": "",
        "sequence": None,
        "stack": [],
        "ended": True,
        "gone": True,
        "abandoned": False,
        "code": 0,
        "error": "",
        "others": False,
        "stderr": "",
        "device": device,
        "stages": dict.fromkeys(bench.STAGES, 1.5),
        "loaded": [100.0, 110.0],
        "products": {
            "compared": dict.fromkeys(types, 3000),
            "wrong": dict.fromkeys(types, 0),
            "left_out": {"fp8": "no fp8 before compute capability 8.9"} if gpu else {},
            "speed": {one: {"tflops": 600.0, "shape": [8192, 8192, 8192]} for one in types},
            "first": "",
        },
        "memory": {
            "buffer": 1 << 29, "cache": 50 << 20, "cache_by": "torch", "beyond": bool(gpu),
            "copy": 2900.0, "triad": 3000.0, "wrong": 0,
        },
        "copies": {
            "compared": 300 if gpu else 0,
            "wrong": 0,
            "checksum": True,
            "speed": {"to alone": 55.0, "from alone": 54.0, "to all": 40.0, "from all": 39.0}
            if gpu
            else {},
        },
        "peer": {str(number): [{**copied, "to": other} for other in others]} if others else {},
        "collectives": {
            "compared": dict.fromkeys(names, 1000),
            "wrong": 0,
            "first": "",
            "left_out": {},
            "seconds": {name: 0.004 + number / 10_000 for name in names},
        },
        "repeats": {
            "compared": 91,
            "different": 0,
            "first": "",
            "prints": {"product bf16": "1458", "training": "4693"},
        },
    }  # fmt: skip


def load_of(number: int, gpu: Document) -> Document:
    """What was sampled of one GPU under load."""
    counters: dict[str, int | None] = dict.fromkeys(bench.COUNTERS, 0)
    counters |= {"pcie_replays": 3, "nvlink_crc_data": None}
    return {
        "rank": number,
        "index": number,
        "uuid": gpu["uuid"],
        "samples": 40,
        "temperature": 61,
        "power": 690.0,
        "sm_clock": 1755,
        "reasons": {"4": 38},
        "pcie": {"gen": 5, "gen_max": 5, "width": 16, "width_max": 16},
        "before": counters,
        "after": dict(counters),
    }


def nccl(world: int) -> Document:
    """What NCCL 2.27 says on a host with NVSwitch."""
    tuned = [
        f"{name}: {size} Bytes -> Algo {how} channel{{Lo..Hi}}={{0..15}}"
        for name in ("AllReduce", "AllGather", "ReduceScatter")
        for size, how in ((65_536, "RING proto LL128"), (1 << 30, "NVLS proto SIMPLE"))
    ]
    first = ["NCCL version 2.27.7+cuda12.9",
             "NVLS multicast support is available on dev 0 (NVLS_NCHANNELS 16)"]  # fmt: skip
    return {
        str(one): [
            *(first if one == 0 else ()),
            *(tuned if one == 0 else ()),
            *(
                f"Channel 00 : {one}[{one}] -> {other}[{other}] via P2P/CUMEM"
                for other in range(world)
                if other != one
            ),
        ]
        for one in range(world)
    }


def benched(gpus: list[Document], relation: str = "NV18") -> Document:
    """A run on these GPUs; on two ranks of the CPU without any."""
    world = len(gpus) or 2
    cpu = not gpus
    return {
        "schema": 1,
        "payload": "0123456789abcdef",
        "host": "h1",
        "world": world,
        "asked_device": "cpu" if cpu else "cuda",
        "limit_s": 100.0,
        "seconds": 38.0,
        "perturbed": "",
        "pretended": [],
        "not_proven": ["peer copies between GPUs (P2P, NVLink)"] if cpu else [],
        "run": {
            "user": "alice",
            "torch": "2.13.0+cpu" if cpu else "2.13.0+cu130",
            "cuda": None if cpu else "13.0",
            "cudnn": "" if cpu else "92000",
            "nccl": "" if cpu else "2.27.7",
            "backend": "gloo" if cpu else "nccl",
            "device": "cpu" if cpu else "cuda",
            "machine": "a processor 01234567",
            "capability": [0, 0] if cpu else [9, 0],
            "environment": {},
        },
        "ranks": [rank(one, None if cpu else gpus[one], world) for one in range(world)],
        "load": None
        if cpu
        else {
            "state": "ok",
            "error": "",
            "gpus": [load_of(number, gpu) for number, gpu in enumerate(gpus)],
            "relations": {
                f"{a}-{b}": relation for a in range(world) for b in range(world) if a != b
            },
        },
        "nccl": {} if cpu else nccl(world),
    }


def stopped(of: Document, stage: str, **changes: Any) -> None:
    """Make a rank one that did not get beyond a stage."""
    for name in bench.STAGES[bench.STAGES.index(stage) :]:
        of.pop(name, None)
    of.update(ended=False, stage=stage, at="begins", inside=False)
    of.update(changes)
