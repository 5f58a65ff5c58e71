"""Measure every GPU of this host at once, and whether what they compute and move is exact.

    python3 gpu_bench.py --ranks 8 --device cuda       one rank per GPU, over NCCL
    python3 gpu_bench.py --ranks 2 --device cpu        two ranks on the CPU, over gloo, reduced

Standard output gets one line, `GPUFLEET {json}`; what is for people goes to standard error. It
measures and reports, it does not judge: exit 0 means that the line was printed. All data are seeded
and made in memory, from integers, so that they are the same on every host. Stage by stage, on every
rank:

  products      matrix products of small integers against sums made without a product; their speed
  memory        copy and triad as STREAM counts them, on buffers that no cache holds
  copies        to and from pinned host memory, each GPU alone, then all together
  peer          from each GPU to each other one, bit by bit
  collectives   against closed forms, over sizes; their time, and what NCCL says of itself
  repeats       the same products and the same short training again: the same bits, and their digest

Each rank writes down where it is before each step, in a private directory, so that a rank that
dies, hangs or fails is named with its stage. Meanwhile gpu_load.py samples NVML. Nothing resolves a
host name. Standard library, torch (2.1 or newer) and ranks.py beside it; Python 3.10 must do.
"""

import argparse
import ctypes
import functools
import hashlib
import json
import math
import os
import platform
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# This script's folder holds modules that are no top-level names.
sys.path[:] = [str(HERE.parent.parent), *(place for place in sys.path if place != str(HERE))]

from verify.payload.ranks import (  # noqa: E402
    RECORDER,
    STOPPED,
    Record,
    StopAskedError,
    Trail,
    end,
    fail,
    keep_time,
    name_states,
    perturbations,
    read_record,
    say,
    stop,
    tail,
    watch,
)

SCHEMA = 1
LIMIT = 100.0
"""Seconds after which a run is stopped whatever it does; a healthy one takes half of it."""
PATIENCE = 30.0
"""Seconds that a rank waits for the others within one step."""
SAMPLER_S = 5.0
"""Seconds that the sampler has to read all counters once more; NVML that takes longer hangs."""
ABORT_S = 15.0
"""Seconds that NCCL has beyond `patience` before it aborts a process that waits: those in which the
launcher asks each rank where it is, for an aborted one says nothing."""
STAGES = (
    "start", "rendezvous", "products", "memory", "copies", "peer", "collectives", "repeats",
    "leave",
)  # fmt: skip
PRETENDED = ("copy", "peer", "transport", "clocks", "pcie", "counters")
"""Faults of what a CPU does not have. With one of them the CPU build goes through the stages that
GPUs alone have, on host memory and with idle GPUs of NVML, and the document says so."""
PERTURBATIONS = (
    "die", "hang", "raise", "product", "collective", "repeat", "replay", "print", *PRETENDED,
)  # fmt: skip
"""Faults that tests put into one rank: it dies, hangs, raises; gets a wrong element from a product,
a collective, a repeated product, a repeated training; has other bits than the other ranks; a wrong
copy from the host, from it as a peer; goes through host memory; is slowed down, has half of its
PCIe lanes, counts errors under load."""
PERTURB = "GPUFLEET_BENCH_PERTURB"
"""Environment variable with the same meaning as --perturb; the report says that it was set."""
FOLDER = "GPUFLEET_BENCH_FOLDER"
PR_SET_PDEATHSIG = 1
SEED = 20_261
MOST_SAID = 390
"""Lines of NCCL's own that are handed on, of each rank."""
NOT_ON_CPU = (
    "peer copies between GPUs (P2P, NVLink)", "NVSwitch reductions (NVLS)", "NCCL's transports",
    "products in fp8, fp16 and TF32", "copies from and to pinned memory", "GPU memory",
    "clocks, power and the PCIe link under load", "DataParallel",
)  # fmt: skip


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """What was asked for on the command line. Exits 2 on what makes no sense."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--ranks", type=int, default=1, help="how many to start")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for the whole run")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds per step")
    parser.add_argument(
        "--perturb",
        default=os.environ.get(PERTURB, ""),
        metavar="KIND:RANK[:STAGE],...",
        help=f"for tests: {', '.join(PERTURBATIONS)}",
    )
    asked = parser.parse_args(argv)
    if not 1 <= asked.ranks <= 64:
        parser.error(f"--ranks {asked.ranks}: from 1 to 64")
    for kind, rank, stage in perturbations(asked.perturb):
        known = kind in PERTURBATIONS and rank.isascii() and rank.isdigit()
        if not known or stage not in ("", *STAGES):
            parser.error(f"--perturb {asked.perturb}: KIND:RANK[:STAGE],...")
    return asked


def pretended(asked: argparse.Namespace) -> list[str]:
    """What a CPU pretends to have, since a test wants to see it fail."""
    kinds = {kind for kind, _, _ in perturbations(asked.perturb)}
    return [one for one in PRETENDED if one in kinds] if asked.device == "cpu" else []


# ---------------------------------------------------------------- the launcher: no torch in here


def launch(asked: argparse.Namespace) -> int:
    """Start the ranks, watch them, print the document. The ranks stay in this process group."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="gpufleet-bench-"))
    signal.signal(signal.SIGTERM, stop)
    ranks: list[subprocess.Popen[bytes]] = []
    sampler: subprocess.Popen[bytes] | None = None
    try:
        sampler = sample(asked, folder)
        for rank in range(asked.ranks):
            ranks.append(start(rank, asked, folder))
        watch(ranks, folder, began + asked.limit, asked.patience, STAGES)
    except StopAskedError:
        say("told to stop")
    finally:
        # Taken before anything is stopped: who is still running now is waiting, or is the culprit.
        codes = [process.poll() for process in ranks]
        end(ranks)
    records = [read_record(folder, rank) for rank in range(asked.ranks)]
    for rank, record in enumerate(records):
        code = codes[rank] if rank < len(codes) else None
        gone = code not in (None, STOPPED)
        record.pop("stopped", None)
        abandoned = rank < len(ranks) and ranks[rank].poll() is None
        record |= {"code": code, "gone": gone, "abandoned": abandoned}
        record["stderr"] = tail(folder / f"rank-{rank}.err")
    load = stop_sampling(sampler, folder)
    answer = document(records, asked, seconds=time.monotonic() - began)
    answer["load"] = under_load(load, records, asked)
    answer["nccl"] = nccl_lines(folder, asked)
    shutil.rmtree(folder, ignore_errors=True)
    print("GPUFLEET " + json.dumps(answer, separators=(",", ":")), flush=True)
    return 0


def start(rank: int, asked: argparse.Namespace, folder: Path) -> subprocess.Popen[bytes]:
    """Start one rank: this file again, told by its environment which one it is."""
    own = {"RANK": rank, "WORLD_SIZE": asked.ranks, FOLDER: folder}
    options = ("ranks", "device", "limit", "patience", "perturb")
    passed = [f"--{name}={getattr(asked, name)}" for name in options]
    with (folder / f"rank-{rank}.err").open("wb") as errors:
        # Libraries write to standard output too: it belongs to the one line.
        return subprocess.Popen(
            [sys.executable, "-B", os.path.abspath(__file__), *passed],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            env=os.environ | {name: str(value) for name, value in own.items()},
        )


def sample(asked: argparse.Namespace, folder: Path) -> subprocess.Popen[bytes] | None:
    """Start what samples NVML meanwhile. None where no GPU is loaded and none is pretended."""
    if asked.device == "cpu" and not pretended(asked):
        return None
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gpu_load.py")
    with (folder / "load.err").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-B", script, str(folder), str(asked.limit)],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
        )


def stop_sampling(sampler: subprocess.Popen[bytes] | None, folder: Path) -> Record | None:
    """What the sampler has left; it gets some seconds to read the counters once more."""
    if sampler is None:
        return None
    (folder / "load.stop").touch()
    hung = False
    try:
        sampler.wait(SAMPLER_S)
    except subprocess.TimeoutExpired:
        hung = True
        sampler.kill()
    try:
        left: Record = json.loads((folder / "load.json").read_text())
    except (OSError, ValueError):
        left = {"state": "failed", "error": tail(folder / "load.err")[-200:], "gpus": []}
    if hung:
        left |= {"state": "hung", "error": "NVML no longer answered under load"}
    return left


def document(records: list[Record], asked: argparse.Namespace, *, seconds: float) -> Record:
    """The one document: what was run, and each rank's part."""
    name_states(records)
    told: Record = next((record["run"] for record in records if "run" in record), {})
    for record in records:
        record.pop("run", None)
    return {
        "schema": SCHEMA,
        "payload": hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16],
        "host": os.uname().nodename[:200],
        "world": len(records),
        "asked_device": asked.device,
        "limit_s": asked.limit,
        "seconds": round(seconds, 3),
        "perturbed": asked.perturb,
        "pretended": pretended(asked),
        "not_proven": list(NOT_ON_CPU) if asked.device == "cpu" else [],
        "run": told,
        "ranks": records,
    }


# ---------------------------------------------------------------- what NVML and NCCL said meanwhile


def under_load(left: Record | None, records: list[Record], asked: argparse.Namespace) -> Any:
    """Of each rank's GPU: what was sampled between the beginning and the end of its load."""
    if left is None:
        return None
    found: Record = {"state": left["state"], "error": left["error"], "gpus": []}
    faults = {(kind, int(rank)) for kind, rank, _ in perturbations(asked.perturb)}
    index_of = {}
    for record in records:
        rank = record["rank"]
        uuid = (record["device"] or {}).get("uuid")
        for gpu in left["gpus"]:
            # A CPU that pretends takes the GPUs in their order.
            if (gpu["uuid"] == uuid) if uuid else (gpu["index"] == rank):
                index_of[rank] = gpu["index"]
                found["gpus"].append(
                    of_gpu(gpu, rank, record.get("loaded"), bool(pretended(asked)), faults)
                )
    relations = left.get("relations", {})
    found["relations"] = {
        f"{a}-{b}": relations.get(f"{index_of[a]}-{index_of[b]}", "unknown")
        for a in index_of
        for b in index_of
        if a != b
    }
    return found


def of_gpu(
    gpu: Record, rank: int, span: Any, pretends: bool, faults: set[tuple[str, int]]
) -> Record:
    """One GPU's samples under load, in brief; `faults` are those that tests want."""
    first, last = span or (math.inf, -math.inf)
    samples = [one[1:] for one in gpu["samples"] if first <= one[0] <= last]
    if pretends:  # an idle GPU of NVML's stands for a loaded one
        samples = [[*one[:4], gpu["gen_max"], *one[5:]] for one in samples]
    after = dict(gpu["after"] or dict.fromkeys(gpu["before"]))
    for one in samples:
        if ("clocks", rank) in faults and one[3] is not None:
            one[3] |= 0x8
        if ("pcie", rank) in faults and one[5] is not None:
            one[5] //= 2
    if ("counters", rank) in faults and after.get("pcie_replays") is not None:
        after["pcie_replays"] += 7
    columns = [[one[place] for one in samples if one[place] is not None] for place in range(6)]
    heat, power, clock, reasons, generation, width = columns
    counted: dict[str, int] = {}
    for value in reasons:
        for bit in range(16):
            if value >> bit & 1:
                counted[str(1 << bit)] = counted.get(str(1 << bit), 0) + 1
    return {
        "rank": rank,
        "index": gpu["index"],
        "uuid": gpu["uuid"],
        "samples": len(samples),
        "temperature": max(heat, default=None),
        "power": max(power, default=None),
        "sm_clock": sorted(clock)[len(clock) // 2] if clock else None,
        "reasons": counted if reasons else None,
        "pcie": {
            "gen": max(generation, default=None),
            "gen_max": gpu["gen_max"],
            "width": min(width, default=None),
            "width_max": gpu["width_max"],
        },
        "before": gpu["before"],
        "after": after,
    }


TELLING = re.compile(
    r" via |Bytes -> |NVLS multicast|NCCL version|set by environment|Using network|GPU Direct RDMA"
)
SHOWN = re.compile(r"^.*?NCCL INFO +")
CHANNEL = re.compile(r"Channel \d+(/\d+)?")


def nccl_lines(folder: Path, asked: argparse.Namespace) -> dict[str, list[str]]:
    """Of each rank, NCCL's lines about versions, transports and algorithms, each form once."""
    found: dict[str, dict[str, None]] = {}
    for path in sorted(folder.glob("nccl.*.*")):
        mine = found.setdefault(path.name.split(".")[1], {})
        with path.open(errors="replace") as file:
            for line in file:
                if TELLING.search(line):
                    short = CHANNEL.sub("Channel 00", SHOWN.sub("", line.strip(), count=1), 1)
                    mine[short[:300]] = None
                if len(mine) > 5000:
                    break
    if "transport" in pretended(asked):
        bad = {int(rank) for kind, rank, _ in perturbations(asked.perturb) if kind == "transport"}
        for one in range(asked.ranks):
            way = "SHM/direct/direct" if one in bad else "P2P/CUMEM"
            others = [other for other in range(asked.ranks) if other != one]
            lines = [f"Channel 00 : {one}[{one}] -> {other}[{other}] via {way}" for other in others]
            found[str(one)] = dict.fromkeys(lines)
    # What comes once is worth more than the hundredth pair: the rare forms first.
    return {
        rank: sorted(lines, key=lambda line: (" via " in line, "Bytes -> " in line))[:MOST_SAID]
        for rank, lines in found.items()
    }


if __name__ == "__main__" and "RANK" not in os.environ:
    sys.exit(launch(arguments()))


# ---------------------------------------------------------------- one rank


def prepare() -> tuple[argparse.Namespace, Trail, int]:
    """What a rank does before it loads torch: (asked, trail, world)."""
    asked = arguments()
    # Before torch starts threads, which inherit it: only the thread of `keep_time` gets SIGTERM.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    world, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    # Whoever kills the launcher takes its ranks along.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    folder = Path(os.environ[FOLDER])
    own = {"OMP_NUM_THREADS": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    # What torch._dynamo makes when it is loaded would stay in the user's temporary directory.
    own["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
    # One host: the loopback interface does, and the host's own name is not looked up for it.
    own |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", **RECORDER}
    for name, value in own.items():
        os.environ.setdefault(name, value)
    # docs.nvidia.com, NCCL environment variables: TUNING tells what is run, INIT what joins ranks.
    os.environ |= {
        "NCCL_DEBUG": "INFO",
        "NCCL_DEBUG_SUBSYS": "INIT,ENV,NET,P2P,SHM,NVLS,TUNING",
        "NCCL_DEBUG_FILE": str(folder / f"nccl.{rank}.%p"),
        # What cuBLAS needs to repeat itself bit by bit (docs.nvidia.com, cuBLAS, reproducibility).
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    trail = Trail(folder, rank, asked.perturb)
    sys.excepthook = functools.partial(fail, trail, no_more)
    keep_time(trail, asked.limit, no_more)
    trail.at("loads torch")
    return asked, trail, world


def no_more() -> None:
    """What a rank does before it is ended: the launcher makes the document, and it does nothing."""


if __name__ == "__main__":
    ASKED, TRAIL, WORLD = prepare()

import torch  # noqa: E402 - the launcher must not need it, and a rank that hangs in it is named
import torch.distributed as dist  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.distributed import FileStore  # type: ignore[attr-defined] # noqa: E402
from torch.nn import functional  # noqa: E402


def main() -> int:
    """Run the stages on this rank."""
    stages(ASKED, TRAIL, WORLD)
    TRAIL.record["ended"] = True
    TRAIL.save()
    return 0


def stages(asked: argparse.Namespace, trail: Trail, world: int) -> None:
    """Everything that one rank does, in order."""
    device = torch.device(asked.device, trail.rank) if asked.device == "cuda" else CPU
    torch.set_num_threads(1)
    if device.type == "cuda":
        found = torch.cuda.device_count()
        if trail.rank >= found:
            raise RuntimeError(f"torch sees {found} CUDA devices; rank {trail.rank} has none")
        torch.cuda.set_device(device)  # before anything makes a context on GPU 0
    trail.record["device"] = describe(device)
    trail.record["run"] = about(device)

    trail.enter("rendezvous")
    store = FileStore(str(trail.folder / "store"), world)
    store.set(f"here-{trail.rank}", "1")
    trail.at("waits for all ranks", inside=True)
    store.wait([f"here-{other}" for other in range(world)], timedelta(seconds=asked.limit))
    trail.at("makes the process group", inside=True)
    backend = "nccl" if device.type == "cuda" else "gloo"
    abort = ABORT_S if backend == "nccl" else 0.0
    patience = timedelta(seconds=asked.patience + abort)
    dist.init_process_group(
        backend, store=store, rank=trail.rank, world_size=world, timeout=patience
    )
    bench = Bench(trail, world, device, SIZES[device.type], pretended(asked), asked.perturb)

    for name in ("products", "memory", "copies", "peer", "collectives", "repeats"):
        trail.enter(name)
        trail.record[name] = STEPS[name](bench)
    trail.enter("leave")
    trail.at("last barrier", inside=True)
    dist.barrier()
    trail.at("leaves the process group", inside=True)
    dist.destroy_process_group()
    trail.record["stages"]["leave"] = round(time.monotonic() - trail.began, 3)


CPU = torch.device("cpu")
OWN_SETTINGS = ("NCCL_DEBUG", "NCCL_SOCKET_IFNAME")


def describe(device: torch.device) -> Record:
    """Which part of the host this is."""
    if device.type == "cpu":
        return {"kind": "cpu", "index": None, "uuid": "", "name": "cpu"}
    has = torch.cuda.get_device_properties(device)
    uuid = str(getattr(has, "uuid", "")).removeprefix("GPU-")
    return {
        "kind": "cuda",
        "index": device.index,
        "uuid": f"GPU-{uuid}" if uuid else "",
        "name": has.name,
    }


def about(device: torch.device) -> Record:
    """What the bits of a result may depend on, besides the part itself."""
    cuda = device.type == "cuda"
    cudnn: Any = torch.backends.cudnn
    version = cudnn.version() if cuda and cudnn.is_available() else None
    nccl: Any = torch.cuda.nccl
    return {
        "user": user_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": str(version or ""),
        "backend": "nccl" if cuda else "gloo",
        "device": device.type,
        "nccl": ".".join(map(str, nccl.version())) if cuda else "",
        "machine": platform.machine() if cuda else processor(),
        "capability": list(torch.cuda.get_device_capability(device)) if cuda else [0, 0],
        "environment": {
            name: value[:200]
            for name, value in sorted(os.environ.items())
            if name.startswith("NCCL_") and not name.startswith(OWN_SETTINGS)
        },
    }


def processor() -> str:
    """What the kernels of a CPU are chosen by: its model, and a hash of its flags."""
    model = flags = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and not model:
            model = " ".join(value.split())
        if key.strip() in ("flags", "Features") and not flags:
            flags = " ".join(sorted(value.split()))
    return f"{model or platform.machine()} {hashlib.sha256(flags.encode()).hexdigest()[:8]}"


def user_name() -> str:
    """Whom this runs as; by number where the host has no name for it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


# ---------------------------------------------------------------- sizes, data, time


@dataclass(frozen=True)
class Size:
    """How large and how often."""

    shapes: tuple[tuple[int, int, int], ...]
    """(m, n, k) of products whose speed is taken; the best counts."""
    exact: int
    """Rows and columns of a product whose result is known."""
    buffer: int
    """Least bytes of a buffer of copy and triad."""
    buffer_most: int
    copied: int
    """Bytes of a copy between host and GPU, and between GPUs."""
    messages: tuple[int, ...]
    """Bytes of collectives."""
    repeats: int
    """Repetitions of a product that must have the same bits."""
    steps: int
    """Steps of the training that is run twice."""
    width: int
    seconds: float
    """Least time that a figure is taken over."""


SIZES = {
    "cpu": Size(
        shapes=((256, 256, 256), (384, 384, 384)), exact=256, buffer=16 << 20,
        buffer_most=16 << 20, copied=1 << 20, messages=(4 << 10, 256 << 10, 2 << 20), repeats=4,
        steps=4, width=32, seconds=0.1,
    ),
    "cuda": Size(
        shapes=((4096, 4096, 4096), (8192, 8192, 8192), (16384, 8192, 4096)), exact=2048,
        buffer=512 << 20, buffer_most=2 << 30, copied=64 << 20,
        messages=(64 << 10, 1 << 20, 16 << 20, 128 << 20, 1 << 30), repeats=30, steps=12,
        width=512, seconds=0.3,
    ),
}  # fmt: skip
ROUNDS = 5
"""A figure is the median of so many, each over part of `seconds`: one that was disturbed is no
figure, and the best of many is luck."""
L2_ASSUMED = 128 << 20
"""Where torch does not tell the size of a GPU's L2 cache: more than any GPU of today has (B200: 126
MiB by torch's own get_device_properties)."""


@dataclass(frozen=True)
class Bench:
    """What every stage works with."""

    trail: Trail
    world: int
    device: torch.device
    size: Size
    pretended: list[str]
    perturb: str

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def settle(self) -> None:
        """Wait for what was queued on the device, so that a place on the trail means that place."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def together(self, what: str) -> None:
        """Go on only when all ranks are here, so that they load the host at the same time."""
        self.settle()
        self.trail.at(f"all wait: {what}", inside=True)
        dist.barrier()
        self.trail.at(what)


def once(bench: Bench, work: Callable[[], Any], times: int) -> float:
    """Seconds that `work` takes, `times` in a row: by the GPU's own clock, where there is one."""
    if not bench.cuda:
        began = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - began) / times
    event: Any = torch.cuda.Event
    first, last = event(enable_timing=True), event(enable_timing=True)
    first.record()
    for _ in range(times):
        work()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1000 / times


def timed(bench: Bench, work: Callable[[], Any], seconds: float = 0.0) -> float:
    """Seconds that `work` takes: warmed up, then the median of ROUNDS."""
    once(bench, work, 2)
    each = max(once(bench, work, 2), 1e-7)
    times = max(1, min(2000, int((seconds or bench.size.seconds) / ROUNDS / each)))
    return sorted(once(bench, work, times) for _ in range(ROUNDS))[ROUNDS // 2]


def whole(shape: tuple[int, ...], low: int, high: int, seed: int) -> Tensor:
    """Random integers of [low, high), the same on every host: no rounding has made them."""
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(SEED + seed))


def values(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int) -> Tensor:
    """Random data in (-1, 1): whole multiples of 1/256, so exact in every type but the smallest."""
    return (whole(shape, -255, 256, seed).to(torch.float32) / 256).to(device).to(dtype)


def digest(*tensors: Tensor) -> str:
    """SHA-256 over the raw bytes, so that -0.0 and 0.0, or two NaNs, are told apart."""
    sha = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        sha.update(ctypes.string_at(plain.data_ptr(), plain.numel() * plain.element_size()))
    return sha.hexdigest()


def spoil(tensor: Tensor) -> None:
    """Make one element wrong, as a test wants it."""
    tensor.view(-1)[tensor.numel() // 2] += 1


# ---------------------------------------------------------------- matrix products

FP8 = getattr(torch, "float8_e4m3fn", None)
Multiply = Callable[[Tensor, Tensor], Tensor]


def multiplied(dtype: str, bench: Bench) -> tuple[Multiply, torch.dtype] | str:
    """How a product in this type is made, of (m, k) and (k, n), and from what; or why it is not."""
    if dtype == "fp8":
        return scaled(bench)
    plain = {
        "bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32,
        "fp32": torch.float32, "fp64": torch.float64,
    }[dtype]  # fmt: skip
    if dtype == "bf16" and bench.cuda and torch.cuda.get_device_capability(bench.device) < (8, 0):
        return "no bf16 in hardware before compute capability 8.0"
    if dtype == "tf32" and torch.cuda.get_device_capability(bench.device) < (8, 0):
        return "no TF32 before compute capability 8.0"
    return torch.matmul, plain


def scaled(bench: Bench) -> tuple[Multiply, torch.dtype] | str:
    """fp8 products: torch._scaled_mm, whose form has changed from 2.1 on."""
    if FP8 is None or not hasattr(torch, "_scaled_mm"):
        return f"torch {torch.__version__} has no torch._scaled_mm"
    if torch.cuda.get_device_capability(bench.device) < (8, 9):
        return "no fp8 before compute capability 8.9"
    one = torch.ones((), device=bench.device)

    def multiply(a: Tensor, b: Tensor) -> Tensor:
        # The second factor must lie column by column.
        columns = b if b.stride(0) == 1 else b.t().contiguous().t()
        made = torch._scaled_mm(a, columns, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
        return made[0] if isinstance(made, tuple) else made

    try:
        tried = torch.zeros(64, 64, device=bench.device).to(FP8)
        multiply(tried, tried)
        bench.settle()
    except (RuntimeError, TypeError, ValueError) as error:
        return f"torch._scaled_mm: {type(error).__name__}: {str(error)[:150]}"
    return multiply, FP8


def exact_factors(size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two factors of -1, 0 and 1, and their product, which was made without any product.

    Every column of the second factor has 64 places that are not zero. So every sum, in any order,
    is an integer up to 64: exact in each type, bfloat16 (256) and its results included.
    """
    places = 64
    a = whole((size, size), -1, 2, seed).to(torch.int32)
    signs = (whole((places, size), 0, 2, seed + 1) * 2 - 1).to(torch.int32)
    rows = torch.stack(
        [whole((size,), 0, size // places, seed + 2 + at) + at * (size // places)
         for at in range(places)]
    )  # fmt: skip
    b = torch.zeros(size, size, dtype=torch.int32)
    b[rows, torch.arange(size).expand(places, size)] = signs
    product = torch.zeros(size, size, dtype=torch.int32)
    for at in range(places):
        product += a[:, rows[at]] * signs[at]
    return a, b, product


def products(bench: Bench) -> Record:
    """Each type: whether a product is what it must be, and the best speed of a few shapes."""
    trail, size = bench.trail, bench.size
    types = ("bf16", "fp16", "tf32", "fp32", "fp8") if bench.cuda else ("bf16", "fp32", "fp64")
    found: Record = {"compared": {}, "wrong": {}, "left_out": {}, "speed": {}, "first": ""}
    trail.at("makes factors with a known product")
    a, b, wanted = exact_factors(size.exact, 100)
    known = wanted.to(bench.device)
    ways: dict[str, tuple[Multiply, torch.dtype]] = {}
    for dtype in types:
        trail.at(f"product in {dtype} of a known result")
        way = multiplied(dtype, bench)
        if isinstance(way, str):
            found["left_out"][dtype] = way
            continue
        ways[dtype] = way
        precision(dtype)
        multiply, plain = way
        factors = [one.to(bench.device).to(plain) for one in (a, b)]
        for turn in range(3):
            made = multiply(*factors)
            if trail.wrong("product") and turn == 1:
                spoil(made)
            bad = int((made.to(torch.int32) != known).sum())
            found["compared"][dtype] = found["compared"].get(dtype, 0) + made.numel()
            found["wrong"][dtype] = found["wrong"].get(dtype, 0) + bad
            if bad and not found["first"]:
                at = int((made.to(torch.int32) != known).view(-1).nonzero()[0])
                found["first"] = (
                    f"{dtype}, turn {turn}: {bad} of {made.numel()}; element {at} is "
                    f"{float(made.reshape(-1)[at])} and not {int(known.view(-1)[at])}"
                )
        del factors
    began = 0.0
    for dtype, (multiply, plain) in ways.items():
        precision(dtype)
        best: Record = {"tflops": 0.0, "shape": []}
        for m, n, k in size.shapes:
            one = random_like((m, k), plain, bench.device, 1)
            other = random_like((k, n), plain, bench.device, 2)
            if dtype == "fp8":
                other = other.t().contiguous().t()
            bench.together(f"product in {dtype}, {m} x {n} x {k}")
            began = began or time.monotonic()
            took = timed(bench, functools.partial(multiply, one, other))
            speed = 2 * m * n * k / took / 1e12
            if speed > best["tflops"]:
                best = {"tflops": round(speed, 4), "shape": [m, n, k]}
            del one, other
        found["speed"][dtype] = best
    trail.record["loaded"] = [round(began, 3), round(time.monotonic(), 3)]
    precision("fp32")
    return found


def precision(dtype: str) -> None:
    """float32 is float32, but where TF32 is asked for."""
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    torch.backends.cudnn.allow_tf32 = dtype == "tf32"


def random_like(
    shape: tuple[int, int], dtype: torch.dtype, device: torch.device, seed: int
) -> Tensor:
    """Random data, made on the device: power, and so speed, depends on what bits there are."""
    own = torch.Generator(device).manual_seed(SEED + seed)
    return torch.randn(shape, generator=own, device=device).to(dtype)


# ---------------------------------------------------------------- memory


def cache_bytes(device: torch.device) -> tuple[int, str]:
    """The last cache before memory, and who says so."""
    if device.type == "cuda":
        told_by = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)
        return (int(told_by), "torch") if told_by else (L2_ASSUMED, "assumed")
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        if text[:-1].isdigit() and text[-1:] in "KM":
            sizes.append(int(text[:-1]) << (10 if text[-1] == "K" else 20))
    return (max(sizes), "sysfs") if sizes else (0, "unknown")


def memory(bench: Bench) -> Record:
    """Copy (2 bytes moved per byte) and triad (3) on buffers beyond four times the last cache."""
    cache, by = cache_bytes(bench.device)
    length = min(max(bench.size.buffer, 4 * cache), bench.size.buffer_most) // 4
    scratch = [torch.full((length,), float(at), device=bench.device) for at in range(3)]
    a, b, c = scratch
    found: Record = {"buffer": 4 * length, "cache": cache, "cache_by": by}
    found["beyond"] = cache > 0 and 4 * length >= 4 * cache
    for name, moved, work in (
        ("copy", 2, lambda: a.copy_(b)),
        ("triad", 3, lambda: torch.add(b, c, alpha=3.0, out=a)),
    ):
        bench.together(name)
        found[name] = round(moved * 4 * length / timed(bench, work) / 1e9, 3)
    # b is 1 and c is 2, so that every element of the last triad is 7.
    found["wrong"] = int((a != 7.0).sum())
    bench.trail.record["loaded"][1] = round(time.monotonic(), 3)
    return found


# ---------------------------------------------------------------- copies


def checksum(data: Tensor) -> int:
    """A sum of all words, each times an odd number of its place, modulo 2**64: where it is made,
    whatever made the copy is not asked. Words that change places or bits change it."""
    places = torch.arange(data.numel(), device=data.device, dtype=torch.int64) * 2 + 1
    return int((data.view(torch.int32).to(torch.int64) * places).sum())


def bits(length: int, seed: int) -> Tensor:
    """Random 32-bit words on the host."""
    return whole((length,), -(2**31), 2**31, seed).to(torch.int32)


def differ(one: Tensor, other: Tensor) -> int:
    """Words that are not the same, on the host."""
    return 0 if torch.equal(one, other) else int((one != other).sum())


def copies(bench: Bench) -> Record:
    """To and from pinned memory: exact both ways; their speed alone, then all together."""
    trail = bench.trail
    if not (bench.cuda or bench.pretended):
        return {"compared": 0, "wrong": 0, "checksum": True, "speed": {}}
    length = bench.size.copied // 4
    trail.at("pins host memory")
    source = bits(length, 300)
    back = torch.empty_like(source)
    if bench.cuda:
        source, back = source.pin_memory(), back.pin_memory()
    there = torch.empty(length, dtype=torch.int32, device=bench.device)
    found: Record = {"compared": 0, "wrong": 0, "checksum": True, "speed": {}}
    wanted = checksum(source)
    for turn in range(3):
        trail.at(f"copy to the GPU and back, turn {turn}")
        there.zero_()
        back.fill_(-1)
        there.copy_(source, non_blocking=True)
        bench.settle()
        if trail.wrong("copy") and turn == 1:
            spoil(there)
        found["checksum"] &= checksum(there) == wanted
        back.copy_(there, non_blocking=True)
        bench.settle()
        found["compared"] += length
        found["wrong"] += differ(source, back)
    ways = {"to": lambda: there.copy_(source, non_blocking=True),
            "from": lambda: back.copy_(there, non_blocking=True)}  # fmt: skip
    for who in range(bench.world):
        bench.together(f"rank {who} copies alone")
        if who == trail.rank:
            for name, work in ways.items():
                found["speed"][f"{name} alone"] = speed_of(bench, work)
    for name, work in ways.items():
        bench.together(f"all copy {name} the GPUs")
        found["speed"][f"{name} all"] = speed_of(bench, work)
    return found


def speed_of(bench: Bench, work: Callable[[], Any]) -> float:
    """GB/s of a copy of Size.copied."""
    return round(bench.size.copied / timed(bench, work, bench.size.seconds / 2) / 1e9, 3)


def peer(bench: Bench) -> dict[str, list[Record]]:
    """Rank 0 copies from every GPU to every other one, checks every bit, and takes the time."""
    if bench.world < 2 or not (bench.cuda or bench.pretended):
        return {}
    # By a file and not by a barrier: it may take longer than a collective may.
    done = bench.trail.folder / "peer.done"
    found: dict[str, list[Record]] = {}
    if bench.trail.rank == 0:
        found = peer_copies(bench)
        done.touch()
    else:
        bench.trail.at("waits while rank 0 copies between GPUs", inside=True)
    while not done.exists():
        time.sleep(0.02)
    return found


def peer_copies(bench: Bench) -> dict[str, list[Record]]:
    """Every directed pair, by its source: patterns, compared there and then on the host."""
    trail = bench.trail
    length = bench.size.copied // 4
    devices = [torch.device("cuda", at) if bench.cuda else CPU for at in range(bench.world)]
    patterns = [bits(length, 400 + turn) for turn in range(3)]
    back = torch.empty_like(patterns[0])
    if bench.cuda:
        patterns, back = [one.pin_memory() for one in patterns], back.pin_memory()
    wanted = [checksum(pattern) for pattern in patterns]
    wrong_from = {int(who) for kind, who, _ in perturbations(bench.perturb) if kind == "peer"}
    found: dict[str, list[Record]] = {}
    for one, here in enumerate(devices):
        trail.at(f"puts patterns on GPU {one}")
        sources = [pattern.to(here) for pattern in patterns]
        for other, there in enumerate(devices):
            if one == other:
                continue
            trail.at(f"copies from GPU {one} to GPU {other}")
            target = torch.empty(length, dtype=torch.int32, device=there)
            wrong, same = 0, True
            for turn, pattern in enumerate(patterns):
                target.fill_(-1)
                target.copy_(sources[turn])
                if one in wrong_from and turn == 1:
                    spoil(target)
                same &= checksum(target) == wanted[turn]
                back.copy_(target)
                wrong += differ(pattern, back)
            took = moved_in(sources[0], target)
            found.setdefault(str(one), []).append(
                {
                    "to": other,
                    "compared": len(patterns) * length,
                    "wrong": wrong,
                    "checksum": same,
                    "access": bench.cuda and torch.cuda.can_device_access_peer(here, there),
                    "speed": round(bench.size.copied / took / 1e9, 3),
                }
            )
    return found


def moved_in(source: Tensor, target: Tensor) -> float:
    """Seconds of one copy between two GPUs: median of ROUNDS, each of several in a row."""

    def several(times: int) -> float:
        both_settle(source, target)
        began = time.perf_counter()
        for _ in range(times):
            target.copy_(source, non_blocking=True)
        both_settle(source, target)
        return (time.perf_counter() - began) / times

    several(1)
    times = max(2, min(32, int(0.005 / max(several(2), 1e-6))))
    return max(sorted(several(times) for _ in range(ROUNDS))[ROUNDS // 2], 1e-9)


def both_settle(*tensors: Tensor) -> None:
    """Wait for the devices of all of them."""
    for tensor in tensors:
        if tensor.is_cuda:
            torch.cuda.synchronize(tensor.device)


# ---------------------------------------------------------------- collectives

NARROWEST = 2**8
"""Every integer up to here is exact in bfloat16, so in all types."""
TURNS = 3
# torch 2.13 gave them new names; the old ones warn.
GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
SCATTER = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def part(rank: int, length: int, turn: int, bench: Bench) -> Tensor:
    """A rank's data: integers so small that the sum over all ranks is below NARROWEST, so that
    every partial sum is exact in any order: no ring or tree may differ in a single bit."""
    index = torch.arange(length, device=bench.device, dtype=torch.int32)
    mixed = index % 8191 * (2 * rank + 3) + index // 257 + 31 * turn + 7 * rank
    return mixed % (NARROWEST // bench.world)


Case = tuple[Callable[[], Any], Callable[[int], Tensor], Callable[[int], Tensor], Tensor]


def case(operation: str, length: int, bench: Bench) -> Case:
    """What runs it; what a turn puts in, and must get out; and where it is. `length` words are the
    size as nccl-tests counts it: all that a rank gets or gives, whichever is more."""
    me, world, share = bench.trail.rank, bench.world, length // bench.world
    inputs = share if operation == "all-gather" else length
    given = torch.empty(inputs, device=bench.device)
    out = given if operation == "all-reduce" else torch.empty(
        share if operation == "reduce-scatter" else length, device=bench.device
    )  # fmt: skip
    runs: dict[str, Callable[[], Any]] = {
        "all-reduce": lambda: dist.all_reduce(given),
        "all-gather": lambda: GATHER(out, given),
        "reduce-scatter": lambda: SCATTER(out, given),
        "all-to-all": lambda: dist.all_to_all_single(out, given),
    }

    def fill(turn: int) -> Tensor:
        given.copy_(part(me, inputs, turn, bench))
        return given

    def wanted(turn: int) -> Tensor:
        if operation == "all-gather":
            return torch.cat([part(rank, inputs, turn, bench) for rank in range(world)])
        if operation == "all-to-all":
            cut = slice(me * share, (me + 1) * share)
            return torch.cat([part(rank, inputs, turn, bench)[cut] for rank in range(world)])
        total = part(0, inputs, turn, bench)
        for rank in range(1, world):
            total += part(rank, inputs, turn, bench)
        return total[me * share : (me + 1) * share] if operation == "reduce-scatter" else total

    return runs[operation], fill, wanted, out


def collectives(bench: Bench) -> Record:
    """Each collective at each size: exact, before and after it was timed; and its time."""
    trail, world = bench.trail, bench.world
    found: Record = {"compared": {}, "wrong": 0, "first": "", "left_out": {}, "seconds": {}}
    free = torch.cuda.mem_get_info(bench.device)[0] if bench.cuda else 1 << 40
    for operation in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all"):
        for size in bench.size.messages:
            name = f"{operation} {size}"
            length = size // 4 // world * world
            if 12 * size > free:
                found["left_out"][name] = f"{free >> 20} MiB of memory are free"
                continue
            trail.at(f"prepares {name}")
            run, fill, wanted, out = case(operation, length, bench)
            for turn in range(TURNS):
                fill(turn)
                bench.settle()
                trail.at(f"{operation} of {size} bytes, turn {turn}", inside=True)
                try:
                    run()
                    bench.settle()
                except (RuntimeError, NotImplementedError) as error:
                    if not re.search(r"support|implement", str(error)):
                        raise
                    found["left_out"][name] = str(error)[:150]
                    break
                trail.at(f"compares {name}, turn {turn}")
                if trail.wrong("collective") and turn == 1:
                    spoil(out)
                compare(found, name, out, wanted(turn), turn)
                if turn == 0:
                    found["seconds"][name] = round(time_together(bench, run, name), 9)
    return found


def compare(found: Record, name: str, out: Tensor, wanted: Tensor, turn: int) -> None:
    """Count the elements that are not what they must be."""
    off = out.to(torch.int32) != wanted
    bad = int(off.sum())
    found["compared"][name] = found["compared"].get(name, 0) + out.numel()
    found["wrong"] += bad
    if bad and not found["first"]:
        at = int(off.nonzero()[0])
        found["first"] = (
            f"{name}, turn {turn}: {bad} of {out.numel()}; element {at} is {float(out[at])} "
            f"and not {int(wanted[at])}"
        )


def time_together(bench: Bench, run: Callable[[], Any], name: str) -> float:
    """Seconds of one, many in a row; every rank makes as many, by rank 0's first impression."""
    trail = bench.trail
    trail.at(f"times {name}", inside=True)
    once(bench, run, 2)
    share = torch.tensor([once(bench, run, 2)], device=bench.device)
    dist.broadcast(share, 0)
    times = max(2, min(200, int(bench.size.seconds / ROUNDS / max(float(share), 1e-6))))
    took = []
    for _ in range(ROUNDS):
        dist.barrier()
        bench.settle()
        took.append(once(bench, run, times))
    return sorted(took)[ROUNDS // 2]


# ---------------------------------------------------------------- the same again


def repeats(bench: Bench) -> Record:
    """The same products, and the same training, again: how often their bits were others."""
    trail, size = bench.trail, bench.size
    side = size.exact
    types = ("bf16", "fp16", "fp32") if bench.cuda else ("bf16", "fp32", "fp64")
    found: Record = {"compared": 0, "different": 0, "first": "", "prints": {}}
    for dtype in types:
        way = multiplied(dtype, bench)
        if isinstance(way, str):
            continue
        multiply, plain = way
        factors = [values((side, side), plain, bench.device, 500 + at) for at in range(2)]
        trail.at(f"repeats a product in {dtype}")
        first = multiply(*factors)
        for turn in range(size.repeats):
            again = multiply(*factors)
            if trail.wrong("repeat") and turn == 1:
                spoil(again)
            found["compared"] += 1
            if not torch.equal(again.view(torch.uint8), first.view(torch.uint8)):
                found["different"] += 1
                found["first"] = found["first"] or f"product in {dtype}, repetition {turn}"
        if trail.wrong("print"):
            spoil(first)
        found["prints"][f"product {dtype}"] = digest(first)
    trails = []
    for turn in range(2):
        trail.at(f"short training, turn {turn}")
        trained = training(bench)
        if trail.wrong("replay") and turn == 1:
            spoil(trained[0])
        trails.append(digest(*trained))
    found["compared"] += 1
    if trails[0] != trails[1]:
        found["different"] += 1
        found["first"] = found["first"] or "short training, the second time"
    found["prints"]["training"] = trails[0]
    return found


class Mixer(nn.Module):
    """A small network of products, norms, a convolution and attention made of products."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.near = nn.Conv1d(width, width, 3, padding=1)
        self.norm = nn.LayerNorm(width)
        self.ways = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + functional.gelu(self.near(x.transpose(1, 2)).transpose(1, 2))
        q, k, v = self.ways(self.norm(x)).chunk(3, dim=-1)
        seen = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), dim=-1) @ v
        return x + self.out(seen)  # type: ignore[no-any-return]


def training(bench: Bench) -> list[Tensor]:
    """Parameters after a short seeded training; on GPUs by deterministic algorithms only."""
    size, device = bench.size, bench.device
    model = Mixer(size.width).to(device)
    with torch.no_grad():
        for at, parameter in enumerate(model.parameters()):
            scale = 1 / math.sqrt(size.width)
            parameter.copy_(values(tuple(parameter.shape), torch.float32, device, 600 + at) * scale)
    x = values((8, 32, size.width), torch.float32, device, 700)
    target = values((8, 32, size.width), torch.float32, device, 701)
    # By hand: torch.optim loads torch._dynamo, and the switch torch._inductor, for seconds each.
    momenta = [torch.zeros_like(parameter) for parameter in model.parameters()]
    if bench.cuda:
        torch.use_deterministic_algorithms(True)
    for _ in range(size.steps):
        model.zero_grad()
        torch.autograd.backward((model(x) - target).square().mean())
        with torch.no_grad():
            for parameter, momentum in zip(model.parameters(), momenta, strict=True):
                assert parameter.grad is not None
                momentum.mul_(0.9).add_(parameter.grad)
                parameter.sub_(momentum, alpha=0.05)
    if bench.cuda:
        torch.use_deterministic_algorithms(False)
    bench.settle()
    return [parameter.detach() for parameter in model.parameters()]


STEPS: dict[str, Callable[[Bench], Any]] = {
    "products": products,
    "memory": memory,
    "copies": copies,
    "peer": peer,
    "collectives": collectives,
    "repeats": repeats,
}


if __name__ == "__main__":
    sys.exit(main())
