"""Train a small language model and a small image model on every GPU of this host, and report.

    python3 train_ddp.py                                    one rank: GPU 0, or the CPU without GPUs
    python3 train_ddp.py --ranks 8 --device cuda            one rank per GPU, over NCCL
    python3 train_ddp.py --ranks 2 --device cpu             two ranks on the CPU, over gloo
    torchrun --standalone --nproc-per-node 8 train_ddp.py   the same, started by torchrun

Standard output gets one line, `GPUFLEET {json}`; what is for people goes to standard error. It
measures and reports, it does not judge: exit 0 means that the line was printed. All data are seeded
and made in memory. What is proven, stage by stage, on every rank:

  collectives   equal their closed forms, bit by bit: integer-valued data, sums exact in every type
  gradients     of DDP equal a single process's, bit by bit, where all arithmetic is exact
  transformer,  gradients of DDP beside a single process's; training on data with a known entropy;
  cnn           digest of the parameters; throughput
  libraries     which CUDA libraries the process has really mapped after all that

Each rank writes down where it is before each step, in a private directory. Whoever leads (the
launcher, or under torchrun a rank that is still there) makes one document of it, so a rank that
dies, hangs or fails is named with its stage also when it is rank 0. Nothing resolves a host name.
Standard library, torch and ranks.py beside it; Python 3.10 must do; all ranks run on this one host.
"""

import argparse
import copy
import ctypes
import functools
import hashlib
import importlib
import itertools
import json
import math
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# This script's folder holds modules that are no top-level names.
sys.path[:] = [str(HERE.parent.parent), *(place for place in sys.path if place != str(HERE))]

from verify.payload.ranks import (  # noqa: E402
    GRACE,
    RECORDER,
    STOPPED,
    Record,
    StopAskedError,
    Trail,
    alive,
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
"""Seconds after which a run is stopped whatever it does; a healthy one takes a third of it."""
PATIENCE = 20.0
"""Seconds that a rank waits for the others within one collective."""
ABORT_S = 15.0
"""Seconds that NCCL has beyond `patience` before it aborts a process that waits: those in which the
launcher asks each rank where it is, for an aborted one says nothing."""
STAGES = (
    "start", "rendezvous", "collectives", "gradients", "transformer", "cnn", "libraries", "leave",
)  # fmt: skip
PERTURBATIONS = (
    "die", "hang", "stall", "raise", "slow", "collective", "contribution", "gradient", "parameter",
    "loss",
)  # fmt: skip
"""Faults that tests put into one rank: it dies, hangs, hangs before it asks for the others the Nth
time (stall:RANK:N), raises, is slow; gets a wrong element from a collective; sends one; gets a
wrong gradient; a wrong parameter; labels that mean nothing."""
PERTURB = "GPUFLEET_TRAIN_PERTURB"
"""Environment variable with the same meaning as --perturb; the report says that it was set."""
FOLDER = "GPUFLEET_TRAIN_FOLDER"
PR_SET_PDEATHSIG = 1
SEED = 20_260


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """What was asked for on the command line. Exits 2 on what makes no sense."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--ranks", type=int, default=1, help="how many to start (not by torchrun)")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for the whole run")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds per collective")
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
        place = stage.isdecimal() if kind == "stall" else stage in ("", *STAGES)
        if not known or not place:
            parser.error(f"--perturb {asked.perturb}: KIND:RANK[:STAGE],...")
    return asked


# ---------------------------------------------------------------- the launcher: no torch in here


def launch(asked: argparse.Namespace) -> int:
    """Start the ranks, watch them, print the document. The ranks stay in this process group."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="gpufleet-train-"))
    signal.signal(signal.SIGTERM, stop)
    ranks: list[subprocess.Popen[bytes]] = []
    try:
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
    answer = document(records, asked, seconds=time.monotonic() - began, launcher="own")
    shutil.rmtree(folder, ignore_errors=True)
    print("GPUFLEET " + json.dumps(answer, separators=(",", ":")), flush=True)
    return 0


def start(rank: int, asked: argparse.Namespace, folder: Path) -> subprocess.Popen[bytes]:
    """Start one rank: this file again, with torchrun's variables in its environment."""
    own = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": asked.ranks,
        "LOCAL_WORLD_SIZE": asked.ranks,
        FOLDER: folder,
    }
    options = ("device", "limit", "patience", "perturb")
    passed = [f"--{name}={getattr(asked, name)}" for name in options]
    with (folder / f"rank-{rank}.err").open("wb") as errors:
        # Libraries write to standard output too (NCCL_DEBUG): it belongs to the one line.
        return subprocess.Popen(
            [sys.executable, "-B", os.path.abspath(__file__), *passed],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            env=os.environ | {name: str(value) for name, value in own.items()},
        )


def document(
    records: list[Record], asked: argparse.Namespace, *, seconds: float, launcher: str
) -> Record:
    """The one document: what was run, and each rank's part."""
    name_states(records)
    told: Record = next((record.pop("run") for record in records if "run" in record), {})
    for record in records:
        record.pop("run", None)
    return {
        "schema": SCHEMA,
        "launcher": launcher,
        "host": os.uname().nodename[:200],
        "world": len(records),
        "asked_device": asked.device,
        "limit_s": asked.limit,
        "seconds": round(seconds, 3),
        "perturbed": asked.perturb,
        "run": told,
        "ranks": records,
    }


def lead(asked: argparse.Namespace, folder: Path, world: int, began: float) -> None:
    """Print the document from a rank, under torchrun: the first to take the folder does."""
    taken = folder.with_suffix(".taken")
    try:
        folder.rename(taken)
    except OSError:
        return
    records = [read_record(taken, rank) for rank in range(world)]
    for record in records:
        stopped = record.pop("stopped", False)
        record |= {"code": None, "gone": not stopped and not alive(record["pid"])}
        record |= {"abandoned": False, "stderr": ""}
    answer = document(records, asked, seconds=time.monotonic() - began, launcher="torchrun")
    shutil.rmtree(taken, ignore_errors=True)
    sys.stdout.write("GPUFLEET " + json.dumps(answer, separators=(",", ":")) + "\n")
    sys.stdout.flush()


if __name__ == "__main__" and "RANK" not in os.environ:
    sys.exit(launch(arguments()))


# ---------------------------------------------------------------- one rank


def shared_folder(environment: dict[str, str]) -> Path:
    """The launcher's private directory; under torchrun one that its ranks agree on, private too."""
    if FOLDER in environment:
        return Path(environment[FOLDER])
    run = f"{os.getuid()}-{os.getppid()}-{environment.get('MASTER_PORT', '')}"
    folder = Path(tempfile.gettempdir()) / f"gpufleet-train-{run}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise OSError(f"{folder}: not a private directory of ours; remove it")
    return folder


def prepare() -> tuple[argparse.Namespace, Trail, int, Callable[[], None]]:
    """What a rank does before it loads torch: (asked, trail, world, what leads to the line)."""
    began = time.monotonic()
    asked = arguments()
    # Before torch starts threads, which inherit it: only the thread of `keep_time` gets SIGTERM.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    world, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    if os.environ.get("LOCAL_WORLD_SIZE", str(world)) != str(world):
        sys.exit("train_ddp.py: all ranks run on one host (--nnodes 1)")
    if FOLDER in os.environ:
        # Whoever kills the launcher takes its ranks along.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    folder = shared_folder(dict(os.environ))
    own = {"OMP_NUM_THREADS": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    # What torch._dynamo makes when it is loaded would stay in the user's temporary directory.
    own["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
    # One host: the loopback interface does, and the host's own name is not looked up for it.
    own |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", **RECORDER}
    for name, value in own.items():
        os.environ.setdefault(name, value)
    leading = threading.Lock()

    def leave() -> None:
        """Under torchrun: make sure of the one line. Both of our threads may come here."""
        with leading:
            if FOLDER not in os.environ:
                time.sleep(0 if trail.record["ended"] else GRACE)
                lead(asked, folder, world, began)

    trail = Trail(folder, rank, asked.perturb)
    sys.excepthook = functools.partial(fail, trail, leave)
    keep_time(trail, asked.limit, leave)
    trail.at("loads torch")
    return asked, trail, world, leave


if __name__ == "__main__":
    ASKED, TRAIL, WORLD, LEAVE = prepare()

import torch  # noqa: E402 - the launcher must not need it, and a rank that hangs in it is named
import torch.distributed as dist  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.distributed import FileStore, GradBucket  # type: ignore[attr-defined] # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402


def main() -> int:
    """Run the stages on this rank."""
    stages(ASKED, TRAIL, WORLD)
    TRAIL.record["ended"] = True
    TRAIL.save()
    if FOLDER not in os.environ and TRAIL.rank == 0:
        wait_for_all(TRAIL.folder, WORLD)
        LEAVE()
    return 0


def wait_for_all(folder: Path, world: int) -> None:
    """Wait until each rank has said its last; `keep_time` ends this at the limit."""
    while any(
        not record["ended"] and alive(record["pid"])
        for record in (read_record(folder, rank) for rank in range(world))
    ):
        time.sleep(0.02)


def stages(asked: argparse.Namespace, trail: Trail, world: int) -> None:
    """Everything that one rank does, in order."""
    rank = trail.rank
    device = choose_device(asked.device, rank)
    cuda = device.type == "cuda"
    torch.set_num_threads(1)
    # float32 is float32: neither TF32 nor sums of lower precision, in all that follows.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    backend = "nccl" if cuda else "gloo"
    if cuda:
        torch.cuda.set_device(device)  # before anything makes a context on GPU 0
    trail.record["device"] = describe(device)
    trail.record["run"] = {
        "user": user_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "backend": backend,
        "device": device.type,
        "seed": SEED,
        "epsilon": torch.finfo(torch.float32).eps,
        "tasks": {
            "transformer": {"choices": SYMBOLS} | best_loss(SYMBOLS, NOISE),
            "cnn": {"choices": CLASSES, "entropy": 0.0, "deviation": 0.0},
        },
    }

    # DDP loads it when it is first used. It takes seconds, more on one rank than on another where
    # cores are scarce, and no rank is to be waited for in a collective because of that.
    trail.at("loads what DDP needs")
    importlib.import_module("torch._dynamo")

    trail.enter("rendezvous")
    store = FileStore(str(trail.folder / "store"), world)
    store.set(f"here-{rank}", "1")
    trail.at("waits for all ranks", inside=True)
    store.wait([f"here-{other}" for other in range(world)], timedelta(seconds=asked.limit))
    trail.at("makes the process group", inside=True)
    patience = timedelta(seconds=asked.patience + (ABORT_S if cuda else 0))
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=patience)

    trail.enter("collectives")
    trail.record["collectives"] = collectives(trail, world, device)
    trail.enter("gradients")
    trail.record["gradients"] = exact_gradients(trail, world, device)
    trail.enter("transformer")
    trail.record["transformer"] = train(trail, world, device, TASKS["transformer"])
    trail.enter("cnn")
    trail.record["cnn"] = train(trail, world, device, TASKS["cnn"])
    trail.enter("libraries")
    trail.record["libraries"] = mapped_libraries()
    trail.enter("leave")
    trail.at("last barrier", inside=True)
    dist.barrier()
    trail.at("leaves the process group", inside=True)
    dist.destroy_process_group()
    trail.record["stages"]["leave"] = round(time.monotonic() - trail.began, 3)


def choose_device(asked: str, rank: int) -> torch.device:
    """The rank's device. Raises when CUDA was asked for and has no device for this rank."""
    if asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    found = torch.cuda.device_count()
    if rank >= found:
        raise RuntimeError(f"torch sees {found} CUDA devices; rank {rank} has none")
    return torch.device("cuda", rank)


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


def user_name() -> str:
    """Whom this runs as; by number where the host has no name for it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def settle(device: torch.device) -> None:
    """Wait for what was queued on the device, so that a place on the trail means that place."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ---------------------------------------------------------------- collectives


TURNS = 3
"""Repetitions of each case: a fault need not show at once."""
LENGTHS = {"cpu": (1, 1023, 65_536), "cuda": (1, 1023, 65_536, 2**20, 2**24)}
TYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int64,
)  # fmt: skip
NARROWEST = 2**8
"""Every integer up to here is exact in bfloat16 (8 bits of significand), so in all TYPES."""


def pattern(rank: int, length: int, turn: int, world: int, device: torch.device) -> Tensor:
    """A rank's data: integers so small that the sum over all ranks is below NARROWEST.

    Then every partial sum, in any order, is an integer that each type holds exactly: no reduction,
    ring or tree, may differ from the closed form in a single bit.
    """
    index = torch.arange(length, device=device, dtype=torch.int32)
    mixed = index % 8191 * (2 * rank + 3) + index // 257 + 31 * turn + 7 * rank
    return mixed % (NARROWEST // world)


@dataclass(frozen=True)
class Data:
    """What one case of a collective works on."""

    rank: int
    world: int
    device: torch.device
    length: int
    turn: int
    spoilt: bool

    def each(self, length: int = 0) -> list[Tensor]:
        """Every rank's data, also the others': what a closed form is made of."""
        size = (length or self.length, self.turn, self.world, self.device)
        return [pattern(rank, *size) for rank in range(self.world)]

    def mine(self, dtype: torch.dtype, length: int = 0, times: int = 1) -> Tensor:
        """This rank's own data."""
        size = (length or self.length, self.turn, self.world, self.device)
        data = (pattern(self.rank, *size) * times).to(dtype)
        if self.spoilt:
            data[len(data) // 2] += 1
        return data

    @property
    def share(self) -> int:
        """Elements that go to or come from each rank where they are dealt out."""
        return max(1, self.length // self.world)


# torch 2.13 gave them new names; the old ones warn.
GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
SCATTER = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

Source = Callable[[int], int] | None
"""The rank that an element came from, by its index, where an operation tells."""
Case = tuple[Callable[[], Tensor], Tensor, Source]
"""What runs it, what must come out, and the source."""


def reduced(operation: Any, join: Callable[[Tensor, Tensor], Tensor], times: int = 1) -> Any:
    """all_reduce: each element joined over the ranks."""

    def case(data: Data, dtype: torch.dtype) -> Case:
        out = data.mine(dtype, times=times)

        def run() -> Tensor:
            dist.all_reduce(out, op=operation)
            return out

        return run, functools.reduce(join, data.each()).to(dtype), None

    return case


def broadcast(data: Data, dtype: torch.dtype) -> Case:
    """One rank's data on all; each turn another rank's."""
    root = data.turn % data.world
    out = data.mine(dtype)

    def run() -> Tensor:
        dist.broadcast(out, root)
        return out

    sent = pattern(root, data.length, data.turn, data.world, data.device)
    return run, sent.to(dtype), lambda index: root


def all_gather(data: Data, dtype: torch.dtype) -> Case:
    """Everyone's data, one after the other."""
    mine = data.mine(dtype, data.share)
    out = torch.empty(data.share * data.world, dtype=dtype, device=data.device)

    def run() -> Tensor:
        GATHER(out, mine)
        return out

    return run, torch.cat(data.each(data.share)).to(dtype), lambda index: index // data.share


def reduce_scatter(data: Data, dtype: torch.dtype) -> Case:
    """The sum over the ranks, to each its part."""
    whole = data.share * data.world
    mine = data.mine(dtype, whole)
    out = torch.empty(data.share, dtype=dtype, device=data.device)

    def run() -> Tensor:
        SCATTER(out, mine)
        return out

    summed = functools.reduce(torch.add, data.each(whole))
    return run, summed.view(data.world, -1)[data.rank].to(dtype), None


def all_to_all(data: Data, dtype: torch.dtype) -> Case:
    """From each rank the part that is meant for this one."""
    whole = data.share * data.world
    mine = data.mine(dtype, whole)
    out = torch.empty(whole, dtype=dtype, device=data.device)

    def run() -> Tensor:
        dist.all_to_all_single(out, mine)
        return out

    parts = [sent.view(data.world, -1)[data.rank] for sent in data.each(whole)]
    return run, torch.cat(parts).to(dtype), lambda index: index // data.share


def operations(world: int) -> dict[str, Any]:
    """The collectives that are tried."""
    return {
        "all_reduce sum": reduced(dist.ReduceOp.SUM, torch.add),
        "all_reduce min": reduced(dist.ReduceOp.MIN, torch.minimum),
        "all_reduce max": reduced(dist.ReduceOp.MAX, torch.maximum),
        # Each gives `world` times its data, so the average is the sum of the data.
        "all_reduce avg": reduced(dist.ReduceOp.AVG, torch.add, times=world),
        "broadcast": broadcast,
        "all_gather": all_gather,
        "reduce_scatter": reduce_scatter,
        "all_to_all": all_to_all,
    }


def collectives(trail: Trail, world: int, device: torch.device) -> Record:
    """Each collective against its closed form: how many elements were compared, what was wrong."""
    compared: dict[str, int] = {}
    left_out: dict[str, str] = {}
    wrong: list[Record] = []
    wrong_elements = 0
    tries = itertools.product(LENGTHS[device.type], range(TURNS), TYPES, operations(world).items())
    for length, turn, dtype, (operation, make) in tries:
        if operation == "all_reduce avg" and (world & (world - 1) or not dtype.is_floating_point):
            left_out[f"{operation} {named(dtype)}"] = f"an average over {world} is not exact in it"
            continue
        name = f"{operation} {named(dtype)}"
        if name in left_out:
            continue
        trail.at(f"prepares {name}, {length} elements, turn {turn}")
        spoilt = trail.wrong("contribution", "collectives")
        run, wanted, source = make(Data(trail.rank, world, device, length, turn, spoilt), dtype)
        settle(device)
        trail.at(f"{name}, {length} elements, turn {turn}", inside=True)
        try:
            found = run()
            settle(device)
        except (RuntimeError, ValueError) as error:
            # Refused before anything was sent, so by every rank alike.
            if not re.search(r"[Cc]annot use|not (?:support|implement)", str(error)):
                raise
            left_out[name] = str(error).partition("\n")[0][:200]
            continue
        trail.at(f"compares {name}, {length} elements, turn {turn}")
        if trail.wrong("collective", "collectives") and operation == "all_reduce sum":
            found[len(found) // 2] += 1
        different = (found != wanted).nonzero().flatten()
        compared[name] = compared.get(name, 0) + len(found)
        wrong_elements += len(different)
        if len(different) and len(wrong) < 10:
            first = int(different[0])
            wrong.append(
                {
                    "operation": name,
                    "length": length,
                    "turn": turn,
                    "elements": len(different),
                    "index": first,
                    "found": number(found[first]),
                    "wanted": number(wanted[first]),
                    "source": source(first) if source else None,
                }
            )
    return {
        "compared": compared,
        "left_out": left_out,
        "wrong_elements": wrong_elements,
        "wrong": wrong,
    }


def named(dtype: torch.dtype) -> str:
    """As float32."""
    return str(dtype).removeprefix("torch.")


def number(value: Tensor | float) -> float | None:
    """A figure for JSON, which has no NaN and no infinity."""
    plain = float(value)
    return plain if math.isfinite(plain) else None


# ---------------------------------------------------------------- gradients that are exact

INPUTS, HIDDEN, OUTPUTS, BATCH = 64, 256, 16, 8
EXACT_BELOW = 2**24
"""Every integer up to here is exact in float32 (24 bits of significand)."""


def largest(world: int) -> int:
    """The largest integer that can come up in `exact_gradients`: with inputs, weights and targets
    in {-1, 0, 1}, no value is above the product of the lengths summed over on its way."""
    first = INPUTS  # of the first hidden layer
    second = first * HIDDEN
    last = second * HIDDEN  # of the outputs
    back_to_second = OUTPUTS
    back_to_first = back_to_second * HIDDEN
    samples = BATCH * world
    weights = (samples * second, samples * first * back_to_second, samples * back_to_first)
    return max(last, *weights)


def exact_gradients(
    trail: Trail, world: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> Record:
    """Gradients of a ReLU network with small integer weights, under DDP and in this process alone.

    Every product and every partial sum is an integer below EXACT_BELOW, so each order of adding
    gives the same bits, whatever the kernel, the bucket or the ring. The ranks' gradients are added
    and not averaged: dividing by 3 ranks would not be exact. What this rank sent is compared too,
    which tells a rank that computes wrongly from one that only got it from another.
    """
    rank = trail.rank
    seeded = torch.Generator().manual_seed(SEED)

    def integers(*shape: int, generator: torch.Generator = seeded) -> Tensor:
        return torch.randint(-1, 2, shape, generator=generator).to(dtype)

    shapes = ((HIDDEN, INPUTS), (HIDDEN, HIDDEN), (OUTPUTS, HIDDEN))
    layers: list[nn.Module] = []
    for out, into in shapes:
        layer = nn.Linear(into, out, bias=False, dtype=dtype)
        layer.weight.data.copy_(integers(out, into))
        layers += [layer, nn.ReLU()]
    alone = nn.Sequential(*layers[:-1]).to(device)
    trail.at("wraps the model", inside=True)
    together = DistributedDataParallel(copy.deepcopy(alone), bucket_cap_mb=0.1)
    ours = dict(together.module.named_parameters())
    names = {id(parameter): name for name, parameter in ours.items()}
    sent: dict[str, Tensor] = {}

    def add(state: object, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        if trail.wrong("contribution", "gradients"):
            bucket.gradients()[0].view(-1)[0] += 1
        for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
            sent[names[id(parameter)]] = gradient.clone()
        future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
        summed: torch.futures.Future[Tensor] = future.then(lambda done: done.value()[0])
        return summed

    together.register_comm_hook(None, add)

    def batch(who: int, turn: int) -> tuple[Tensor, Tensor]:
        own = torch.Generator().manual_seed(SEED + 1 + 1000 * turn + who)
        x, t = integers(BATCH, INPUTS, generator=own), integers(BATCH, OUTPUTS, generator=own)
        return x.to(device), t.to(device)

    def gradients(model: nn.Module, x: Tensor, t: Tensor) -> dict[str, Tensor]:
        model.zero_grad()
        torch.autograd.backward((model(x) * t).sum())
        settle(device)
        return {
            name.removeprefix("module."): parameter.grad.clone()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }

    found: Record = {"compared": 0, "sent_wrong": 0, "received_wrong": 0, "first": ""}
    references: list[Tensor] = []
    for turn in range(TURNS):
        trail.at(f"reference of turn {turn}")
        batches = [batch(who, turn) for who in range(world)]
        mine = gradients(alone, *batches[rank])
        wanted = gradients(alone, *(torch.cat(part) for part in zip(*batches, strict=True)))
        references += wanted.values()
        trail.at(f"backward of turn {turn}", inside=True)
        received = gradients(together, *batches[rank])
        trail.at(f"compares turn {turn}")
        if trail.wrong("gradient", "gradients"):
            next(iter(received.values())).view(-1)[0] += 1
        for name in ours:
            bad_sent = int((sent[name] != mine[name]).sum())
            bad_received = int((received[name] != wanted[name]).sum())
            found["compared"] += wanted[name].numel()
            found["sent_wrong"] += bad_sent
            found["received_wrong"] += bad_received
            if (bad_sent or bad_received) and not found["first"]:
                found["first"] = (
                    f"turn {turn}, parameter {name}: {bad_sent} sent and {bad_received} received "
                    f"of {wanted[name].numel()} elements are wrong"
                )
    return found | {
        "reference": digest(references),
        "largest": largest(world),
        "exact_below": EXACT_BELOW if dtype == torch.float32 else 2**53,
    }


def digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 over the raw bytes, so that -0.0 and 0.0, or two NaNs, are told apart."""
    sha = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        sha.update(ctypes.string_at(plain.data_ptr(), plain.numel() * plain.element_size()))
    return sha.hexdigest()


# ---------------------------------------------------------------- data with a known entropy

SYMBOLS, NOISE = 32, 0.2
"""The language: a symbol is followed by one that depends on it, but with probability NOISE by any
of SYMBOLS, all equally likely."""
CLASSES, SIDE = 8, 16
"""The images: one fixed random picture of +1 and -1 per class, with noise of deviation 1 on it. Two
pictures are about sqrt(2 * 3 * 256) = 39 deviations apart, so the image tells its class: the
entropy of the class, given the image, is 0 for all that can be measured."""


@dataclass(frozen=True)
class Size:
    """How large the models and batches are."""

    width: int
    layers: int
    heads: int
    tokens: int
    batch: int
    images: int
    steps: int
    rate: float
    """Learning rate of AdamW."""


SIZES = {
    "cpu": Size(64, 2, 4, tokens=32, batch=8, images=16, steps=60, rate=3e-3),
    "cuda": Size(256, 4, 8, tokens=128, batch=16, images=64, steps=100, rate=1e-3),
}
ALONE = 10
"""Steps without communication that the speed of a rank by itself is taken from."""
LAST = 10
"""Steps at the end of training over which the loss is averaged."""


def best_loss(symbols: int, noise: float) -> dict[str, float]:
    """Loss of the best possible model, in nats per symbol, and its deviation from symbol to symbol.

    The mean is the entropy of what follows a symbol: nobody can predict more.
    """
    likely, other = 1 - noise + noise / symbols, noise / symbols
    losses = ((likely, -math.log(likely)), ((symbols - 1) * other, -math.log(other)))
    mean = sum(chance * loss for chance, loss in losses)
    variance = sum(chance * (loss - mean) ** 2 for chance, loss in losses)
    return {"entropy": mean, "deviation": math.sqrt(variance)}


def language(size: Size, who: int, part: int, steps: int) -> tuple[Tensor, Tensor]:
    """Symbols, and those that follow them: (steps, batch, tokens) each."""
    seeded = torch.Generator().manual_seed(SEED + 100_000 * (part + 1) + who)
    shape = (steps, size.batch, size.tokens + 1)
    text = torch.randint(SYMBOLS, shape, generator=seeded)  # all noise, at first
    follows = torch.rand(shape, generator=seeded) >= NOISE
    for place in range(1, size.tokens + 1):
        rule = (5 * text[..., place - 1] + 3) % SYMBOLS
        text[..., place] = torch.where(follows[..., place], rule, text[..., place])
    return text[..., :-1], text[..., 1:]


def images(size: Size, who: int, part: int, steps: int) -> tuple[Tensor, Tensor]:
    """Images and their classes: (steps, batch, 3, SIDE, SIDE) and (steps, batch)."""
    fixed = torch.Generator().manual_seed(SEED)
    pictures = torch.randint(2, (CLASSES, 3, SIDE, SIDE), generator=fixed) * 2.0 - 1.0
    seeded = torch.Generator().manual_seed(SEED + 100_000 * (part + 1) + who)
    classes = torch.randint(CLASSES, (steps, size.images), generator=seeded)
    noise = torch.randn(steps, size.images, 3, SIDE, SIDE, generator=seeded)
    return pictures[classes] + noise, classes


# ---------------------------------------------------------------- the two models


class Block(nn.Module):
    """One layer of the transformer: causal attention, then a network of two layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.into, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        heads = self.into(self.norm_1(x)).view(batch, tokens, 3, self.heads, -1)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, tokens, width))
        moved: Tensor = x + self.down(functional.gelu(self.up(self.norm_2(x))))
        return moved


class Transformer(nn.Module):
    """A decoder-only language model."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.symbol = nn.Embedding(SYMBOLS, size.width)
        self.place = nn.Embedding(size.tokens, size.width)
        self.blocks = nn.Sequential(*(Block(size.width, size.heads) for _ in range(size.layers)))
        self.norm, self.head = nn.LayerNorm(size.width), nn.Linear(size.width, SYMBOLS)

    def forward(self, text: Tensor) -> Tensor:
        x = self.symbol(text) + self.place.weight
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits


@dataclass(frozen=True)
class Task:
    """What is trained, on what."""

    unit: str
    model: Callable[[Size], nn.Module]
    data: Callable[[Size, int, int, int], tuple[Tensor, Tensor]]
    sums: Callable[[Size], list[int]]
    """Lengths of the sums that follow one another from input to loss, each layer's longest ones; on
    the way back there are as many of the same order. They bound the rounding of a gradient."""
    positions: int
    """Places of one sample that a weight's gradient is summed over."""


def cnn(size: Size) -> nn.Module:
    """A convolutional network. GroupNorm, since BatchNorm's statistics would differ by rank."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.GroupNorm(4, 16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.GroupNorm(4, 32), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * (SIDE // 4) ** 2, CLASSES),
    )  # fmt: skip


def transformer_sums(size: Size) -> list[int]:
    """Of each block: norm, projection, scores, softmax, values, projection, norm, up and down."""
    width, tokens = size.width, size.tokens
    block = [width, width, width // size.heads, tokens, tokens, width, width, width, 4 * width]
    return [*block * size.layers, width, width, SYMBOLS]


def cnn_sums(size: Size) -> list[int]:
    """Of each convolution and its norm, then of the last layer and the loss."""
    half, quarter = (SIDE // 2) ** 2, (SIDE // 4) ** 2
    return [3 * 9, 4 * half, 16 * 9, 8 * quarter, 32 * quarter, CLASSES]


TASKS = {
    "transformer": Task("tokens", Transformer, language, transformer_sums, 1),
    "cnn": Task("images", cnn, images, cnn_sums, (SIDE // 2) ** 2),
}


# ---------------------------------------------------------------- training


def loss_of(model: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in nats."""
    logits = model(x)
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))


def train(
    trail: Trail, world: int, device: torch.device, task: Task, *, beside_single: bool = True
) -> Record:
    """Gradients, training, digest of the parameters and speed of one model on this rank.

    `beside_single`: one process works on everybody's data too, which of many ranks is too much.
    """
    size = SIZES[device.type]
    torch.manual_seed(SEED)
    alone = task.model(size).to(device)
    trail.at("wraps the model", inside=True)
    together = DistributedDataParallel(copy.deepcopy(alone))

    def data(who: int, part: int, steps: int) -> tuple[Tensor, Tensor]:
        x, targets = task.data(size, who, part, steps)
        return x.to(device), targets.to(device)

    def slowly() -> None:
        if trail.wrong("slow"):
            time.sleep(0.05)

    found: Record = {"parameters": sum(p.numel() for p in alone.parameters())}
    if beside_single:
        shards = [(x[0], targets[0]) for x, targets in (data(who, 0, 1) for who in range(world))]
        found["gradient"] = gradient_beside_single(trail, device, alone, together, shards)
        samples = shards[0][1].numel() * world * task.positions
        forward = task.sums(size)
        # Last the sum over all samples that makes the gradient of a weight.
        found["gradient"] |= {"sums": [*forward, *forward, samples], "ranks": world}

    x, targets = data(trail.rank, 1, size.steps)
    if trail.wrong("loss"):
        targets = targets.flatten()[torch.randperm(targets.numel())].view(targets.shape)
    optimizer = torch.optim.AdamW(together.parameters(), lr=size.rate)
    losses = []
    warm_up = size.steps // 4
    began = 0.0
    for step in range(size.steps):
        if step == warm_up:
            began = time.monotonic()
        trail.at(f"step {step}: forward")
        slowly()
        optimizer.zero_grad()
        loss = loss_of(together, x[step], targets[step])
        settle(device)
        trail.at(f"step {step}: backward", inside=True)
        torch.autograd.backward(loss)
        settle(device)
        trail.at(f"step {step}: optimizer")
        if step + 1 == size.steps:
            replayed = replay(together.module, optimizer)
        optimizer.step()
        losses.append(loss.detach())
    settle(device)
    in_step = targets[0].numel()
    done = (size.steps - warm_up) * in_step / (time.monotonic() - began)
    figures = [float(loss) for loss in losses]
    found["loss"] = {
        "first": number(figures[0]),
        "last": number(sum(figures[-LAST:]) / LAST),
        "samples": LAST * in_step,
    }
    if trail.wrong("parameter", "transformer"):
        next(together.module.parameters()).data.view(-1)[0] += 1e-3
    found["digest"] = digest(together.module.state_dict().values())
    found["replayed"] = replayed

    trail.at("runs by itself")
    for step in range(2 * ALONE):
        if step == ALONE:
            settle(device)
            began = time.monotonic()
        slowly()
        torch.autograd.backward(loss_of(alone, x[step], targets[step]))
    settle(device)
    found["throughput"] = {
        "unit": task.unit,
        "together": round(done, 1),
        "alone": round(ALONE * in_step / (time.monotonic() - began), 1),
        "warm_up_steps": warm_up,
        "steps": size.steps,
    }
    return found


def gradient_beside_single(
    trail: Trail,
    device: torch.device,
    alone: nn.Module,
    together: nn.Module,
    shards: list[tuple[Tensor, Tensor]],
) -> Record:
    """DDP's averaged gradient beside that of this process over everyone's data at once.

    `relative`: norm of the difference, over all parameters, by the norm of the gradient.
    """
    trail.at("gradient by itself")
    whole_batch = (torch.cat(part) for part in zip(*shards, strict=True))
    torch.autograd.backward(loss_of(alone, *whole_batch))
    settle(device)
    trail.at("gradient under DDP", inside=True)
    torch.autograd.backward(loss_of(together, *shards[trail.rank]))
    settle(device)
    trail.at("compares gradients")
    difference = whole = worst = 0.0
    where = ""
    pairs = zip(alone.named_parameters(), together.parameters(), strict=True)
    for turn, ((name, one), other) in enumerate(pairs):
        assert one.grad is not None
        assert other.grad is not None
        if turn == 0 and trail.wrong("gradient", "gradients"):
            other.grad.view(-1)[0] += 0.01
        apart = float((one.grad.double() - other.grad.double()).square().sum())
        difference, whole = difference + apart, whole + float(one.grad.double().square().sum())
        if not apart <= worst:
            worst, where = apart, name
    relative = math.sqrt(difference / whole) if whole else math.nan
    return {"relative": number(relative), "norm": number(math.sqrt(whole)), "worst": where}


def replay(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """Digest of what the step that comes next must make of the parameters, on copies of them all.

    It tells, of two ranks whose parameters differ, on which one something else than the optimizer
    changed them.
    """
    twin = copy.deepcopy(model)
    for copied, parameter in zip(twin.parameters(), model.parameters(), strict=True):
        assert parameter.grad is not None
        copied.grad = parameter.grad.clone()
    again = torch.optim.AdamW(twin.parameters())
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    again.step()
    return digest(twin.state_dict().values())


# ---------------------------------------------------------------- libraries

LIBRARIES = ("libcudnn", "libnccl", "libcublas", "libcudart", "libnvrtc")


def mapped_libraries() -> dict[str, str]:
    """CUDA libraries that this process has mapped by now: name and real path."""
    found = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.partition("/")[2]
        name = path.rpartition("/")[2]
        if name.startswith(LIBRARIES):
            found[name] = f"/{path}"
    return found


if __name__ == "__main__":
    sys.exit(main())
