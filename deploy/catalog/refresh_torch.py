"""What the METADATA of a torch wheel says other than its row."""

from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.catalog.agree_torch import MACHINES
from deploy.catalog.difference import Difference, Edit, Row
from deploy.catalog.models import Catalogue, TorchBuild
from deploy.catalog.said import WheelSaid
from deploy.catalog.wheels import OWN


def compare_wheel(catalogue: Catalogue, said: WheelSaid) -> Iterator[Difference]:
    """What the METADATA of a torch wheel says other than its row."""
    name = f"torch {said.version}" + (f"+{said.build}" if said.build else "")
    row = next((one for one in catalogue.torch if one.version == said.version), None)
    if row is None:
        yield Difference(
            f"torch: new release {said.version}; METADATA does not tell SM lists and Pythons, "
            "enter it by hand"
        )
        return
    if wrong := [one for one in row.pythons if not said.python.contains(f"{one}.0")]:
        yield Difference(
            f"{name}: the row has Python {', '.join(wrong)}, the wheel asks for {said.python}; "
            "enter it by hand"
        )
    seen = False
    for build in row.builds:
        if build.build == said.build or (build.pypi and not said.build):
            seen = True
            yield from _asked(name, row.version, build, said)
    if not seen:
        yield Difference(f"{name}: no such build; its SM list is not in METADATA, enter it by hand")
    for machine in MACHINES if not said.build else ():
        if machine in row.cpu_wheel and _own(said, machine):
            yield Difference(f"{name}: CUDA on {machine}, cpu_wheel says none; enter it by hand")


def _own(said: WheelSaid, machine: str) -> list[Requirement]:
    """What the wheel asks for of CUDA on a machine type, extras of its own left out."""
    values = {"platform_system": "Linux", "sys_platform": "linux", "platform_machine": machine}
    values |= {"python_version": "3.12", "python_full_version": "3.12.0", "extra": ""}
    return [
        one
        for one in said.requires
        if OWN.match(canonicalize_name(one.name))
        and (one.marker is None or one.marker.evaluate(values))
    ]


def _asked(name: str, version: str, build: TorchBuild, said: WheelSaid) -> Iterator[Difference]:
    wanted: Row = {}
    pins = []
    for one in _own(said, build.machine):
        library = canonicalize_name(one.name).removeprefix("nvidia-").split("-")[0]
        if library in ("cudnn", "nccl"):
            wanted[library] = str(one.specifier).removeprefix("==")
        else:
            pins.append(f"{one.name}{one.specifier}")
    if not wanted:
        yield Difference(
            f"{name} for {build.machine}: the wheel asks for no CUDA; enter it by hand"
        )
        return
    if build.pypi:
        wanted["pins"] = pins
    has = {"cudnn": build.cudnn, "nccl": build.nccl, "pins": list(build.pins)}
    changed = {key: value for key, value in wanted.items() if value != has[key]}
    if changed:
        words = ", ".join(f"{key} {has[key]} -> {value}" for key, value in changed.items())
        place = {"build": build.build, "machine": build.machine}
        yield Difference(
            f"{name} for {build.machine}: {words}",
            Edit("torch", (("release", {"version": version}), ("build", place)), changed),
        )
