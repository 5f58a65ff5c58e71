"""Train one named workload, or exercise one technique, on every GPU of this host, and report.

    python3 workloads.py linear                           on GPU 0, or on the CPU without GPUs
    python3 workloads.py lstm --ranks 8 --device cuda     on eight GPUs side by side, each by itself
    python3 workloads.py ddp --ranks 8 --device cuda      on eight GPUs together, over NCCL
    python3 workloads.py ddp --ranks 2 --device cpu       two ranks on the CPU, over gloo
    python3 workloads.py transformer --size large         as large as fills a GPU

Standard output gets one line, `GPUFLEET {json}`; what is for people goes to standard error. It
measures and reports, it does not judge: exit 0 means that the line was printed. Which bound each
figure is held against, and why, is said in verify/workload_bounds.py. All data are seeded and made
in memory, so that the best possible result is known beforehand.

Each rank writes down its stage and its figures as it gets them, in a private directory; the
launcher, which loads no torch, makes one document of it at the end or at the limit. What this torch
or host lacks is said as `absent` with the reason. Standard library and torch only; Python 3.10 must
do; all ranks run on this one host.
"""

import argparse
import contextlib
import copy
import ctypes
import functools
import hashlib
import importlib
import importlib.util
import json
import math
import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

SCHEMA = 1
LIMIT = 100.0
"""Seconds after which a run is stopped whatever it does; on a quiet CPU most take five."""
GRACE = 2.0
"""Seconds that the other ranks get to say what they saw, once one has failed."""
KILL_S = 0.7
EACH, TOGETHER, ONE = "each", "together", "one"
WORKLOADS = {
    "linear": EACH, "mlp": EACH, "cnn-mnist": EACH, "cnn-mnist-2": EACH, "cnn-cifar": EACH,
    "lstm": EACH, "transformer": EACH, "finetune": EACH,
    "batch-norm": EACH, "host-copy": EACH, "amp": EACH, "compile": EACH, "quantise": EACH,
    "prune": EACH, "checkpoint": EACH,
    "data-parallel": ONE, "ddp": TOGETHER, "fsdp2": TOGETHER,
}  # fmt: skip
"""Name -> how it uses several GPUs: each by itself, all together, one process for all of them."""
PERTURBATIONS = (
    "die", "hang", "raise", "labels", "state", "flatten", "scores", "axis", "scratch", "thaw",
    "base", "patience", "misalign", "gradient", "parameter", "overflow", "output", "mask",
    "optimizer", "random", "mode", "value",
)  # fmt: skip
"""Faults that tests put into one workload. The first three: rank 0 dies, hangs, raises. Labels that
mean nothing; a state that is saved wrongly; the articles' wrong flatten; F1 computed wrongly; the
batch taken for time; nothing pretrained; a frozen parameter that moves; adapters that change what
they adapt; stopping that comes late; targets that do not move with their text; a wrong gradient; a
wrong parameter; an overflow that is not skipped; a wrong output; pruned weights that grow again; a
checkpoint without the optimizer, or without the random state; evaluation in training mode; a copy
with a wrong value."""
PERTURB = "GPUFLEET_WORKLOAD_PERTURB"
"""Environment variable with the same meaning as --perturb; the report says that it was set."""
FOLDER = "GPUFLEET_WORKLOAD_FOLDER"
PR_SET_PDEATHSIG = 1
SEED = 20_261
MOST_TEXT = 1000

Record = dict[str, Any]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """What was asked for on the command line. Exits 2 on what makes no sense."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("name", choices=WORKLOADS, metavar="NAME", help=", ".join(WORKLOADS))
    parser.add_argument("--ranks", type=int, default=1, help="processes, one per GPU")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for the whole run")
    parser.add_argument(
        "--size", choices=("auto", "tiny", "small", "base", "large"), default="auto",
        help="of the transformer: from seconds on a CPU to filling a GPU",
    )  # fmt: skip
    parser.add_argument(
        "--perturb",
        default=os.environ.get(PERTURB, ""),
        metavar="NAME:KIND,...",
        help=f"for tests: {', '.join(PERTURBATIONS)}",
    )
    asked = parser.parse_args(argv)
    if not 1 <= asked.ranks <= 64:
        parser.error(f"--ranks {asked.ranks}: from 1 to 64")
    for name, kind in perturbations(asked.perturb):
        if name not in WORKLOADS or kind not in PERTURBATIONS:
            parser.error(f"--perturb {asked.perturb}: NAME:KIND,...")
    return asked


def perturbations(text: str) -> list[tuple[str, str]]:
    """Workload and kind of each fault that tests want."""
    parts = [one.partition(":") for one in text.split(",") if one]
    return [(name, kind) for name, _, kind in parts]


# ---------------------------------------------------------------- the launcher: no torch in here


def launch(asked: argparse.Namespace) -> int:
    """Start the ranks, watch them, print the document. The ranks stay in this process group."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="gpufleet-workload-"))
    signal.signal(signal.SIGTERM, _stop)
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(asked.ranks):
            ranks.append(start(rank, asked, folder))
        watch(ranks, asked, folder, began + asked.limit)
    except StopAskedError:
        say("told to stop")
    finally:
        # Taken before anything is stopped: who is still running now is at it, or hangs.
        codes = [process.poll() for process in ranks]
        end(ranks)
    codes += [None] * (asked.ranks - len(codes))
    records = [read_record(folder, rank, code) for rank, code in enumerate(codes)]
    name_states(records, together=WORKLOADS[asked.name] == TOGETHER)
    answer = {
        "schema": SCHEMA,
        "workload": asked.name,
        "device": asked.device,
        "limit_s": asked.limit,
        "seconds": round(time.monotonic() - began, 3),
        "perturbed": asked.perturb,
        "ranks": records,
    }
    shutil.rmtree(folder, ignore_errors=True)
    print("GPUFLEET " + json.dumps(answer, separators=(",", ":")), flush=True)
    return 0


class StopAskedError(Exception):
    """SIGTERM came: make the document of what there is."""


def _stop(number: int, frame: object) -> None:
    raise StopAskedError


def start(rank: int, asked: argparse.Namespace, folder: Path) -> subprocess.Popen[bytes]:
    """Start one rank: this file again, with its number in its environment."""
    own = {"RANK": rank, "WORLD_SIZE": asked.ranks, FOLDER: folder, "OMP_NUM_THREADS": 1}
    own |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    own |= {"TORCHINDUCTOR_CACHE_DIR": folder / f"inductor-{rank}"}
    own |= {"TRITON_CACHE_DIR": folder / f"triton-{rank}"}
    # One host: the loopback interface does, and the host's own name is not looked up for it.
    own |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    options = ("device", "limit", "perturb", "size", "ranks")
    passed = [f"--{name}={getattr(asked, name)}" for name in options]
    with (folder / f"rank-{rank}.err").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-B", os.path.abspath(__file__), asked.name, *passed],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            env=os.environ | {name: str(value) for name, value in own.items()},
        )


def watch(
    ranks: list[subprocess.Popen[bytes]], asked: argparse.Namespace, folder: Path, until: float
) -> None:
    """Wait until all are done, or the time is over; ranks that work together end together."""
    failed, shown = math.inf, ""
    together = WORKLOADS[asked.name] == TOGETHER
    while True:
        codes = [process.poll() for process in ranks]
        now = time.monotonic()
        stages = [read_stage(folder, rank) for rank in range(len(ranks))]
        if (stage := stages[0]) != shown:
            say(f"stage: {asked.name}, {stage}")
            shown = stage
        if None not in codes or now > until or now > failed + GRACE:
            return
        if together and failed == math.inf and any(codes):
            failed = now
        time.sleep(0.05)


def end(ranks: list[subprocess.Popen[bytes]]) -> None:
    """Kill what still runs, and leave behind what does not even take that."""
    for process in ranks:
        if process.poll() is None:
            process.kill()
    until = time.monotonic() + KILL_S
    while any(process.poll() is None for process in ranks) and time.monotonic() < until:
        time.sleep(0.01)


def say(text: str) -> None:
    """Write a line for people."""
    print(text, file=sys.stderr, flush=True)


def read_stage(folder: Path, rank: int) -> str:
    """What a rank says that it does."""
    try:
        return (folder / f"rank-{rank}.at").read_text().strip() or "start"
    except OSError:
        return "start"


def read_record(folder: Path, rank: int, code: int | None) -> Record:
    """What a rank has left, with how it ended; `code` None: it was still at it."""
    empty: Record = {"rank": rank, "device": None, "run": {}, "figures": {}, "ended": False}
    empty |= {"absent": "", "error": "", "failed_at": None}
    try:
        left: Record = json.loads((folder / f"rank-{rank}.json").read_text())
    except (OSError, ValueError):
        left = {}
    tail = ""
    with contextlib.suppress(OSError):
        tail = (folder / f"rank-{rank}.err").read_text(errors="replace")[-MOST_TEXT:]
    return empty | left | {"stage": read_stage(folder, rank), "code": code, "stderr": tail}


def name_states(records: list[Record], *, together: bool) -> None:
    """Set each rank's state: ended, absent, raised, died, hung; or lost, when another's failure
    took it: of ranks that work together the first to fail is the cause."""
    for record in records:
        if record["ended"]:
            record["state"] = "absent" if record["absent"] else "ended"
        elif record["error"]:
            record["state"] = "raised"
        else:
            record["state"] = "hung" if record["code"] is None else "died"
    if not together:
        return
    died = [one for one in records if one["state"] == "died"]
    raised = sorted((one for one in records if one["state"] == "raised"), key=_failed_at)
    causes = died or raised[:1]
    for record in records:
        if causes and record["state"] in ("raised", "hung") and record not in causes:
            record["state"] = "lost"


def _failed_at(record: Record) -> float:
    return float(record["failed_at"])


if __name__ == "__main__" and FOLDER not in os.environ:
    sys.exit(launch(arguments()))


# ---------------------------------------------------------------- one rank


class AbsentError(Exception):
    """This torch or this host lacks what the workload is about; the text says what."""


class Trail:
    """Where this rank is and what it has measured, written down for when it cannot say it."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank
        self.record: Record = {"rank": rank, "figures": {}}
        self.at("loads torch")

    def at(self, stage: str) -> None:
        """Begin a stage; what was measured so far is kept."""
        (self.folder / f"rank-{self.rank}.at").write_text(stage)
        whole = self.folder / f"rank-{self.rank}.json"
        part = whole.with_suffix(".part")
        part.write_text(json.dumps(self.record))
        part.replace(whole)


def prepare() -> tuple[argparse.Namespace, Trail]:
    """What a rank does before it loads torch."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    asked = arguments()
    trail = Trail(Path(os.environ[FOLDER]), int(os.environ["RANK"]))
    sys.excepthook = functools.partial(fail, trail)
    return asked, trail


def fail(
    trail: Trail, kind: type[BaseException], error: BaseException, stack: TracebackType | None
) -> None:
    """What an exception that ends this rank leads to, also one in loading torch."""
    frames = traceback.extract_tb(stack)
    mine = [frame for frame in frames if frame.filename.endswith("workloads.py")]
    at = f" (line {mine[-1].lineno} of workloads.py)" if mine else ""
    trail.record["error"] = f"{type(error).__name__}: {str(error)[:MOST_TEXT]}{at}"
    trail.record["failed_at"] = time.monotonic()
    trail.at(read_stage(trail.folder, trail.rank))
    traceback.print_exception(kind, error, stack)
    # Not through the interpreter's end, where a broken process group may be waited for.
    os._exit(1)


if __name__ == "__main__":
    ASKED, TRAIL = prepare()

import torch  # noqa: E402 - the launcher must not need it, and a rank that hangs in it is named
import torch.distributed as dist  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.distributed import FileStore  # type: ignore[attr-defined] # noqa: E402
from torch.nn import functional  # noqa: E402

Loss = Callable[[Tensor, Tensor], Tensor]
Batches = Iterable[tuple[Tensor, Tensor]]


class Run:
    """One workload on one device: where it keeps its figures, and what it shall do wrong."""

    def __init__(self, asked: argparse.Namespace, trail: Trail) -> None:
        self.name, self.size = asked.name, asked.size
        self.rank, self.world = trail.rank, asked.ranks
        self.kinds = {kind for name, kind in perturbations(asked.perturb) if name == asked.name}
        self.trail, self.figures = trail, trail.record["figures"]
        self.device = choose_device(asked.device, self.rank)
        self.steps, self.seconds = 0, 0.0

    def at(self, stage: str) -> None:
        """Begin a stage."""
        self.trail.at(stage)
        if self.rank == 0 and stage == "trains":
            if self.wrong("die"):
                os.kill(os.getpid(), signal.SIGKILL)
            if self.wrong("raise"):
                raise ValueError("perturbed: this rank was told to raise")
            while self.wrong("hang"):
                time.sleep(1)

    def wrong(self, kind: str) -> bool:
        """Whether a test wants this to be done wrong."""
        return kind in self.kinds

    def keep(self, **figures: object) -> None:
        """Keep figures; JSON has no NaN and no infinity, they become null."""
        for name, value in figures.items():
            bad = isinstance(value, float) and not math.isfinite(value)
            self.figures[name] = None if bad else value

    @contextlib.contextmanager
    def timed(self, steps: int) -> Iterator[None]:
        """Steps that the speed is taken from."""
        settle(self.device)
        began = time.monotonic()
        yield
        settle(self.device)
        self.steps, self.seconds = self.steps + steps, self.seconds + time.monotonic() - began
        self.keep(steps_per_s=round(self.steps / self.seconds, 3))

    def file(self, name: str) -> Path:
        """A file of this rank alone, gone after the run."""
        return self.trail.folder / f"{name}-{self.rank}.pt"

    def to(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """On the device."""
        return tuple(one.to(self.device) for one in tensors)


def main() -> int:
    """Run the one workload on this rank."""
    run = Run(ASKED, TRAIL)
    torch.set_num_threads(1)
    # float32 is float32: neither TF32 nor sums of lower precision, unless a workload says so.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if run.device.type == "cuda":
        torch.cuda.set_device(run.device)  # before anything makes a context on GPU 0
    TRAIL.record["device"] = describe(run.device)
    TRAIL.record["run"] = {
        "user": user_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "device": run.device.type,
        "epsilon": torch.finfo(torch.float32).eps,
    }
    torch.manual_seed(SEED)
    run.at("trains")
    try:
        RUNS[run.name](run)
    except AbsentError as error:
        TRAIL.record["absent"] = str(error)
    TRAIL.record["ended"] = True
    run.at("ended")
    return 0


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
    known = f"GPU-{uuid}" if uuid else ""
    return {"kind": "cuda", "index": device.index, "uuid": known, "name": has.name}


def user_name() -> str:
    """Whom this runs as; by number where the host has no name for it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def settle(device: torch.device) -> None:
    """Wait for what was queued on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seeded(part: int) -> torch.Generator:
    """A source of random numbers of its own for each part of the data."""
    return torch.Generator().manual_seed(SEED + part)


def digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 over the raw bytes, so that -0.0 and 0.0, or two NaNs, are told apart."""
    sha = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        sha.update(ctypes.string_at(plain.data_ptr(), plain.numel() * plain.element_size()))
    return sha.hexdigest()


def state_digest(model: nn.Module) -> str:
    """Of all parameters and buffers."""
    return digest(model.state_dict().values())


def relative(found: Iterable[Tensor], wanted: Iterable[Tensor]) -> float:
    """Norm of the difference by the norm of what is wanted, in float64."""
    apart = whole = 0.0
    for one, other in zip(found, wanted, strict=True):
        apart += float((one.detach().double() - other.detach().double()).square().sum())
        whole += float(other.detach().double().square().sum())
    return math.sqrt(apart / whole) if whole else math.nan


def learn(
    run: Run, model: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer, batches: Batches
) -> list[float]:
    """Train; the loss of each step."""
    losses = []
    data = list(batches)
    with run.timed(len(data)):
        for x, target in data:
            optimizer.zero_grad()
            one = loss(model(x), target)
            torch.autograd.backward(one)
            optimizer.step()
            losses.append(one.detach())
    return [float(one) for one in losses]


def grads(model: nn.Module) -> list[Tensor]:
    """The gradient of every parameter, all of which must have one."""
    found = [parameter.grad for parameter in model.parameters()]
    missing = sum(one is None for one in found)
    if missing:
        raise RuntimeError(f"{missing} of {len(found)} parameters have no gradient")
    return [one.clone() for one in found if one is not None]


# ---------------------------------------------------------------- linear


POINTS, SPREAD = 1000, 0.5
"""y = a x + b + noise, the noise uniform from -SPREAD to SPREAD."""


def linear(run: Run) -> None:
    """A straight line, then eight inputs to four outputs; the state saved and read back."""
    cases = (("line", torch.tensor([[0.03]]), torch.tensor([0.3])), ("plane", *planes()))
    digests = []
    for part, (name, weight, bias) in enumerate(cases):
        out, into = weight.shape
        source = seeded(part)
        x = torch.rand(POINTS, into, generator=source) * 2 - 1
        noise = (torch.rand(POINTS, out, generator=source) * 2 - 1) * SPREAD
        y = x @ weight.T + bias + noise
        if run.wrong("labels"):
            y = y[torch.randperm(POINTS, generator=source)]
        # On the device before the optimizer takes its parameters: moved later, others are trained.
        model = nn.Linear(into, out).to(run.device)
        run.keep(**{f"{name}_on": next(model.parameters()).device.type})
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        x, y = run.to(x, y)
        steps = 0
        batches = []
        for _ in range(100):
            order = torch.randperm(POINTS, generator=source)
            batches += [(x[part], y[part]) for part in torch.split(order.to(run.device), 16)]
        steps = len(batches)
        learn(run, model, functional.mse_loss, optimizer, batches)
        torch.save(model.state_dict(), run.file(name))
        again = nn.Linear(into, out).to(run.device)
        again.load_state_dict(torch.load(run.file(name), weights_only=True))
        if run.wrong("state"):
            again.reset_parameters()
        digests += [state_digest(model), state_digest(again)]
        apart = (again.weight.detach().cpu() - weight).abs().max()
        away = (again.bias.detach().cpu() - bias).abs().max()
        run.keep(**{f"{name}_weight": float(apart), f"{name}_bias": float(away)})
        run.keep(**{f"{name}_steps": steps, f"{name}_outputs": out})
    run.keep(saved=digests[::2], loaded=digests[1::2])


def planes() -> tuple[Tensor, Tensor]:
    """Weights of eight inputs and four outputs, and the biases."""
    source = seeded(100)
    return torch.randn(4, 8, generator=source), torch.randn(4, generator=source)


# ---------------------------------------------------------------- mlp

BEND_NOISE = 0.5
"""Deviation of the noise of the regression."""


def bent(source: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """y = 2 relu(z) + noise, z the projection of ten normal inputs on one direction: so z is a
    standard normal number, whatever the direction."""
    x = torch.randn(count, 10, generator=source)
    along = torch.ones(10) / math.sqrt(10)
    noise = torch.randn(count, generator=source) * BEND_NOISE
    return x, (2 * torch.relu(x @ along) + noise)[:, None]


def mlp(run: Run) -> None:
    """A regression that no straight line can do."""
    model = nn.Sequential(
        nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 5), nn.ReLU(), nn.Linear(5, 1)
    ).to(run.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    source = seeded(1)
    x, y = bent(source, 8192)
    if run.wrong("labels"):
        y = y[torch.randperm(len(y), generator=source)]
    x, y = run.to(x, y)
    batches = []
    for _ in range(10):
        order = torch.randperm(len(x), generator=source).to(run.device)
        batches += [(x[part], y[part]) for part in torch.split(order, 16)]
    learn(run, model, functional.mse_loss, optimizer, batches)
    run.at("evaluates")
    model.eval()
    x, y = run.to(*bent(seeded(2), 8192))
    with torch.no_grad():
        errors = (model(x) - y).double().square()
    run.keep(error=float(errors.mean()), error_deviation=float(errors.std()), samples=len(x))
    run.keep(noise=BEND_NOISE)


# ---------------------------------------------------------------- images, and how they are told

CLASSES, LABEL_NOISE = 10, 0.1
"""With probability LABEL_NOISE a label is any of the classes, all equally likely."""


def images(
    source: torch.Generator, count: int, shape: tuple[int, ...], signal: float
) -> tuple[Tensor, Tensor, float]:
    """Images, labels, and how many deviations of the noise the two nearest classes are apart.

    Each class is one fixed random picture of +signal and -signal, with noise of deviation 1 on it.
    """
    fixed = torch.Generator().manual_seed(SEED)
    pictures = (torch.randint(2, (CLASSES, *shape), generator=fixed) * 2.0 - 1.0) * signal
    classes = torch.arange(count) % CLASSES
    x = pictures[classes] + torch.randn(count, *shape, generator=source)
    apart = torch.cdist(pictures.flatten(1), pictures.flatten(1)) + torch.eye(CLASSES) * 1e9
    return x, noisy(source, classes, CLASSES), float(apart.min())


def noisy(source: torch.Generator, labels: Tensor, classes: int) -> Tensor:
    """Labels of which some are drawn at random."""
    any_of = torch.randint(classes, labels.shape, generator=source)
    drawn = torch.rand(labels.shape, generator=source) < LABEL_NOISE
    return torch.where(drawn, any_of, labels)


def scores(confusion: list[list[int]]) -> tuple[float, float, float]:
    """Accuracy, and recall and F1 as plain means over the classes, of a confusion matrix with a row
    per label. A class without a label has no recall and is left out; F1 of nothing found is 0."""
    size = len(confusion)
    total = sum(map(sum, confusion))
    right = sum(confusion[one][one] for one in range(size))
    recalls, f1s = [], []
    for one in range(size):
        labelled, said = sum(confusion[one]), sum(row[one] for row in confusion)
        if labelled:
            recalls.append(confusion[one][one] / labelled)
            f1s.append(2 * confusion[one][one] / (labelled + said))
    return right / total, sum(recalls) / len(recalls), sum(f1s) / len(f1s)


def evaluate(run: Run, model: nn.Module, x: Tensor, labels: Tensor, classes: int) -> None:
    """Keep the confusion matrix of a classifier, and its scores."""
    run.at("evaluates")
    model.eval()
    with torch.no_grad():
        said = torch.cat([model(part).argmax(1) for part in torch.split(x, 250)])
    counts = torch.bincount(labels * classes + said, minlength=classes * classes)
    confusion = [[int(count) for count in row] for row in counts.view(classes, classes)]
    accuracy, recall, f1 = scores(confusion)
    if run.wrong("scores"):
        f1 = 2 * accuracy * recall / (accuracy + recall)
    run.keep(confusion=[count for row in confusion for count in row], classes=classes)
    run.keep(accuracy=accuracy, recall=recall, f1=f1, label_noise=LABEL_NOISE)


def classify(
    run: Run,
    model: nn.Module,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    shape: tuple[int, ...],
    *,
    steps: int,
    signal: float,
) -> None:
    """Train on fresh images, 32 at a time, and tell a thousand others."""
    source = seeded(3)
    batches = []
    for _ in range(steps):
        x, labels, _ = images(source, 40, shape, signal)
        order = torch.randperm(40, generator=source)[:32]
        x, labels = x[order], labels[order]
        if run.wrong("labels"):
            labels = labels[torch.randperm(len(labels), generator=source)]
        x, labels = run.to(x, labels)
        batches.append((x, labels))
    learn(run, model, loss, optimizer, batches)
    x, labels, nearest = images(seeded(4), 1000, shape, signal)
    x, labels = run.to(x, labels)
    evaluate(run, model, x, labels, CLASSES)
    run.keep(nearest=nearest)


def cnn_mnist(run: Run) -> None:
    """28x28 to 32x26x26 by the convolution, 32x13x13 by pooling: that is what is flattened."""
    flat = 32 * (26 * 26 if run.wrong("flatten") else 13 * 13)
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(flat, 128), nn.ReLU(), nn.Linear(128, CLASSES), nn.LogSoftmax(dim=1),
    ).to(run.device)  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    classify(run, model, functional.nll_loss, optimizer, (1, 28, 28), steps=120, signal=0.5)
    x, _, _ = images(seeded(5), 50, (1, 28, 28), 0.5)
    with torch.no_grad():
        sums = model(x.to(run.device)).double().exp().sum(1)
    run.keep(probability_off=float((sums - 1).abs().max()))


def cnn_mnist_2(run: Run) -> None:
    """Two convolutions; the last layer's logits go into the cross-entropy as they are."""
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, CLASSES),
    ).to(run.device)  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    classify(run, model, functional.cross_entropy, optimizer, (1, 28, 28), steps=90, signal=1.0)
    x, labels, _ = images(seeded(5), 50, (1, 28, 28), 1.0)
    x, labels = run.to(x, labels)
    with torch.no_grad():
        logits = model(x)
        loss = float(functional.cross_entropy(logits, labels))
        wide = functional.cross_entropy(logits.double().cpu(), labels.cpu())
    run.keep(loss_off=abs(loss - float(wide)), largest_logit=float(logits.abs().max()))
    run.keep(loss_samples=len(x))


def cnn_cifar(run: Run) -> None:
    """Three colours, one convolution, one layer."""
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32 * 16 * 16, CLASSES),
    ).to(run.device)  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    classify(run, model, functional.cross_entropy, optimizer, (3, 32, 32), steps=120, signal=0.5)


# ---------------------------------------------------------------- lstm

VOCABULARY, TOKENS = 10_000, 8
KEYWORDS, SAID = 16, 300
"""Tokens that decide, and how many there are in all that come up: each often, so that the labels
drawn at random cannot be learnt by heart from rare ones."""


class Lstm(nn.Module):
    """Reads a sequence of tokens, (batch, time), and says its class after the last one."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 128)
        self.lstm = nn.LSTM(128, 256, batch_first=batch_first)
        self.head = nn.Linear(256, 2)

    def forward(self, text: Tensor) -> Tensor:
        steps, _ = self.lstm(self.embedding(text))
        logits: Tensor = self.head(steps[:, -1])
        return logits


def sequences(source: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """The first token, a keyword, decides the class by being odd or even; the rest are others."""
    text = torch.randint(KEYWORDS, SAID, (count, TOKENS), generator=source)
    text[:, 0] = torch.randint(KEYWORDS, (count,), generator=source)
    return text, noisy(source, text[:, 0] % 2, 2)


def lstm(run: Run) -> None:
    """What was read first is remembered to the end."""
    model = Lstm(batch_first=not run.wrong("axis")).to(run.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    source = seeded(6)
    text, labels = sequences(source, 1280)
    if run.wrong("labels"):
        labels = labels[torch.randperm(len(labels), generator=source)]
    text, labels = run.to(text, labels)
    batches = []
    for _ in range(10):
        order = torch.randperm(len(text), generator=source).to(run.device)
        batches += [(text[part], labels[part]) for part in torch.split(order, 64)]
    learn(run, model, functional.cross_entropy, optimizer, batches)
    text, labels = run.to(*sequences(seeded(7), 2000))
    evaluate(run, model, text, labels, 2)
    run.at("reads sequences one by one")
    with torch.no_grad():
        whole = model(text[:20])
        single = torch.cat([model(text[one : one + 1]) for one in range(20)])
    run.keep(alone_apart=relative(single, whole), sums=[128 + 256] * TOKENS + [256])


# ---------------------------------------------------------------- transformer

SYMBOLS, NOISE = 32, 0.2
"""The language: a symbol is followed by one that depends on it, but with probability NOISE by any
of SYMBOLS, all equally likely."""


@dataclass(frozen=True)
class Size:
    """How large a transformer and its batches are."""

    width: int
    layers: int
    heads: int
    tokens: int
    batch: int
    steps: int
    rate: float
    """Learning rate of AdamW."""


SIZES = {
    "tiny": Size(64, 2, 4, tokens=32, batch=16, steps=200, rate=3e-3),
    "small": Size(256, 4, 8, tokens=128, batch=16, steps=200, rate=1e-3),
    "base": Size(768, 12, 12, tokens=512, batch=16, steps=200, rate=3e-4),
    "large": Size(2048, 24, 16, tokens=1024, batch=8, steps=200, rate=1e-4),
}
"""100 thousand, 3 million, 85 million and 1.2 billion parameters."""


class Block(nn.Module):
    """One layer: causal attention, then a network of two layers."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.heads = size.heads
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
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm, self.head = nn.LayerNorm(size.width), nn.Linear(size.width, SYMBOLS)

    def forward(self, text: Tensor) -> Tensor:
        x = self.symbol(text) + self.place.weight[: text.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def sums_of(size: Size) -> list[int]:
    """Lengths of the sums that follow one another from input to loss, and then of that over all
    positions that makes the gradient of a weight: they bound its rounding."""
    width, tokens = size.width, size.tokens
    block = [width, width, width // size.heads, tokens, tokens, width, width, width, 4 * width]
    forward = [*block * size.layers, width, width, SYMBOLS]
    return [*forward, *forward, size.batch * tokens]


def follower(symbols: Tensor, changed: int) -> Tensor:
    """What most often follows each symbol; the first `changed` symbols have another follower."""
    rule = (5 * symbols + 3) % SYMBOLS
    return torch.where(symbols < changed, (rule + SYMBOLS // 2) % SYMBOLS, rule)


def language(
    source: torch.Generator, count: int, tokens: int, changed: int = 0
) -> tuple[Tensor, Tensor]:
    """Texts, and what follows at each place: (count, tokens) each."""
    text = torch.randint(SYMBOLS, (count, tokens + 1), generator=source)  # all noise, at first
    follows = torch.rand(text.shape, generator=source) >= NOISE
    for place in range(1, tokens + 1):
        rule = follower(text[:, place - 1], changed)
        text[:, place] = torch.where(follows[:, place], rule, text[:, place])
    return text[:, :-1], text[:, 1:]


def text_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in nats."""
    return functional.cross_entropy(logits.reshape(-1, SYMBOLS).float(), targets.reshape(-1))


def texts(run: Run, part: int, size: Size, steps: int, changed: int = 0) -> Batches:
    """Fresh texts for each step."""
    source = seeded(part)
    for _ in range(steps):
        text, targets = language(source, size.batch, size.tokens, changed)
        if run.wrong("labels"):
            shuffled = torch.randperm(targets.numel(), generator=source)
            targets = targets.flatten()[shuffled].view(targets.shape)
        text, targets = run.to(text, targets)
        yield text, targets


def above_best(run: Run, model: nn.Module, size: Size, changed: int = 0) -> tuple[float, float]:
    """By how much the loss on new texts is above that of who knows the language, on the same
    texts, in nats; and the deviation of that from place to place."""
    model.eval()
    count = max(1, 8192 // size.tokens)
    text, targets = run.to(*language(seeded(9), count, size.tokens, changed))
    right = targets == follower(text, changed)
    best = torch.where(
        right, -math.log(1 - NOISE + NOISE / SYMBOLS), -math.log(NOISE / SYMBOLS)
    ).double()
    parts = []
    with torch.no_grad():
        for part, wanted in zip(
            *(torch.split(one, size.batch) for one in (text, targets)), strict=True
        ):
            logits = model(part).reshape(-1, SYMBOLS).double()
            parts.append(functional.cross_entropy(logits, wanted.reshape(-1), reduction="none"))
    above = torch.cat(parts) - best.flatten()
    return float(above.mean()), float(above.std())


def bf16(device: torch.device) -> Any:
    """Autocast to bfloat16 where the device has it."""
    able = device.type == "cpu" or torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=able)


def transformer(run: Run) -> None:
    """The loss comes down to the entropy of the language, in bfloat16 where it is supported."""
    usual = "small" if run.device.type == "cuda" else "tiny"
    size = SIZES[usual if run.size == "auto" else run.size]
    model = Transformer(size).to(run.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=size.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, size.rate, size.steps)
    last: list[Tensor] = []
    data = list(texts(run, 8, size, size.steps))
    with run.timed(size.steps):
        for text, targets in data:
            optimizer.zero_grad()
            with bf16(run.device):
                logits = model(text)
            loss = text_loss(logits, targets)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            last = [*last[-9:], loss.detach()]
    run.at("evaluates")
    above, deviation = above_best(run, model, size)
    run.keep(above=above, above_deviation=deviation, samples=8192 // size.tokens * size.tokens)
    run.keep(parameters=sum(one.numel() for one in model.parameters()), dtype=str(logits.dtype))
    run.keep(symbols=SYMBOLS, noise=NOISE, loss=float(sum(last) / len(last)))


# ---------------------------------------------------------------- finetune

CHANGED = 8
"""Symbols that have another follower in the second task; the others are as they were."""
TUNED = 40
"""Steps of each way of fine-tuning, and of training from scratch."""


class Adapter(nn.Module):
    """A low-rank addition to a layer that is not changed itself: x W' + x A' B', B zero at first.

    E. Hu and others, "LoRA: Low-Rank Adaptation of Large Language Models", 2021.
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        adapted: Tensor = self.base(x) + self.up(self.down(x))
        return adapted


def adapted(model: Transformer, rank: int) -> Transformer:
    """The model with an adapter beside each layer, everything else frozen."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    homes: list[nn.Module] = [model, *model.blocks]
    for home in homes:
        for name, child in list(home.named_children()):
            if isinstance(child, nn.Linear):
                setattr(home, name, Adapter(child, rank).to(child.weight.device))
    return model


def finetune(run: Run) -> None:
    """A pretrained model, saved and read back, learns a second task in three ways."""
    size = SIZES["tiny"]
    first = Transformer(size).to(run.device)
    optimizer = torch.optim.AdamW(first.parameters(), lr=size.rate)
    learn(run, first, text_loss, optimizer, texts(run, 8, size, size.steps))
    torch.save(first.state_dict(), run.file("pretrained"))

    def pretrained() -> Transformer:
        model = Transformer(size)
        if not run.wrong("scratch"):
            model.load_state_dict(torch.load(run.file("pretrained"), weights_only=True))
        return model.to(run.device)

    if run.wrong("state"):
        next(first.parameters()).data[0] += 1
    run.keep(saved=state_digest(first), loaded=state_digest(pretrained()))
    losses = {
        "scratch": tune(run, Transformer(size).to(run.device), size.rate),
        "whole": tune(run, pretrained(), size.rate),
        "frozen": frozen_trunk(run, pretrained()),
        "adapters": adapters(run, pretrained()),
    }
    for name, each in losses.items():
        run.keep(**{f"{name}_loss": sum(each) / len(each)})
    run.keep(tokens=TUNED * size.batch * size.tokens, symbols=SYMBOLS, changed=CHANGED)
    early_stopping(run, pretrained())


def tune(run: Run, model: nn.Module, rate: float) -> list[float]:
    """Train what is not frozen on the second task: the loss of each step, on texts never seen."""
    size = SIZES["tiny"]
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate)
    return learn(run, model, text_loss, optimizer, texts(run, 10, size, TUNED, CHANGED))


def frozen_trunk(run: Run, model: Transformer) -> list[float]:
    """Train the last layer alone."""
    run.at("trains with a frozen trunk")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.head.requires_grad_(True)
    trunk = [one for name, one in model.named_parameters() if not name.startswith("head.")]
    before, head = digest(trunk), digest(model.head.parameters())
    losses = tune(run, model, 1e-2)
    if run.wrong("thaw"):
        trunk[0].data[0, 0] += 1e-6
    run.keep(trunk_before=before, trunk_after=digest(trunk))
    run.keep(head_moved=head != digest(model.head.parameters()))
    return losses


def adapters(run: Run, model: Transformer) -> list[float]:
    """Train low-rank adapters alone; at first they add nothing."""
    run.at("trains low-rank adapters")
    base = list(model.parameters())
    before = digest(base)
    text, _ = run.to(*language(seeded(11), 4, SIZES["tiny"].tokens))
    with torch.no_grad():
        plain = model(text)
        adapted(model, rank=4)
        run.keep(adapters_add=int((model(text) != plain).sum()))
    trained = [one for one in model.parameters() if one.requires_grad]
    run.keep(adapter_share=sum(map(Tensor.numel, trained)) / sum(map(Tensor.numel, base)))
    losses = tune(run, model, 1e-2)
    if run.wrong("base"):
        base[-1].data[0] += 1e-6
    run.keep(base_before=before, base_after=digest(base))
    return losses


POOL, PATIENCE, EPOCHS = 16, 3, 60


def early_stopping(run: Run, model: Transformer) -> None:
    """A small pool of texts, of which each epoch sees other windows (augmentation), until the loss
    on texts held back has not come down for PATIENCE epochs; then the best state is put back."""
    run.at("trains until it is no use")
    size = SIZES["tiny"]
    source = seeded(12)
    pool, after = language(source, POOL, 2 * size.tokens, CHANGED)
    held_back = run.to(*language(seeded(13), 64, size.tokens, CHANGED))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    pairs = {
        (int(one), int(two))
        for text, next_ in zip(pool, after, strict=True)
        for one, two in zip(text, next_, strict=True)
    }
    losses: list[float] = []
    kept: dict[str, Tensor] = {}
    windows, strange = set(), 0
    allowed = PATIENCE + (2 if run.wrong("patience") else 0)
    while len(losses) < EPOCHS and len(losses) - _best(losses) <= allowed:
        starts = torch.randint(size.tokens + 1, (POOL,), generator=source)
        places = starts[:, None] + torch.arange(size.tokens)
        moved = places.roll(1, 0) if run.wrong("misalign") else places
        text, targets = pool.gather(1, places), after.gather(1, moved)
        windows |= {(row, int(start)) for row, start in enumerate(starts)}
        strange += sum(
            (int(one), int(two)) not in pairs
            for one, two in zip(text.flatten(), targets.flatten(), strict=True)
        )
        model.train()
        learn(run, model, text_loss, optimizer, [run.to(text, targets)])  # type: ignore[list-item]
        losses.append(validation(model, held_back))
        if _best(losses) == len(losses):
            kept = {name: one.clone() for name, one in model.state_dict().items()}
    model.load_state_dict(kept)
    run.keep(epochs=losses, patience=PATIENCE, most_epochs=EPOCHS, pool=POOL)
    run.keep(put_back=validation(model, held_back), windows=len(windows), strange_pairs=strange)


def _best(losses: list[float]) -> int:
    """How many epochs it was up to the lowest loss; 0 before the first."""
    return losses.index(min(losses)) + 1 if losses else 0


def validation(model: nn.Module, held_back: tuple[Tensor, ...]) -> float:
    """Loss on texts that are not trained on."""
    model.eval()
    with torch.no_grad():
        return float(text_loss(model(held_back[0]), held_back[1]))


# ---------------------------------------------------------------- the network of the techniques

FEATURES = 64


def network() -> nn.Sequential:
    """Two layers that tell ten classes of 64 features."""
    return nn.Sequential(nn.Linear(FEATURES, 128), nn.ReLU(), nn.Linear(128, CLASSES))


def features(run: Run, part: int, count: int) -> tuple[Tensor, Tensor]:
    """Features and labels, as images with 64 points."""
    x, labels, nearest = images(seeded(part), count, (FEATURES,), 1.0)
    run.keep(nearest=nearest)
    x, labels = run.to(x, labels)
    return x, labels


def batches_of(run: Run, part: int, steps: int, count: int = 60) -> list[tuple[Tensor, Tensor]]:
    """Fresh features for each step."""
    return [features(run, 1000 * part + step, count) for step in range(steps)]


def trained_network(run: Run, steps: int = 150) -> nn.Sequential:
    """The network, trained to tell the classes."""
    model = network().to(run.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    learn(run, model, functional.cross_entropy, optimizer, batches_of(run, 20, steps))
    return model


# ---------------------------------------------------------------- batch normalisation


def batch_norm(run: Run) -> None:
    """In training it uses the batch's own statistics and keeps a running mean of them; in
    evaluation it uses those that it kept, and what is beside a sample does not matter."""
    channels, count = 8, 64 * 14 * 14
    norm = nn.BatchNorm2d(channels).to(run.device)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)
    x = torch.randn(64, channels, 14, 14, generator=seeded(21)) * 3 + 2
    (x,) = run.to(x)
    wide = x.double()
    axes = (0, 2, 3)
    mean, variance = wide.mean(axes), wide.var(axes, unbiased=False)

    def exact(average: Tensor, spread: Tensor) -> Tensor:
        by_channel = [one.double()[:, None, None] for one in (norm.weight, norm.bias)]
        scaled = (wide - average[:, None, None]) / (spread[:, None, None] + norm.eps).sqrt()
        return scaled * by_channel[0] + by_channel[1]

    norm.train()
    with torch.no_grad(), run.timed(1):
        trained = norm(x)
    run.keep(train_apart=relative([trained], [exact(mean, variance)]))
    kept_mean, kept_variance = norm.running_mean, norm.running_var
    assert kept_mean is not None
    assert kept_variance is not None
    share = float(norm.momentum or 0)
    unbiased = variance * count / (count - 1)
    run.keep(
        kept_mean_apart=relative([kept_mean], [share * mean]),
        kept_variance_apart=relative([kept_variance], [1 - share + share * unbiased]),
        count=count,
    )
    if not run.wrong("mode"):
        norm.eval()
    before = state_digest(norm)
    with torch.no_grad():
        evaluated = norm(x)
        alone = norm(x[:1])
    run.keep(
        eval_apart=relative([evaluated], [exact(kept_mean.double(), kept_variance.double())]),
        eval_alone=relative([alone], [evaluated[:1]]),
        eval_kept=before == state_digest(norm),
        modes_apart=relative([evaluated], [trained]),
    )


# ---------------------------------------------------------------- pinned and asynchronous copies


def host_copy(run: Run) -> None:
    """Pinned memory to the GPU and back, neither waited for but by an event."""
    if run.device.type != "cuda":
        raise AbsentError("memory is pinned for a GPU, and this runs on the CPU")
    wrong = copied = 0
    stream = torch.cuda.Stream(run.device)  # type: ignore[no-untyped-call]
    turns = 20
    with run.timed(turns):
        for turn in range(turns):
            length = 2**20 + 17 * turn
            there = torch.arange(length, dtype=torch.int32).add_(turn).pin_memory()
            back = torch.empty(length, dtype=torch.int32).pin_memory()
            with torch.cuda.stream(stream):
                on_gpu = there.to(run.device, non_blocking=True)
                back.copy_(on_gpu + 1, non_blocking=True)
                done = torch.cuda.Event()  # type: ignore[no-untyped-call]
                done.record(stream)
            done.synchronize()
            if run.wrong("value"):
                back[turn] += 1
            wrong += int((back != there + 1).sum())
            copied += length
    run.keep(wrong=wrong, copied=copied, pinned=there.is_pinned() and back.is_pinned())


# ---------------------------------------------------------------- mixed precision with scaling

GROWTH = 5
"""Good steps after which the scale doubles."""


def amp(run: Run) -> None:
    """float16 by autocast, gradients scaled; one overflow is put in, and must be skipped."""
    kind = run.device.type
    if not hasattr(torch.amp, "GradScaler"):
        raise AbsentError(f"torch {torch.__version__} has no torch.amp.GradScaler (since 2.3)")
    half = functools.partial(torch.autocast, kind, dtype=torch.float16)
    weight = torch.ones(4, 4, device=run.device, requires_grad=True)
    for name, scale in (("unscaled", 1.0), ("scaled", 2.0**16)):
        weight.grad = None
        with half():
            product = torch.ones(4, 4, device=run.device) @ weight
        torch.autograd.backward((product.float() * 2.0**-30).sum() * scale)
        assert weight.grad is not None
        run.keep(**{f"{name}_gradient": float(weight.grad[0, 0]) / scale})
    run.keep(dtype=str(product.dtype))
    model = network().to(run.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler(kind, growth_interval=GROWTH)
    data = batches_of(run, 22, 60)
    scales, overflow, moved = [scaler.get_scale()], 12, []
    with run.timed(len(data)):
        for step, (x, labels) in enumerate(data):
            optimizer.zero_grad()
            with half():
                loss = functional.cross_entropy(model(x), labels)
            torch.autograd.backward(scaler.scale(loss))
            if step == overflow:
                next(model.parameters()).grad.view(-1)[0] = math.inf  # type: ignore[union-attr]
            before = state_digest(model)
            if step == overflow and run.wrong("overflow"):
                optimizer.step()
            else:
                scaler.step(optimizer)
            scaler.update(scaler.get_scale() if run.wrong("overflow") else None)
            moved.append(before != state_digest(model))
            scales.append(scaler.get_scale())
    run.keep(scales=scales, moved=[int(one) for one in moved], overflow=overflow, growth=GROWTH)
    evaluate(run, model, *features(run, 23, 1000), CLASSES)


# ---------------------------------------------------------------- torch.compile


def compiled(run: Run) -> None:
    """Output and gradients of a compiled network beside those of the plain one."""
    lacking = no_compiler(run.device)
    if lacking:
        raise AbsentError(lacking)
    plain = nn.Sequential(
        nn.Linear(FEATURES, 128), nn.LayerNorm(128), nn.GELU(), nn.Linear(128, CLASSES)
    ).to(run.device)  # fmt: skip
    fast = copy.deepcopy(plain)
    x, labels = features(run, 24, 256)
    run.at("compiles")
    made = torch.compile(fast, fullgraph=True)  # raises where a part would not be compiled
    wanted, found = plain(x), made(x)
    torch.autograd.backward(functional.cross_entropy(wanted, labels))
    torch.autograd.backward(functional.cross_entropy(found, labels))
    if run.wrong("output"):
        found = found * 1.01
    run.keep(output_apart=relative([found], [wanted]))
    run.keep(gradient_apart=relative(grads(fast), grads(plain)))
    run.keep(sums=[*[FEATURES, 128, 128, CLASSES] * 2, len(x)])
    run.keep(kernels=sum(1 for one in kernels_made() if one.suffix in (".so", ".cubin")))
    run.at("runs compiled")
    with run.timed(30):
        for _ in range(30):
            torch.autograd.backward(functional.cross_entropy(made(x), labels))


def no_compiler(device: torch.device) -> str:
    """What torch.compile needs and is not there; "" when all is."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "torch.compile needs triton on a GPU, and it is not installed"
    names = ["cc", "gcc", "clang"] if device.type == "cuda" else ["g++", "c++", "clang++"]
    variable = "CC" if device.type == "cuda" else "CXX"
    if not any(map(shutil.which, [os.environ.get(variable) or names[0], *names])):
        return f"torch.compile needs a compiler, and there is no {', '.join(names)}"
    if not header.exists():
        return f"torch.compile needs Python's headers, and there is no {header}"
    return ""


def kernels_made() -> Iterator[Path]:
    """What the compiler left: libraries and GPU code of this run."""
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        yield from Path(os.environ[name]).rglob("*")


# ---------------------------------------------------------------- quantisation and pruning


def quantise(run: Run) -> None:
    """A trained network with its weights in 8 bits, its inputs rounded as they come: on the CPU,
    where torch has dynamic quantisation."""
    try:
        ao = importlib.import_module("torch.ao.quantization")
        to_int8 = ao.quantize_dynamic
    except (ImportError, AttributeError):
        raise AbsentError(f"torch {torch.__version__} has no torch.ao.quantization") from None
    if set(torch.backends.quantized.supported_engines) <= {"none"}:
        raise AbsentError("this torch has no engine for quantised layers on this processor")
    model = trained_network(run).cpu()
    warnings.simplefilter("ignore")  # that it is deprecated is what we look for
    small = to_int8(model, {nn.Linear}, dtype=torch.qint8)
    x, labels = (one.cpu() for one in features(run, 25, 1000))
    first, layer = small[0], model[0]
    assert isinstance(layer, nn.Linear)
    step = float(first.weight().q_scale())
    with torch.no_grad():
        found, wanted = first(x), layer(x)
    if run.wrong("output"):
        found = found * 2
    # Inputs get 7 bits (reduce_range) between the least and the largest of all, 0 included.
    x_step = float(x.max().clamp(min=0) - x.min().clamp(max=0)) / 127
    of_weights = (x.abs() + x_step).sum(1, keepdim=True) * step / 2
    most = layer.weight.detach().abs().sum(1) * x_step + of_weights
    run.keep(of_bound=float(((found - wanted).abs() / most).max()), step=step, input_step=x_step)
    run.keep(weight_type=str(first.weight().dtype), largest_weight=float(layer.weight.abs().max()))
    device, run.device = run.device, torch.device("cpu")
    evaluate(run, small, x, labels, CLASSES)
    run.device = device


def prune(run: Run) -> None:
    """The smaller half of a layer's weights is taken away, and stays away while it trains on."""
    try:
        pruning = importlib.import_module("torch.nn.utils.prune")
    except ImportError:
        raise AbsentError(f"torch {torch.__version__} has no torch.nn.utils.prune") from None
    model = trained_network(run, 60)
    layer = model[0]
    assert isinstance(layer, nn.Linear)
    whole = layer.weight.detach().clone()
    pruning.l1_unstructured(layer, "weight", amount=0.5)
    gone = layer.weight == 0
    run.keep(
        weights=whole.numel(),
        zeros=int(gone.sum()),
        largest_pruned=float(whole[gone].abs().max()),
        smallest_kept=float(whole[~gone].abs().min()),
    )
    if run.wrong("mask"):
        pruning.remove(layer, "weight")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    learn(run, model, functional.cross_entropy, optimizer, batches_of(run, 26, 60))
    x, labels = features(run, 27, 1000)
    with torch.no_grad():
        before = model(x)
        if not run.wrong("mask"):
            pruning.remove(layer, "weight")
        changed = int((model(x) != before).sum())
    still = layer.weight == 0
    run.keep(
        zeros_after=int(still.sum()),
        regrown=int((gone & ~still).sum()),
        moved=int((layer.weight != whole)[~gone].sum()),
        permanent="weight" in dict(layer.named_parameters()),
        changed_outputs=changed,
    )
    evaluate(run, model, x, labels, CLASSES)


# ---------------------------------------------------------------- checkpoints


@dataclass
class Training:
    """All that a training consists of: what a checkpoint must hold."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler

    @classmethod
    def new(cls, device: torch.device) -> "Training":
        """Untrained. Dropout makes it depend on the random state."""
        model = nn.Sequential(
            nn.Linear(FEATURES, 128), nn.LayerNorm(128), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(128, CLASSES),
        ).to(device)  # fmt: skip
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        return cls(model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.5))

    def go(self, run: Run, data: list[tuple[Tensor, Tensor]]) -> None:
        """Some steps."""
        with run.timed(len(data)):
            for x, labels in data:
                self.optimizer.zero_grad()
                torch.autograd.backward(functional.cross_entropy(self.model(x), labels))
                self.optimizer.step()
                self.schedule.step()

    def digest(self) -> str:
        """Of parameters, and of what the optimizer remembers of each."""
        memory = [
            value
            for state in self.optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        ]
        return digest([*self.model.state_dict().values(), *memory])


def checkpoint(run: Run) -> None:
    """Twenty steps, saved after ten; what is read back goes on to the same bits."""
    torch.use_deterministic_algorithms(True)
    data = batches_of(run, 28, 20)
    training = Training.new(run.device)
    start = training.digest()
    training.go(run, data[:10])
    random = {"cpu": torch.get_rng_state()}
    if run.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(run.device)
    torch.save(
        {
            "model": training.model.state_dict(),
            "optimizer": training.optimizer.state_dict(),
            "schedule": training.schedule.state_dict(),
            "random": random,
        },
        run.file("checkpoint"),
    )
    half = training.digest()
    training.go(run, data[10:])
    run.at("goes on from the checkpoint")
    torch.manual_seed(1)
    other = Training.new(run.device)
    # Without mmap and on the CPU: the random state must be there, whatever device saved it.
    saved = torch.load(run.file("checkpoint"), map_location="cpu", weights_only=True)
    other.model.load_state_dict(saved["model"])
    if not run.wrong("optimizer"):
        other.optimizer.load_state_dict(saved["optimizer"])
        other.schedule.load_state_dict(saved["schedule"])
    if not run.wrong("random"):
        torch.set_rng_state(saved["random"]["cpu"])
        if run.device.type == "cuda":
            torch.cuda.set_rng_state(saved["random"]["cuda"], run.device)
    loaded = other.digest()
    other.go(run, data[10:])
    run.keep(start=start, saved=half, loaded=loaded)
    run.keep(ended=training.digest(), continued=other.digest())


# ---------------------------------------------------------------- several GPUs


def whole_numbers(device: torch.device) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, inputs and targets of -1, 0 and 1. All that comes up is an integer below 2**24
    (64 x 64 x 16 x 64 is 2**22), which float32 holds exactly: every order of adding is the same."""
    source = seeded(29)

    def integers(*shape: int) -> Tensor:
        return torch.randint(-1, 2, shape, generator=source).float()

    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.ReLU(), nn.Linear(64, 16, bias=False))
    for parameter in model.parameters():
        parameter.data.copy_(integers(*parameter.shape))
    return model.to(device), integers(64, 64).to(device), integers(64, 16).to(device)


def data_parallel(run: Run) -> None:
    """One process, a batch split over all GPUs: outputs and gradients are those of one GPU."""
    found = torch.cuda.device_count() if run.device.type == "cuda" else 0
    if found < 2:
        raise AbsentError(f"DataParallel splits a batch over two GPUs or more; here are {found}")
    plain, x, target = whole_numbers(run.device)
    split = nn.DataParallel(copy.deepcopy(plain))
    wanted = plain(x)
    torch.autograd.backward((wanted * target).sum())
    with run.timed(10):
        for _ in range(10):
            split.zero_grad()
            output = split(x)
            torch.autograd.backward((output * target).sum())
    if run.wrong("gradient"):
        next(split.parameters()).grad.view(-1)[0] += 1  # type: ignore[union-attr]
    pairs = list(zip(grads(split), grads(plain), strict=True))
    run.keep(
        gpus=found,
        wrong_outputs=int((output != wanted).sum()),
        wrong_gradients=sum(int((one != other).sum()) for one, other in pairs),
        compared=wanted.numel() + sum(one.numel() for one, _ in pairs),
    )


@contextlib.contextmanager
def process_group(run: Run) -> Iterator[None]:
    """The ranks of this host, over NCCL or gloo."""
    # DDP loads it when it is first used: seconds that no rank is to wait for in a collective.
    importlib.import_module("torch._dynamo")
    run.at("meets the other ranks")
    store = FileStore(str(run.trail.folder / "store"), run.world)
    backend = "nccl" if run.device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=store, rank=run.rank, world_size=run.world, timeout=timedelta(seconds=40)
    )
    run.keep(backend=backend, world=run.world)
    yield
    run.at("leaves the other ranks")
    dist.barrier()
    dist.destroy_process_group()


def ddp(run: Run) -> None:
    """Each rank its part of the batch, half of it without synchronisation; then real training."""
    with process_group(run):
        parallel = nn.parallel.DistributedDataParallel
        plain = network().to(run.device)
        together = parallel(copy.deepcopy(plain))
        shards = [features(run, 30 + rank, 40) for rank in range(run.world)]
        x, labels = (torch.cat(part) for part in zip(*shards, strict=True))
        run.at("compares gradients")
        torch.autograd.backward(functional.cross_entropy(plain(x), labels))
        x, labels = shards[run.rank]
        with together.no_sync():
            loss = functional.cross_entropy(together(x[:20]), labels[:20])
            torch.autograd.backward(loss / 2)
        torch.autograd.backward(functional.cross_entropy(together(x[20:]), labels[20:]) / 2)
        run.keep(gradient_apart=relative(grads(together), grads(plain)))
        run.keep(sums=[*[FEATURES, 128, CLASSES] * 2, 40 * run.world])
        run.at("trains together")
        optimizer = torch.optim.AdamW(together.parameters(), lr=1e-2)
        data = batches_of(run, 100 + run.rank, 60)
        learn(run, together, functional.cross_entropy, optimizer, data)
        if run.wrong("parameter") and run.rank == run.world - 1:
            next(together.parameters()).data.view(-1)[0] += 1e-6
        run.keep(parameters=digest(together.parameters()))
        evaluate(run, together, *features(run, 31, 1000), CLASSES)
        sync_batch_norm(run)


def sync_batch_norm(run: Run) -> None:
    """BatchNorm under DDP normalises by each rank's own batch; SyncBatchNorm by all of them."""
    if run.device.type != "cuda":
        run.keep(sync_absent="SyncBatchNorm is for GPUs: it was not looked at")
        return
    x, _ = features(run, 32, 16 * run.world)
    plain = nn.BatchNorm1d(FEATURES).to(run.device)
    synced = nn.SyncBatchNorm(FEATURES).to(run.device)
    part = slice(16 * run.rank, 16 * run.rank + 16)
    with torch.no_grad():
        run.keep(sync_apart=relative([synced(x[part])], [plain(x)[part]]), sync_count=len(x))


def fsdp2(run: Run) -> None:
    """Parameters, gradients and optimizer split over the ranks: one step beside the whole model's,
    then training."""
    try:
        fully_shard = importlib.import_module("torch.distributed.fsdp").fully_shard
    except (ImportError, AttributeError):
        why = f"torch {torch.__version__} has no torch.distributed.fsdp.fully_shard (since 2.6)"
        raise AbsentError(why) from None
    with process_group(run):
        size = replace(SIZES["tiny"], batch=8)
        plain = Transformer(size).to(run.device)
        split = copy.deepcopy(plain)
        whole = sum(one.numel() for one in split.parameters())
        for block in split.blocks:
            fully_shard(block)
        fully_shard(split)
        mine = sum(one.to_local().numel() for one in split.parameters())  # type: ignore[attr-defined]
        run.keep(whole=whole, mine=mine, tensors=len(list(split.parameters())))
        rate = 0.125
        text, targets = run.to(*language(seeded(33), size.batch * run.world, size.tokens))
        ours = slice(size.batch * run.rank, size.batch * (run.rank + 1))
        run.at("takes one step")
        torch.autograd.backward(text_loss(plain(text), targets))
        torch.autograd.backward(text_loss(split(text[ours]), targets[ours]))
        torch.optim.SGD(plain.parameters(), lr=rate).step()
        torch.optim.SGD(split.parameters(), lr=rate).step()
        gathered = [one.full_tensor().detach() for one in split.parameters()]  # type: ignore[attr-defined]
        if run.wrong("parameter"):
            gathered[0].view(-1)[0] += 1e-2
        run.keep(
            parameters_apart=relative(gathered, plain.parameters()),
            gradient_norm=math.sqrt(
                sum(float(one.double().square().sum()) for one in grads(plain))
            ),
            parameter_norm=math.sqrt(sum(float(one.double().square().sum()) for one in gathered)),
            rate=rate,
            sums=sums_of(replace(size, batch=size.batch * run.world)),
        )
        run.at("trains split")
        optimizer = torch.optim.AdamW(split.parameters(), lr=3e-3)
        data = texts(run, 34 + run.rank, size, 90)
        losses = learn(run, split, text_loss, optimizer, data)
        run.keep(first=losses[0], last=sum(losses[-10:]) / 10, symbols=SYMBOLS, noise=NOISE)
        run.keep(samples=10 * size.batch * size.tokens)
        gathered = [one.full_tensor() for one in split.parameters()]  # type: ignore[attr-defined]
        run.keep(parameters=digest(gathered))


RUNS: dict[str, Callable[[Run], None]] = {
    "linear": linear,
    "mlp": mlp,
    "cnn-mnist": cnn_mnist,
    "cnn-mnist-2": cnn_mnist_2,
    "cnn-cifar": cnn_cifar,
    "lstm": lstm,
    "transformer": transformer,
    "finetune": finetune,
    "batch-norm": batch_norm,
    "host-copy": host_copy,
    "amp": amp,
    "compile": compiled,
    "quantise": quantise,
    "prune": prune,
    "checkpoint": checkpoint,
    "data-parallel": data_parallel,
    "ddp": ddp,
    "fsdp2": fsdp2,
}


if __name__ == "__main__":
    sys.exit(main())
