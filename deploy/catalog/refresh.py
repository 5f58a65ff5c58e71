"""What captured files say other than the catalogue, row by row. Pure: nothing is written."""

from collections.abc import Iterator

from deploy.catalog.difference import Difference, Edit
from deploy.catalog.models import Architecture, Catalogue, numbers
from deploy.catalog.refresh_torch import compare_wheel
from deploy.catalog.said import (
    Branches,
    BranchSaid,
    Chips,
    ChipSaid,
    DriverManifest,
    Said,
    ToolkitManifest,
    WheelSaid,
)


def compare(catalogue: Catalogue, said: Said, month: str) -> list[Difference]:
    """Every difference between one file and the catalogue, in the file's order; `month` is this
    one, as 2026-11."""
    match said:
        case DriverManifest():
            return list(_driver(catalogue, said))
        case ToolkitManifest():
            return list(_toolkit(catalogue, said))
        case WheelSaid():
            return list(compare_wheel(catalogue, said))
    if said and isinstance(said[0], ChipSaid):
        return list(_chips(catalogue, tuple(one for one in said if isinstance(one, ChipSaid))))
    rows = tuple(one for one in said if isinstance(one, BranchSaid))
    return list(_branches(catalogue, rows, month))


def _driver(catalogue: Catalogue, said: DriverManifest) -> Iterator[Difference]:
    number = numbers(said.version)[0]
    row = catalogue.branch.get(number)
    path = (("branch", {"number": number}),)
    if row is None and not said.compat:
        yield Difference(
            f"drivers: new branch {number} with {said.version}; the file names no CUDA release, "
            "enter the branch by hand"
        )
    elif row is None:
        yield Difference(
            f"drivers: new branch {number} with {said.version}, CUDA {said.compat}; its type is "
            "unknown until releases.json names it",
            Edit("drivers", path, {"type": "unknown", "newest": said.version, "cuda": said.compat}),
        )
    elif numbers(said.version) > numbers(row.newest):
        yield Difference(
            f"drivers: branch {number}: newest {row.newest} -> {said.version}",
            Edit("drivers", path, {"newest": said.version}),
        )
    if said.compat:
        known = {one.release: one.driver for one in catalogue.cuda_compat}.get(said.compat)
        if known is None or numbers(known) < numbers(said.version):
            yield Difference(
                f"cuda: compat package of {said.compat}: {known or 'none'} -> {said.version}",
                Edit("cuda", (("compat", {"release": said.compat}),), {"driver": said.version}),
            )


def _toolkit(catalogue: Catalogue, said: ToolkitManifest) -> Iterator[Difference]:
    release = ".".join(said.version.split(".")[:2])
    row = catalogue.cuda_release.get(release)
    known = {one.version: one.driver for one in row.updates} if row else {}
    home = ("release", {"release": release})
    if not said.driver:
        if said.version not in known:
            yield Difference(
                f"cuda: new version {said.version} bundles no driver, enter its floor by hand"
            )
    elif row is None:
        first = {"version": said.version, "driver": said.driver}
        yield Difference(
            f"cuda: new release {release}: {said.version} with driver {said.driver}",
            Edit("cuda", (home,), {"update": [first]}),
        )
    elif known.get(said.version) != said.driver:
        before = f"floor {known[said.version]}" if said.version in known else "new version, floor"
        arrow = " -> " if said.version in known else " "
        yield Difference(
            f"cuda: {said.version}: {before}{arrow}{said.driver}",
            Edit("cuda", (home, ("update", {"version": said.version})), {"driver": said.driver}),
        )


def _branches(catalogue: Catalogue, said: Branches, month: str) -> Iterator[Difference]:
    newest = max(catalogue.branch)
    for one in said:
        row = catalogue.branch.get(one.number)
        path = (("branch", {"number": one.number}),)
        if row is None:
            if one.number > newest:
                yield Difference(
                    f"drivers: new {one.type} branch {one.number} with {one.newest}; the file "
                    "names no CUDA release, enter the branch by hand"
                )
            continue
        if one.type != row.type and row.type != "legacy":
            yield Difference(
                f"drivers: branch {one.number}: type {row.type} -> {one.type}",
                Edit("drivers", path, {"type": one.type}),
            )
        if numbers(one.newest) > numbers(row.newest):
            yield Difference(
                f"drivers: branch {one.number}: newest {row.newest} -> {one.newest}",
                Edit("drivers", path, {"newest": one.newest}),
            )
    listed = {one.number for one in said}
    for row in catalogue.branches:
        if row.number not in listed and row.end_of_life and row.end_of_life >= month:
            yield Difference(
                f"drivers: branch {row.number} is not in the list any more; the row has its end of "
                f"life in {row.end_of_life}, enter by hand what is true"
            )


def _chips(catalogue: Catalogue, said: Chips) -> Iterator[Difference]:
    switches = {row.device for row in catalogue.nvswitches}
    for one in said:
        row = catalogue.gpu.get(one.device)
        kind = catalogue.architecture[row.architecture] if row else catalogue.range_of(one.device)
        name = f"gpus: {one.device} {one.name}"
        if row is None and one.legacy is None and one.device not in switches:
            home = f"in the range of {kind.name}" if kind else "in no range"
            yield Difference(
                f"{name}: new, {home}; the file does not tell its compute capability, enter it "
                "by hand"
            )
        if kind:
            yield from _contradicted(name, one, kind)


def _contradicted(name: str, one: ChipSaid, kind: Architecture) -> Iterator[Difference]:
    last = kind.driver_max
    if one.legacy is not None and one.legacy != last:
        yield Difference(
            f"{name}: last branch {one.legacy}, {kind.name} has {last or 'none'}; enter it by hand"
        )
    if one.legacy is None and one.open != ("open" in kind.modules):
        words = "supports" if one.open else "does not support"
        yield Difference(
            f"{name}: the open flavour {words} it, {kind.name} has {', '.join(kind.modules)}; "
            "enter it by hand"
        )
