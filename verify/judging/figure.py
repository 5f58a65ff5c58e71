"""Figures of hosts as they are judged: whose, of what claim, and what each may be compared with."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from verify.results import Finding, Gpu, HostResult, Measurement, Part

COMPUTE, MEMORY, LINK = "perf.compute", "perf.memory", "perf.host-link"
PEER, COLLECTIVES, TRAINING = "perf.peer", "perf.collectives", "perf.training"
OF: dict[str, tuple[str, str]] = {
    "bench.matmul": (COMPUTE, "TFLOPS"),
    "bench.copy": (MEMORY, "GB/s"),
    "bench.triad": (MEMORY, "GB/s"),
    "bench.host-to-device": (LINK, "GB/s"),
    "bench.device-to-host": (LINK, "GB/s"),
    "bench.peer": (PEER, "GB/s"),
    "bench.all-reduce": (COLLECTIVES, "GB/s"),
    "bench.all-gather": (COLLECTIVES, "GB/s"),
    "bench.reduce-scatter": (COLLECTIVES, "GB/s"),
    "bench.all-to-all": (COLLECTIVES, "GB/s"),
    "train.transformer": (TRAINING, "tokens/s"),
    "train.transformer.alone": (TRAINING, "tokens/s"),
    "train.cnn": (TRAINING, "images/s"),
    "train.cnn.alone": (TRAINING, "images/s"),
}
"""Name of a figure -> the claim that judges it, and its unit. More is always better."""
IDENTIFIES = ("to", "user")
"""Conditions that tell one figure from another and do not keep two from being compared."""
CPU = "cpu"
MOST = 1e9
"""Of any unit above: tokens a second are the largest, some millions. Sums of what is beyond would
run over, and nothing is below or above what is no number."""
LEAST_BYTES = 16 << 20
"""Of a collective that is judged. Below, latency decides, which differs from run to run: at 1 MiB
two publications of one board, an A100, are 36 and 25 GB/s (Azure/AI-benchmarking-guide;
microsoft/superbench-results v0.4)."""

Key = tuple[str, str, str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Figure:
    """One measurement with what it takes to judge it."""

    host: str
    claim: str
    name: str
    unit: str
    value: float
    part: Part
    conditions: dict[str, str]
    gpu: Gpu | None
    """The GPU that it is of; None for a figure of the whole host."""
    gpus: tuple[Gpu, ...]
    """All of the host."""
    model: str
    """Product of the GPU, or of all of them with their number; cpu without one."""

    @cached_property
    def key(self) -> Key:
        """What figures must share to be neighbours: model, name, unit and conditions."""
        return (self.model, self.name, self.unit, self._conditions(IDENTIFIES))

    @cached_property
    def own(self) -> tuple[str, str, tuple[tuple[str, str], ...], str]:
        """What tells it from all others of its host, then and now."""
        part = self.part
        where = part.uuid or f"{part.kind} {part.index} {part.name}"
        return (self.name, self.unit, self._conditions(("user",)), where)

    @property
    def on_cpu(self) -> bool:
        """It was measured without a GPU: on cores that everything else shares."""
        return self.model == CPU

    @property
    def told_only(self) -> str:
        """Why a figure is told and not judged, "" when it is judged.

        On the same simulated host two sound runs were 94 % apart: cores that others use, too, have
        no speed of their own.
        """
        if self.on_cpu:
            return "it was measured on a CPU, whose cores others share: told and not judged"
        sent = self.conditions.get("bytes", "")
        counted = sent.isascii() and sent.isdigit() and len(sent) < 16
        if self.claim == COLLECTIVES and counted and int(sent) < LEAST_BYTES:
            return f"messages of {size(sent)} tell of latency: told and not judged"
        return ""

    def _conditions(self, without: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
        return tuple(sorted((k, v) for k, v in self.conditions.items() if k not in without))

    def said(self) -> str:
        """Its name with the conditions that a reader needs: matmul (bf16)."""
        short = self.name.partition(".")[2]
        told = [v for k, v in self.conditions.items() if k in ("dtype", "with", "algorithm")]
        if "to" in self.conditions:
            told.append(f"to GPU {self.conditions['to']}")
        if "bytes" in self.conditions:
            told.append(size(self.conditions["bytes"]))
        return f"{short} ({', '.join(told)})" if told else short

    def amount(self, value: float | None = None) -> str:
        """Its value, or another one, with its unit."""
        return f"{self.value if value is None else value:.4g} {self.unit}"


def size(text: str) -> str:
    """Bytes for people: 268435456 -> 256 MiB; what is no number stays."""
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        return text
    number, units = float(text), ("B", "KiB", "MiB", "GiB")
    for unit in units:
        if number < 1024 or unit == units[-1]:
            return f"{number:g} {unit}"
        number /= 1024
    return text


def figures_of(result: HostResult) -> tuple[list[Figure], list[tuple[str, Finding]]]:
    """A host's figures that can be judged, and for the others a finding with its claim.

    Given twice, of another unit, not above zero or beyond all measure: such a figure is none.
    """
    seen: list[Figure] = []
    bad: list[tuple[str, Finding]] = []
    by_uuid = {gpu.uuid: gpu for gpu in result.gpus if gpu.uuid}
    by_index = {gpu.index: gpu for gpu in result.gpus}
    counted = Counter(gpu.name for gpu in result.gpus)
    whole = ", ".join(f"{count}x {name}" for name, count in sorted(counted.items()))
    for one in result.measurements:
        claim, unit = OF.get(one.name, ("", ""))
        if not claim:
            continue
        figure = _figure(result, one, claim, by_uuid, by_index, whole)
        if one.unit != unit:
            bad.append((claim, unusable(figure, f"its unit is {one.unit}, known is {unit}")))
        elif not 0 < one.value <= MOST:
            bad.append((claim, unusable(figure, f"{one.value:.4g} {unit} is no speed")))
        else:
            seen.append(figure)
    count = Counter(figure.own for figure in seen)
    for figure in {figure.own: figure for figure in seen if count[figure.own] > 1}.values():
        bad.append((figure.claim, unusable(figure, f"it is given {count[figure.own]} times")))
    return [figure for figure in seen if count[figure.own] == 1], bad


def _figure(
    result: HostResult,
    one: Measurement,
    claim: str,
    by_uuid: dict[str, Gpu],
    by_index: dict[int, Gpu],
    whole: str,
) -> Figure:
    part = one.component
    gpu = by_uuid.get(part.uuid)
    if gpu is None and part.kind in ("gpu", "rank") and part.index is not None and not part.uuid:
        gpu = by_index.get(part.index)
    on_cpu = one.conditions.get("device", "").lower() == CPU or not result.gpus
    if part.kind == "rank" and gpu is not None and not on_cpu:
        # A rank that runs on a GPU is that GPU to whoever reads of it.
        part = of_gpu(gpu)
    model = CPU if on_cpu else gpu.name if gpu is not None else whole
    return Figure(
        host=result.host,
        claim=claim,
        name=one.name,
        unit=one.unit,
        value=one.value,
        part=part,
        conditions=one.conditions,
        gpu=None if on_cpu else gpu,
        gpus=result.gpus,
        model=model,
    )


def of_gpu(gpu: Gpu) -> Part:
    """A GPU as the component of a finding."""
    return Part(
        kind="gpu",
        name=gpu.name,
        index=gpu.index,
        uuid=gpu.uuid,
        serial=gpu.serial,
        slot=gpu.slot,
    )


def unusable(figure: Figure, why: str) -> Finding:
    """A figure that says nothing."""
    return missing(figure.part, figure.said(), why)


def missing(part: Part, what: str, why: str, because: str = "") -> Finding:
    """Something asked that is not there: never a pass."""
    return Finding(
        component=part,
        verdict="not-run",
        what=what[:1000],
        found=why[:1000],
        expected="",
        action="keep",
        baseline="claim",
        because=because,
    )


def parts_of(figures: Iterable[Figure]) -> list[Part]:
    """The components that have a figure, once each."""
    return list({figure.part: None for figure in figures})
