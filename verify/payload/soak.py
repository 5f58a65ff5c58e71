"""Load every GPU of this host for a given time, and compare all that it computes and remembers.

    soak.py --ranks 8 --device cuda --seconds 900 --folder DIR     one process per GPU
    soak.py --ranks 2 --device cpu --seconds 6 --folder DIR        two on the CPU, a little memory

Standard output gets one line, `GPUFLEET {json}`; it measures and reports, it does not judge. Each
rank goes round until its time is up:

  memory    patterns over most of what is free: walking ones and zeros, checkerboards, each word its
            own address, seeded random words made anew for the comparison, moving inversions
  compute   one product of seeded matrices again and again, and a short training from one seed again
            and again: every result must have the bits of the first

A sampler beside them reads temperature, power, clock and why clocks are held back, through NVML.
Whatever is known is in DIR at any time (rank-N.json, samples.json), so that what was interrupted
is not lost. A file `stop` in DIR ends the soak with its text as the reason.
Standard library and torch only, pynvml for the sampler; Python 3.10 must do.
"""

import argparse
import ctypes
import functools
import hashlib
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

BUNDLE = Path(__file__).resolve().parents[2]
sys.path[:] = [place for place in sys.path if place != str(Path(__file__).resolve().parent)]

SCHEMA = 1
START_S = 120.0
"""Seconds for importing torch and opening the GPUs, beside those of the soak."""
LATE_S = 20.0
"""Seconds that a rank may still take when another has come to its end."""
STOP_S = 5.0
"""Seconds between asking a rank to stop and SIGKILL."""
KILL_S = 1.0
PERTURB = "GPUFLEET_SOAK_PERTURB"
"""Environment variable KIND:RANK for tests; the report says that it was set."""
SHORT = "GPUFLEET_SOAK_SECONDS"
"""Environment variable for tests: so many seconds in place of those asked; the report says it."""
PERTURBATIONS = ("die", "hang", "raise", "memory", "compute", "replay", "slow", "hot")
MOST_WRONG = 8
"""Mismatches that are told one by one; the others are counted."""
MOST_POINTS = 240
"""Of a curve; a longer one loses every other point."""
SHARE = 0.9
"""Of the free memory of a GPU that patterns are written to."""
CPU_BYTES = 4 * 1024 * 1024
"""Of this host's memory, per rank: on the CPU the memory test shows the program, not the memory."""
CHUNK_BYTES = 1024 * 1024 * 1024
SEED = 20_261
WORD = 64
ALL = (1 << WORD) - 1

Record = dict[str, Any]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """What was asked for on the command line. Exits 2 on what makes no sense."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cpu")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--perturb", default=os.environ.get(PERTURB, ""), metavar="KIND:RANK")
    parser.add_argument("--rank", type=int, help="for the launcher's own use")
    parser.add_argument("--sample", action="store_true", help="for the launcher's own use")
    asked = parser.parse_args(argv)
    asked.shortened = os.environ.get(SHORT, "")
    asked.seconds = float(asked.shortened or asked.seconds)
    kind, _, rank = asked.perturb.partition(":")
    if asked.perturb and (kind not in PERTURBATIONS or not (rank.isascii() and rank.isdigit())):
        parser.error(f"--perturb {asked.perturb}: KIND:RANK, of {', '.join(PERTURBATIONS)}")
    if not 1 <= asked.ranks <= 64 or not 0.5 <= asked.seconds <= 7 * 86400:
        parser.error("from 1 to 64 ranks, from 0.5 s to a week")
    return asked


def keep(path: Path, value: Any) -> None:
    """A file that is whole at any time."""
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(value))
    beside.replace(path)


def thinned(points: list[list[float]]) -> list[list[float]]:
    """A curve of bounded length; its newest point stays."""
    return points if len(points) <= MOST_POINTS else [*points[:-1:2], points[-1]]


# ---------------------------------------------------------------- the launcher: no torch in here


def launch(asked: argparse.Namespace) -> int:
    """Start the ranks and the sampler, wait, print the document."""
    asked.folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    told: list[str] = []
    signal.signal(signal.SIGTERM, lambda *_: told.append("it was told to stop"))
    own = [sys.executable, "-B", str(Path(__file__).resolve()), *_words(asked)]
    ranks = [_started([*own, "--rank", str(rank)]) for rank in range(asked.ranks)]
    sampler = _started([*own, "--sample"])
    os.write(2, b"stage: soak\n")
    why, over = "", began + asked.seconds + START_S
    while any(one.poll() is None for one in ranks):
        why = told[0] if told else _stop_reason(asked.folder)
        failed = [one for one in ranks if one.poll() not in (None, 0)]
        if why or failed or time.monotonic() > over:
            break
        if any(one.poll() == 0 for one in ranks):
            over = min(over, time.monotonic() + LATE_S)
        time.sleep(0.1)
    late = time.monotonic() > over
    running = [one.poll() is None for one in ranks]
    _end(ranks)
    _end([sampler])
    records = []
    for number, one in enumerate(ranks):
        record = read(asked.folder / f"rank-{number}.json") or {"rank": number, "state": "lost"}
        code = one.poll()
        if record["state"] == "running":
            stopped = "hung" if late else "stopped"
            record["state"] = stopped if running[number] else "died"
        elif late and running[number]:
            record["state"] = "hung"
        record |= {"code": code, "abandoned": code is None}
        records.append(record)
    samples = read(asked.folder / "samples.json") or {"error": "the sampler said nothing"}
    answer = {
        "schema": SCHEMA, "asked_s": asked.seconds, "device": asked.device, "why": why,
        "seconds": round(time.monotonic() - began, 3), "perturbed": _changed(asked),
        "user": _user(), "ranks": records, "samples": samples,
    }  # fmt: skip
    print("GPUFLEET " + json.dumps(answer, separators=(",", ":")), flush=True)
    return 0


def _changed(asked: argparse.Namespace) -> str:
    short = f"shortened to {asked.seconds:g} s" if asked.shortened else ""
    return ", ".join(text for text in (asked.perturb, short) if text)


def _words(asked: argparse.Namespace) -> list[str]:
    names = ("ranks", "device", "seconds", "folder", "perturb")
    return [f"--{name}={getattr(asked, name)}" for name in names]


def _started(command: list[str]) -> "subprocess.Popen[bytes]":
    nothing = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=nothing, stdout=nothing)


def _stop_reason(folder: Path) -> str:
    try:
        with (folder / "stop").open("rb") as file:
            return file.read(300).decode(errors="replace").strip() or "it was told to stop"
    except OSError:
        return ""


def _end(processes: "list[subprocess.Popen[bytes]]") -> None:
    """Ask, insist, and leave behind what does not end."""
    for number, patience in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, KILL_S)):
        left = [one for one in processes if one.poll() is None]
        for one in left:
            one.send_signal(number)
        deadline = time.monotonic() + patience
        while any(one.poll() is None for one in left) and time.monotonic() < deadline:
            time.sleep(0.05)


def read(path: Path) -> Record | None:
    """A record that a rank or the sampler kept; None without one."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


# ---------------------------------------------------------------- a rank


class Stopped(Exception):  # noqa: N818 - no error
    """The time is over, or somebody asked for an end."""


class Rank:
    """One GPU, or one process on the CPU."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.path: Path = asked.folder / f"rank-{asked.rank}.json"
        kind, _, rank = asked.perturb.partition(":")
        self.fault = kind if rank == str(asked.rank) else ""
        self.told = False
        self.record: Record = {
            "rank": asked.rank, "pid": os.getpid(), "state": "running", "stage": "import torch",
            "error": "", "seconds": 0.0, "torch": "", "device": None,
            "memory": {
                "bytes": 0, "rounds": 0, "seconds": 0.0, "patterns": {}, "wrong_words": 0,
                "wrong": [],
            },
            "compute": {
                "what": "", "products": 0, "replays": 0, "seconds": 0.0, "digest": "",
                "wrong_products": 0, "wrong_replays": 0, "wrong": [], "rates": [],
            },
        }  # fmt: skip
        signal.signal(signal.SIGTERM, self._tell)
        self.keep()
        # cuBLAS gives equal bits run to run on one stream with a fixed workspace (its manual,
        # "Results reproducibility"). Read when torch makes its first handle.
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        import torch

        self.torch = torch
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(1)
        self.record["torch"] = torch.__version__
        self.cuda = asked.device == "cuda"
        self.device = torch.device("cuda", asked.rank) if self.cuda else torch.device("cpu")
        self._stage("open the device")
        self.record["device"] = self._identity(asked.rank)
        self.begun = time.monotonic()
        self.half = self.begun + asked.seconds / 2
        self.until = self.begun + asked.seconds

    def _tell(self, number: int, frame: FrameType | None) -> None:
        self.told = True

    def keep(self) -> None:
        keep(self.path, self.record)

    def _stage(self, text: str) -> None:
        self.record["stage"] = text
        self.keep()

    def _identity(self, index: int) -> Record:
        if not self.cuda:
            return {"kind": "cpu", "index": None, "uuid": "", "name": "cpu"}
        self.torch.cuda.set_device(index)
        found = self.torch.cuda.get_device_properties(index)
        uuid = str(getattr(found, "uuid", ""))
        uuid = uuid if not uuid or uuid.startswith("GPU-") else f"GPU-{uuid}"
        return {"kind": "cuda", "index": index, "uuid": uuid, "name": found.name}

    def look(self) -> None:
        """Raises Stopped when it is time to end."""
        if self.told or time.monotonic() >= self.until:
            raise Stopped

    def go_round(self) -> None:
        """Memory and compute in turn, until the time is over."""
        product, replay = Product(self), Replay(self)
        try:
            while True:
                began = time.monotonic()
                self._memory()
                self._perturb()
                took = time.monotonic() - began
                self._compute(product, replay, max(2 * took, 0.5))
        except Stopped:
            pass

    def _perturb(self) -> None:
        if self.fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fault == "raise":
            raise ValueError("perturbed: this rank was told to raise")
        elif self.fault == "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(60)

    # ---- memory

    def _memory(self) -> None:
        self._stage("memory")
        memory, began = self.record["memory"], time.monotonic()
        chunks = self._chunks()
        memory["bytes"] = sum(chunk.numel() for chunk in chunks) * 8
        try:
            for name, test in patterns(self, chunks):
                self.look()
                test()
                kind = name.partition(" ")[0]
                memory["patterns"][kind] = memory["patterns"].get(kind, 0) + 1
            memory["rounds"] += 1
        finally:
            del chunks
            if self.cuda:
                self.torch.cuda.empty_cache()
            memory["seconds"] = round(memory["seconds"] + time.monotonic() - began, 3)
            self.keep()

    def _chunks(self) -> list[Any]:
        """The words that are tested: most of a GPU's free memory."""
        whole = CPU_BYTES
        if self.cuda:
            whole = int(self.torch.cuda.mem_get_info(self.device)[0] * SHARE)
        # What is compared needs an eighth of a chunk, what is made anew another chunk.
        size = min(CHUNK_BYTES, max(whole // 8, 1 << 20))
        made = []
        for _ in range(max(1, whole // size - (2 if self.cuda else 0))):
            made.append(self.torch.empty(size // 8, dtype=self.torch.int64, device=self.device))
        return made

    def compare(self, name: str, chunk: Any, number: int, wanted: Any) -> None:
        """A chunk against a word, or against as many words as it has."""
        if self.fault == "memory" and self.record["memory"]["rounds"] == 0 and number == 1:
            chunk[7] ^= 1 << 5
            self.fault = ""
        bad = chunk != wanted
        count = int(bad.sum())
        if not count:
            return
        memory = self.record["memory"]
        memory["wrong_words"] += count
        for at in bad.nonzero()[:MOST_WRONG, 0].tolist():
            if len(memory["wrong"]) >= MOST_WRONG:
                break
            wrote = int(wanted if isinstance(wanted, int) else wanted[at]) & ALL
            was = int(chunk[at]) & ALL
            memory["wrong"].append({
                "pattern": name, "offset": number * chunk.numel() * 8 + at * 8,
                "wrote": f"{wrote:016x}", "read": f"{was:016x}", "bits": f"{wrote ^ was:016x}",
                "at_s": round(time.monotonic() - self.begun, 1),
            })  # fmt: skip
        self.keep()

    # ---- compute

    def _compute(self, product: "Product", replay: "Replay", seconds: float) -> None:
        self._stage("compute")
        compute, began = self.record["compute"], time.monotonic()
        slice_s = 1.0 if self.cuda else 0.2
        try:
            while time.monotonic() - began < seconds:
                replay.once()
                done, since = 0, time.monotonic()
                while time.monotonic() - since < slice_s:
                    self.look()
                    done += product.several()
                    if self.fault == "slow" and time.monotonic() > self.half:
                        time.sleep(60 * (time.monotonic() - since))
                took = time.monotonic() - since
                rate = done * product.operations / took / 1e12
                at = round(time.monotonic() - self.begun, 2)
                compute["rates"] = thinned([*compute["rates"], [at, rate]])
                self.keep()
        finally:
            compute["seconds"] = round(compute["seconds"] + time.monotonic() - began, 3)
            self.keep()

    def differ(self, what: str, elements: int) -> None:
        """One result that has not the bits of the first."""
        compute = self.record["compute"]
        compute[f"wrong_{what}s"] += 1
        if len(compute["wrong"]) < MOST_WRONG:
            at = round(time.monotonic() - self.begun, 1)
            number = compute[f"{what}s"]
            compute["wrong"].append(
                {"what": what, "number": number, "elements": elements, "at_s": at}
            )


class Product:
    """One product of two seeded matrices, whose result is kept and compared with."""

    def __init__(self, rank: Rank) -> None:
        torch, self.rank = rank.torch, rank
        size = 8192 if rank.cuda else 192
        dtype = torch.bfloat16 if rank.cuda else torch.float32
        self.operations = 2 * size**3
        made = torch.Generator(device="cpu").manual_seed(SEED)
        self.left, self.right = (
            torch.randn(size, size, generator=made).to(rank.device, dtype) for _ in range(2)
        )
        self.first = self.left @ self.right
        name = str(dtype).removeprefix("torch.")
        rank.record["compute"]["what"] = f"{size} x {size} x {size} {name}"

    def several(self) -> int:
        """Some products, each compared with the first; how many."""
        compute, torch = self.rank.record["compute"], self.rank.torch
        for _ in range(8):
            result = self.left @ self.right
            compute["products"] += 1
            if self.rank.fault == "compute":
                result.view(-1)[3] += 1
                self.rank.fault = ""
            if not torch.equal(result, self.first):
                self.rank.differ("product", int((result != self.first).sum()))
        return 8


class Replay:
    """A short training from one seed; what it ends with must be the same every time."""

    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        self.first = ""

    def once(self) -> None:
        torch, rank = self.rank.torch, self.rank
        torch.manual_seed(SEED)
        wide, many = (1024, 256) if rank.cuda else (32, 16)
        made = torch.Generator(device="cpu").manual_seed(SEED)
        data = torch.randn(many, wide, generator=made).to(rank.device)
        model = torch.nn.Sequential(
            torch.nn.Linear(wide, wide), torch.nn.GELU(), torch.nn.Linear(wide, wide)
        ).to(rank.device)
        descent = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        for _ in range(20):
            descent.zero_grad()
            torch.nn.functional.mse_loss(model(data), data).backward()
            descent.step()
        compute = rank.record["compute"]
        compute["replays"] += 1
        if rank.fault == "replay" and compute["replays"] == 2:
            with torch.no_grad():
                next(iter(model.parameters()))[0, 0] += 1
        found = hashlib.sha256()
        for parameter in model.parameters():
            there = parameter.detach().cpu().contiguous()
            found.update(ctypes.string_at(there.data_ptr(), there.numel() * there.element_size()))
        digest = found.hexdigest()[:16]
        self.first = compute["digest"] = self.first or digest
        if digest != self.first:
            rank.differ("replay", 0)


def signed(word: int) -> int:
    """A word of 64 bits as torch's int64 has it."""
    return word - (1 << WORD) if word >> (WORD - 1) else word


def patterns(rank: Rank, chunks: list[Any]) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every test of one round: its name, whose first word is its kind, and what does it."""
    torch = rank.torch

    def constant(name: str, word: int) -> None:
        for chunk in chunks:
            chunk.fill_(word)
        for number, chunk in enumerate(chunks):
            rank.compare(name, chunk, number, word)

    for bit in range(WORD):
        for name, word in (("walking-ones", 1 << bit), ("walking-zeros", ALL ^ (1 << bit))):
            title = f"{name} {bit}"
            yield title, functools.partial(constant, title, signed(word))
    for byte in (0x00, 0xFF, 0xAA, 0x55):
        title = f"checkerboard {byte:02x}" if byte in (0xAA, 0x55) else f"solid {byte:02x}"
        yield (
            title,
            functools.partial(constant, title, signed(int.from_bytes(bytes([byte] * 8), "big"))),
        )

    def words(make: Callable[[int, int], Any], name: str) -> None:
        for number, chunk in enumerate(chunks):
            chunk.copy_(make(number, chunk.numel()))
        for number, chunk in enumerate(chunks):
            rank.compare(name, chunk, number, make(number, chunk.numel()))

    def addresses(number: int, size: int) -> Any:
        return torch.arange(number * size, (number + 1) * size, device=rank.device)

    def random(number: int, size: int) -> Any:
        seeded = torch.Generator(device=rank.device).manual_seed(SEED + number)
        return torch.empty(size, dtype=torch.int64, device=rank.device).random_(generator=seeded)

    yield "address", lambda: words(addresses, "address")
    yield "random", lambda: words(random, "random")

    def inversions(word: int) -> None:
        name, other = "moving-inversions", signed(ALL ^ (word & ALL))
        for chunk in chunks:
            chunk.fill_(word)
        order = list(enumerate(chunks))
        for way, wanted, next_ in ((order, word, other), (order[::-1], other, word)):
            for number, chunk in way:
                rank.compare(name, chunk, number, wanted)
                chunk.fill_(next_)
        for number, chunk in order:
            rank.compare(name, chunk, number, word)

    for word in (0x5555555555555555, 0x123456789ABCDEF):
        yield "moving-inversions", functools.partial(inversions, word)


def be_rank(asked: argparse.Namespace) -> int:
    """One rank from start to end."""
    rank = Rank(asked)
    try:
        rank.go_round()
        rank.record["state"] = "stopped" if rank.told else "ended"
    except Exception as error:  # whatever torch or the driver raises is the finding
        rank.record |= {"state": "raised", "error": f"{type(error).__name__}: {error}"[:600]}
    rank.record["seconds"] = round(time.monotonic() - rank.begun, 3)
    rank.keep()
    return 0 if rank.record["state"] != "raised" else 3


# ---------------------------------------------------------------- the sampler: NVML, and no torch


def sample(asked: argparse.Namespace) -> int:
    """Curves of every GPU until somebody ends it."""
    path, begun = asked.folder / "samples.json", time.monotonic()
    found: Record = {"error": "", "every_s": max(0.5, asked.seconds / 900), "gpus": []}
    keep(path, {**found, "error": "the sampler stopped at its first question"})
    if (BUNDLE / "lib").is_dir():
        sys.path.insert(0, str(BUNDLE / "lib"))
    try:
        import pynvml  # type: ignore[import-untyped]

        pynvml.nvmlInit()
        handles = [
            pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
        ]
        found["gpus"] = [_curve(pynvml, index, one) for index, one in enumerate(handles)]
        hot = asked.perturb.removeprefix("hot:") if asked.perturb.startswith("hot:") else ""
        while True:
            for gpu, handle in zip(found["gpus"], handles, strict=True):
                _sampled(pynvml, gpu, handle, time.monotonic() - begun, hot == str(gpu["index"]))
            keep(path, found)
            time.sleep(found["every_s"])
    except Exception as error:  # without NVML there are no curves, and that is said
        keep(path, {**found, "error": f"{type(error).__name__}: {error}"[:300]})
    return 0


def _asked(read_: Callable[[], Any]) -> Any:
    """One value; None where this GPU or driver does not tell."""
    try:
        return read_()
    except Exception:  # any of NVML's errors, and functions that an older library lacks
        return None


def _curve(nvml: Any, index: int, handle: Any) -> Record:
    threshold = functools.partial(nvml.nvmlDeviceGetTemperatureThreshold, handle)
    limit = _asked(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))
    return {
        "index": index,
        "uuid": _asked(lambda: nvml.nvmlDeviceGetUUID(handle)) or "",
        "slowdown_c": _asked(lambda: threshold(nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)),
        "power_limit_w": None if limit is None else limit / 1000,
        "samples": 0, "unread": 0, "reasons": {}, "hottest_c": None, "most_w": None, "curve": [],
    }  # fmt: skip


def _sampled(nvml: Any, gpu: Record, handle: Any, at: float, hot: bool) -> None:
    """One more point: second, degrees, watts, MHz; how often each reason was there."""
    celsius = _asked(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
    watts = _asked(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000)
    clock = _asked(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))
    reasons = _asked(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    if hot:
        celsius, reasons = (gpu["slowdown_c"] or 90) + 3, (reasons or 0) | 0x40
    gpu["samples"] += 1
    gpu["unread"] += celsius is None or reasons is None
    for bit in range(64):
        if (reasons or 0) >> bit & 1:
            gpu["reasons"][f"{1 << bit:x}"] = gpu["reasons"].get(f"{1 << bit:x}", 0) + 1
    for key, value in (("hottest_c", celsius), ("most_w", watts)):
        if value is not None:
            gpu[key] = value if gpu[key] is None else max(gpu[key], value)
    gpu["curve"] = thinned([*gpu["curve"], [round(at, 1), celsius, watts, clock]])


def main() -> int:
    asked = arguments()
    if asked.sample:
        return sample(asked)
    return be_rank(asked) if asked.rank is not None else launch(asked)


if __name__ == "__main__":
    sys.exit(main())
