"""Train across hosts, started by torchrun: what one host of it starts, watches and reports.

    python3 train_nodes.py --nodes 4 --ranks 8 --device cuda --endpoint 10.0.0.11:29500 --id WORD

The same on every host at the same time; one of them, the one that the endpoint leads to, gets
--serve as well. torchrun's own rendezvous (c10d) brings the hosts together. Each prints one line,
`GPUFLEET {json}`, about its own ranks; it measures and reports, it does not judge. What is proven:

  collectives   equal their closed forms, bit by bit, across all ranks of all hosts
  gradients     of DDP over all ranks equal a single process's, bit by bit
  transformer   trained by all ranks together: loss, and a digest of the parameters
  bandwidth     bus bandwidth of all_reduce by size, by the definition of nccl-tests

Standard library, torch, and ranks.py and train_ddp.py beside it; Python 3.10 must do.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import functools
import importlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# This script's folder holds modules that are no top-level names.
sys.path[:] = [str(HERE.parent.parent), *(place for place in sys.path if place != str(HERE))]

from verify.payload import ranks  # noqa: E402
from verify.payload.ranks import Record, Trail, say  # noqa: E402

SCHEMA = 1
LIMIT = 120.0
"""Seconds after which it is stopped whatever it does."""
PATIENCE = 20.0
"""Seconds that a rank waits for the others within one collective."""
JOIN_S = 60.0
"""Seconds that torchrun waits for the other hosts; all are started at the same time."""
ABORT_S = 15.0
"""Seconds that NCCL has beyond that before it aborts: in them each rank is asked where it is."""
STAGES = (
    "start", "rendezvous", "collectives", "gradients", "transformer", "bandwidth", "leave",
)  # fmt: skip
PERTURB = "GPUFLEET_TRAIN_PERTURB"
"""As of train_ddp.py; RANK is the rank's number on its host."""
FOLDER = "GPUFLEET_TRAIN_FOLDER"
PR_SET_PDEATHSIG = 1
SIOCGIFADDR = 0x8915
MOST_LINES = 300
"""Lines of what NCCL says that are handed on."""


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """What was asked for on the command line. Exits 2 on what makes no sense."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--nodes", type=int, required=True, help="hosts in all")
    parser.add_argument("--ranks", type=int, required=True, help="to start on this host")
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--endpoint", required=True, metavar="ADDRESS:PORT", help="where they meet")
    parser.add_argument("--id", required=True, help="word that tells this run from others")
    parser.add_argument("--serve", action="store_true", help="the endpoint is this host")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for the whole run")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds per collective")
    parser.add_argument("--perturb", default=os.environ.get(PERTURB, ""), help="for tests")
    asked = parser.parse_args(argv)
    address, _, port = asked.endpoint.rpartition(":")
    if not (2 <= asked.nodes <= 4096 and 1 <= asked.ranks <= 64):
        parser.error("wanted 2 to 4096 --nodes, 1 to 64 --ranks")
    if not (address and port.isascii() and port.isdigit()):
        parser.error(f"--endpoint {asked.endpoint}: wanted ADDRESS:PORT")
    return asked


# ---------------------------------------------------------------- the launcher: no torch in here


def launch(asked: argparse.Namespace) -> int:
    """Start torchrun, watch its ranks, print the document."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="gpufleet-nodes-"))
    signal.signal(signal.SIGTERM, ranks.stop)
    agent: subprocess.Popen[bytes] | None = None
    network = {"address": "", "interface": "", "error": ""}
    try:
        say("stage: rendezvous")
        network = way_to(asked.endpoint)
        if not network["error"]:
            agent = start(asked, folder, network)
            watch(agent, folder, asked, began + asked.limit)
    except ranks.StopAskedError:
        say("told to stop")
    finally:
        code = agent.poll() if agent else None
        records = [read(folder, slot) for slot in range(asked.ranks)]
        running = [one["pid"] for one in records if one["pid"] and ranks.alive(one["pid"])]
        ranks.ask_where(running)
        if agent:
            stop(agent, running)
    records = [read(folder, slot) for slot in range(asked.ranks)]
    for slot, record in enumerate(records):
        stopped = record.pop("stopped", False) or record["pid"] in running
        record["gone"] = bool(record["pid"]) and not stopped
        record["abandoned"] = bool(record["pid"]) and ranks.alive(record["pid"])
        record |= {"code": None, "local": slot, "stderr": ""}
    told: Record = next((one.pop("run") for one in records if "run" in one), {})
    for record in records:
        record.pop("run", None)
    words = ranks.tail(folder / "agent.err")
    answer = {
        "schema": SCHEMA,
        "host": os.uname().nodename[:200],
        "id": asked.id,
        "nodes": asked.nodes,
        "device": asked.device,
        "limit_s": asked.limit,
        "seconds": round(time.monotonic() - began, 3),
        "perturbed": asked.perturb,
        "network": network,
        "agent": {"code": code, "error": last_error(words), "stderr": words},
        "run": told,
        "nccl": statements(folder),
        "ranks": records,
    }
    shutil.rmtree(folder, ignore_errors=True)
    print("GPUFLEET " + json.dumps(answer, separators=(",", ":")), flush=True)
    return 0


def read(folder: Path, slot: int) -> Record:
    """What a rank has left; without a number among all ranks when it did not come to life."""
    record = ranks.read_record(folder, slot)
    return record if record["pid"] else record | {"rank": None}


def way_to(endpoint: str) -> dict[str, str]:
    """This host's address and interface on the way to the endpoint; why there is none."""
    host, _, port = endpoint.rpartition(":")
    found = {"address": "", "interface": "", "error": ""}
    try:
        family, kind, _, _, place = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind) as probe:
            probe.connect(place)  # sends nothing: it asks for the route
            found["address"] = str(probe.getsockname()[0])
    except OSError as error:
        return found | {"error": f"no way to {host}: {error.strerror or error}"}
    found["interface"] = interface_of(found["address"])
    if found["address"].startswith("127.") or found["address"] == "::1":
        found["error"] = (
            f"{host} leads to this host's loopback ({found['address']}), where no other host is: "
            "set train_address in the inventory to its address on the network"
        )
    return found


def interface_of(address: str) -> str:
    """The interface that has an address; "" when none is seen to have it."""
    try:
        wanted = socket.inet_pton(socket.AF_INET, address)
    except OSError:
        return interface_of_ipv6(address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            question = struct.pack("256s", name.encode()[:15])
            try:
                if fcntl.ioctl(asking.fileno(), SIOCGIFADDR, question)[20:24] == wanted:
                    return name
            except OSError:
                continue
    return ""


def interface_of_ipv6(address: str) -> str:
    """The same for IPv6, from the kernel's list."""
    try:
        wanted = socket.inet_pton(socket.AF_INET6, address.partition("%")[0]).hex()
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split()[-1] for line in lines if line.split()[0] == wanted), "")


def start(
    asked: argparse.Namespace, folder: Path, network: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start torchrun with the environment's own Python."""
    join = int(min(JOIN_S, asked.limit))
    conf = f"is_host={int(asked.serve)},join_timeout={join},last_call_timeout=1"
    words = ["-B", "-m", "torch.distributed.run", f"--nnodes={asked.nodes}"]
    words += [f"--nproc-per-node={asked.ranks}", "--rdzv-backend=c10d", f"--rdzv-conf={conf}"]
    words += [f"--rdzv-endpoint={asked.endpoint}", f"--rdzv-id={asked.id}", "--max-restarts=0"]
    words += [f"--local-addr={network['address']}", "--monitor-interval=0.2"]
    words.append(os.path.abspath(__file__))
    passed = ("nodes", "ranks", "device", "endpoint", "id", "limit", "patience", "perturb")
    words += [f"--{name}={getattr(asked, name)}" for name in passed]
    own = {FOLDER: str(folder), "OMP_NUM_THREADS": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    own |= ranks.RECORDER
    own |= {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,ENV,NET,P2P,SHM,NVLS,TUNING"}
    own["NCCL_DEBUG_FILE"] = str(folder / "nccl.%p")
    own["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
    usual = {}
    if network["interface"]:
        # The network between the hosts: a name of this host that leads to its loopback would make
        # gloo listen there, and NCCL takes the first interface that it likes. "=": no prefix match.
        usual = {"GLOO_SOCKET_IFNAME": network["interface"]}
        usual["NCCL_SOCKET_IFNAME"] = f"={network['interface']}"
    with (folder / "agent.err").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            env={**usual, **os.environ, **own},
            preexec_fn=end_with_parent,
        )


def end_with_parent() -> None:
    """Whoever kills the parent of this process takes it along."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def watch(
    agent: subprocess.Popen[bytes], folder: Path, asked: argparse.Namespace, until: float
) -> None:
    """Wait until torchrun has ended, or nothing moves, or the time is over."""
    places: list[Record] = []
    moved, shown = time.monotonic(), ""
    while agent.poll() is None and time.monotonic() < until:
        here = [ranks.read_place(folder, slot) for slot in range(asked.ranks)]
        if here != places:
            places, moved = here, time.monotonic()
            stage = min((place["stage"] for place in places), key=STAGES.index)
            if stage != shown:
                say(f"stage: {stage}")
                shown = stage
        met = all(STAGES.index(place["stage"]) > STAGES.index("rendezvous") for place in places)
        if met and time.monotonic() > moved + asked.patience + 5:
            say(f"no rank has moved for {time.monotonic() - moved:.0f} s")
            return
        time.sleep(0.05)


def stop(agent: subprocess.Popen[bytes], pids: list[int]) -> None:
    """Kill torchrun and its ranks, and leave behind what does not even take that."""
    for pid in (*pids, *([agent.pid] if agent.poll() is None else [])):
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            continue
    until = time.monotonic() + ranks.KILL_S
    while agent.poll() is None and time.monotonic() < until:
        time.sleep(0.01)


def last_error(words: str) -> str:
    """The last line of torchrun's that names an error."""
    lines = [line.strip() for line in words.splitlines()]
    found = [line for line in lines if re.search(r"(Error|error|Exception|Timeout)\b.*: ", line)]
    return found[-1][:300] if found else ""


def statements(folder: Path) -> list[str]:
    """What NCCL said of networks, paths and algorithms, bounded."""
    found = []
    for file in sorted(folder.glob("nccl.*")):
        with file.open(errors="replace") as lines:
            told = [line.strip()[:400] for line in lines if re.search(r" via |NET/|Algo ", line)]
        found += told[: MOST_LINES // 4]
    return found[:MOST_LINES]


if __name__ == "__main__" and "RANK" not in os.environ:
    sys.exit(launch(arguments()))


# ---------------------------------------------------------------- one rank


def prepare() -> tuple[argparse.Namespace, Trail]:
    """What a rank does before it loads torch."""
    asked = arguments()
    # Before torch starts threads, which inherit it: only the thread of `keep_time` gets SIGTERM.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    end_with_parent()
    folder, slot = Path(os.environ[FOLDER]), int(os.environ["LOCAL_RANK"])
    trail = Trail(folder, int(os.environ["RANK"]), asked.perturb, slot)
    sys.excepthook = functools.partial(ranks.fail, trail, lambda: None)
    ranks.keep_time(trail, asked.limit, lambda: None)
    trail.at("loads torch")
    return asked, trail


if __name__ == "__main__":
    ASKED, TRAIL = prepare()

import torch  # noqa: E402 - the launcher must not need it, and a rank that hangs in it is named
import torch.distributed as dist  # noqa: E402

from verify.payload import train_ddp as ddp  # noqa: E402


def main(asked: argparse.Namespace, trail: Trail) -> int:
    """Everything that one rank does, in order."""
    device = ddp.choose_device(asked.device, trail.slot)
    cuda = device.type == "cuda"
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if cuda:
        torch.cuda.set_device(device)
    trail.record["device"] = ddp.describe(device)
    world = int(os.environ["WORLD_SIZE"])
    backend = "nccl" if cuda else "gloo"
    trail.record["run"] = {
        "user": ddp.user_name(),
        "torch": torch.__version__,
        "backend": backend,
        "world": world,
        "choices": ddp.SYMBOLS,
        **ddp.best_loss(ddp.SYMBOLS, ddp.NOISE),
    }
    trail.at("loads what DDP needs")
    importlib.import_module("torch._dynamo")

    trail.enter("rendezvous")
    trail.at("makes the process group", inside=True)
    patience = timedelta(seconds=asked.patience + (ABORT_S if cuda else 0))
    dist.init_process_group(backend, timeout=patience)
    trail.at("waits for all ranks", inside=True)
    dist.barrier()

    trail.enter("collectives")
    trail.record["collectives"] = collectives(trail, world, device)
    trail.enter("gradients")
    # Sums over so many ranks are exact in float64 alone.
    wide = ddp.largest(world) >= ddp.EXACT_BELOW
    dtype = torch.float64 if wide else torch.float32
    trail.record["gradients"] = ddp.exact_gradients(trail, world, device, dtype)
    trail.enter("transformer")
    trail.record["transformer"] = ddp.train(
        trail, world, device, ddp.TASKS["transformer"], beside_single=False
    )
    trail.enter("bandwidth")
    trail.record["bandwidth"] = bandwidth(trail, world, device)
    trail.enter("leave")
    trail.at("last barrier", inside=True)
    dist.barrier()
    trail.at("leaves the process group", inside=True)
    dist.destroy_process_group()
    trail.record["stages"]["leave"] = round(time.monotonic() - trail.began, 3)
    trail.record["ended"] = True
    trail.save()
    return 0


# ---------------------------------------------------------------- collectives, however many ranks

TURNS = 2
LENGTHS = {"cpu": (1, 1023, 65_536), "cuda": (1, 1023, 65_536, 2**20, 2**24)}
EXACT = {
    "float32": 2**24, "float64": 2**53, "float16": 2**11, "bfloat16": 2**8, "int32": 2**31 - 1,
    "int64": 2**63 - 1,
}  # fmt: skip
"""Up to here a type holds every integer (bits of its significand), so every partial sum."""
MOST_VALUES = 31


class Values:
    """Integers that every rank knows of every other: (of(index) + of(rank)) modulo `count`.

    So few that the sum over all ranks is exact in the type; and the closed form of a sum, however
    many the ranks, is a table of `count` entries.
    """

    def __init__(self, count: int, world: int, turn: int, device: torch.device) -> None:
        self.count, self.world, self.turn, self.device = count, world, turn, device
        everyone = torch.arange(world)
        self.of_rank = ((everyone * 5 + everyone // 7) % count).to(device)
        each = (torch.arange(count).view(-1, 1).to(device) + self.of_rank) % count
        self.summed, self.least, self.most = each.sum(1), each.min(1).values, each.max(1).values

    def of_index(self, length: int, start: int = 0) -> torch.Tensor:
        """What an index adds."""
        index = torch.arange(start, start + length, device=self.device)
        return (index * 7 + index // 257 + 11 * self.turn) % self.count

    def of(self, rank: int, length: int, start: int = 0) -> torch.Tensor:
        """A rank's data."""
        return (self.of_index(length, start) + self.of_rank[rank]) % self.count

    def of_all(self, length: int, start: int = 0) -> torch.Tensor:
        """The same indices of every rank, one rank after the other."""
        index = self.of_index(length, start)
        return ((index + self.of_rank.view(-1, 1)) % self.count).flatten()


Source = Callable[[int], int] | None
Case = tuple[Callable[[], torch.Tensor], torch.Tensor, Source]


def cases(
    values: Values, rank: int, length: int, dtype: torch.dtype, spoilt: bool
) -> dict[str, Case]:
    """Each collective: what runs it, what must come out, and which rank an element came from."""
    world, device = values.world, values.device
    share = max(1, length // world)

    def mine(size: int) -> torch.Tensor:
        data = values.of(rank, size).to(dtype)
        if spoilt:
            data[size // 2] += 1
        return data

    def empty(size: int) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, device=device)

    def reduced(operation: Any, table: torch.Tensor) -> Case:
        out = mine(length)

        def run() -> torch.Tensor:
            dist.all_reduce(out, op=operation)
            return out

        return run, table[values.of_index(length)].to(dtype), None

    def sent(out: torch.Tensor, run: Callable[[torch.Tensor], Any]) -> Callable[[], torch.Tensor]:
        def ran() -> torch.Tensor:
            run(out)
            return out

        return ran

    root, whole = values.turn % world, share * world
    one, parts = mine(share), mine(whole)
    scattered = values.summed[values.of_index(share, rank * share)].to(dtype)
    return {
        "all_reduce sum": reduced(dist.ReduceOp.SUM, values.summed),
        "all_reduce min": reduced(dist.ReduceOp.MIN, values.least),
        "all_reduce max": reduced(dist.ReduceOp.MAX, values.most),
        "broadcast": (
            sent(mine(length), lambda out: dist.broadcast(out, root)),
            values.of(root, length).to(dtype),
            lambda index: root,
        ),
        "all_gather": (
            sent(empty(whole), lambda out: ddp.GATHER(out, one)),
            values.of_all(share).to(dtype),
            lambda index: index // share,
        ),
        "reduce_scatter": (
            sent(empty(share), lambda out: ddp.SCATTER(out, parts)), scattered, None,
        ),
        "all_to_all": (
            sent(empty(whole), lambda out: dist.all_to_all_single(out, parts)),
            values.of_all(share, rank * share).to(dtype),
            lambda index: index // share,
        ),
    }  # fmt: skip


def collectives(trail: Trail, world: int, device: torch.device) -> Record:
    """Each collective against its closed form, as in train_ddp.py."""
    compared: dict[str, int] = {}
    left_out: dict[str, str] = {}
    wrong: list[Record] = []
    total = 0
    for length in LENGTHS[device.type]:
        for turn in range(TURNS):
            for name, most in EXACT.items():
                count = min(MOST_VALUES, most // world)
                if count < 2:
                    left_out[name] = f"a sum over {world} ranks is not exact in it"
                    continue
                dtype = getattr(torch, name)
                trail.at(f"prepares {name}, {length} elements, turn {turn}")
                spoilt = trail.wrong("contribution", "collectives")
                values = Values(count, world, turn, device)
                for operation, case in cases(values, trail.rank, length, dtype, spoilt).items():
                    run, wanted, source = case
                    what = f"{operation} {name}"
                    trail.at(f"{what}, {length} elements, turn {turn}", inside=True)
                    found = run()
                    ddp.settle(device)
                    trail.at(f"compares {what}, {length} elements, turn {turn}")
                    if trail.wrong("collective", "collectives") and operation == "all_reduce sum":
                        found[len(found) // 2] += 1
                    bad = (found != wanted).nonzero().flatten()
                    compared[what] = compared.get(what, 0) + len(found)
                    total += len(bad)
                    if len(bad) and len(wrong) < 10:
                        at = int(bad[0])
                        wrong.append(
                            {
                                "operation": what,
                                "length": length,
                                "turn": turn,
                                "elements": len(bad),
                                "index": at,
                                "found": ddp.number(found[at]),
                                "wanted": ddp.number(wanted[at]),
                                "source": source(at) if source else None,
                            }
                        )
    return {"compared": compared, "left_out": left_out, "wrong_elements": total, "wrong": wrong}


# ---------------------------------------------------------------- bandwidth

SIZES = {"cpu": (2**16, 2**20, 2**23), "cuda": (2**20, 2**24, 2**26, 2**28, 2**30)}
"""Bytes that each rank gives."""
TIMES = {"cpu": 4, "cuda": 20}


def bandwidth(trail: Trail, world: int, device: torch.device) -> list[Record]:
    """all_reduce by size. Bus bandwidth as nccl-tests has it (doc/PERFORMANCE.md): the bytes that
    each rank gives, by the time, times 2 (n - 1) / n; GB/s are 10^9 bytes a second."""
    found = []
    for size in SIZES[device.type]:
        data = torch.zeros(size // 4, device=device)
        trail.at(f"warms up all_reduce of {size} bytes", inside=True)
        for _ in range(2):
            dist.all_reduce(data)
        dist.barrier()
        ddp.settle(device)
        trail.at(f"all_reduce of {size} bytes", inside=True)
        began = time.monotonic()
        for _ in range(TIMES[device.type]):
            if trail.wrong("slow", "bandwidth"):
                time.sleep(0.1)
            dist.all_reduce(data)
        ddp.settle(device)
        seconds = (time.monotonic() - began) / TIMES[device.type]
        trail.at(f"has measured all_reduce of {size} bytes")
        bus = size / seconds * 2 * (world - 1) / world / 1e9
        found.append({"bytes": size, "seconds": seconds, "bus_gbs": bus})
    return found


if __name__ == "__main__":
    sys.exit(main(ASKED, TRAIL))
