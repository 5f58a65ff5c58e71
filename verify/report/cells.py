"""What every GPU of a host came to: the worst of what was found at it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from verify.checks import VERDICTS
from verify.results import Finding, Gpu, HostVerification, Part

UNASKED = "not-asked"
"""Of a GPU that nothing was asked about."""
MARK = {
    "pass": "",
    "degraded": "!",
    "not-run": "?",
    "unreachable": "-",
    "hung": "~",
    "fail": "\N{MULTIPLICATION SIGN}",
    UNASKED: "",
}
"""A sign for every verdict, for those who do not see its colour."""


@dataclass(frozen=True)
class Cell:
    """One GPU of a host."""

    verdict: str
    label: str
    """Its index, or "" for one that NVML does not name."""
    name: str
    uuid: str
    serial: str
    slot: str
    checks: tuple[str, ...]
    """Ids of the checks that found something at it, causes first."""


def cells(one: HostVerification) -> list[Cell]:
    """The GPUs that NVML names, and those that only a finding names (lost from the bus)."""
    result = one.result
    if result is None:
        return []
    found = [
        (check.id, finding.component, _counted(finding), finding.because)
        for check in result.checks
        for finding in check.findings
    ]
    about_all = [
        verdict
        for id, part, verdict, _ in found
        if _of_gpus(id) and part.kind not in ("gpu", "rank") and verdict in ("not-run", "hung")
    ]
    floor = _worst(["not-run" if about_all else "pass"])
    if not any(_of_gpus(check.id) for check in result.checks):
        floor = UNASKED
    made = []
    for gpu in result.gpus:
        at = [(bool(b), id, verdict) for id, part, verdict, b in found if _is(part, gpu)]
        verdicts = [verdict for _, _, verdict in at]
        worst = _worst([*verdicts, *([floor] if floor != UNASKED else [])]) if at else floor
        checks = tuple(dict.fromkeys(id for _, id, _ in sorted(at)))
        cell = Cell(worst, str(gpu.index), gpu.name, gpu.uuid, gpu.serial, gpu.slot, checks)
        made.append(cell)
    lost: dict[str, list[tuple[bool, str, str, Part]]] = {}
    for id, part, verdict, because in found:
        if part.kind == "gpu" and not any(_is(part, gpu) for gpu in result.gpus):
            key = part.slot or part.uuid or str(part.index)
            lost.setdefault(key, []).append((bool(because), id, verdict, part))
    for each in lost.values():
        part = each[0][3]
        checks = tuple(dict.fromkeys(id for _, id, _, _ in sorted(each, key=lambda x: x[:2])))
        label = "" if part.index is None else str(part.index)
        worst = _worst([verdict for _, _, verdict, _ in each])
        made.append(Cell(worst, label, part.name, part.uuid, part.serial, part.slot, checks))
    if all(cell.slot for cell in made):
        made.sort(key=lambda cell: cell.slot)
    return made


def _counted(finding: Finding) -> str:
    """A finding's verdict; of a waived one no more than degraded, as its host's."""
    if finding.waived is None:
        return finding.verdict
    return "degraded"


def _of_gpus(check: str) -> bool:
    return check.startswith(("gpu.", "train."))


def _is(part: Part, gpu: Gpu) -> bool:
    """Whether a component is this GPU; a rank is the GPU that it names."""
    if part.uuid and gpu.uuid:
        return part.uuid == gpu.uuid
    if part.kind != "gpu":
        return False
    if part.slot and gpu.slot:
        return part.slot == gpu.slot
    return part.index == gpu.index


def _worst(verdicts: Iterable[str]) -> str:
    return max(verdicts, key=VERDICTS.index, default="pass")
