"""Where rows of silicon, drivers and CUDA contradict each other; faults name file and rows."""

from collections import Counter, defaultdict
from itertools import pairwise

from deploy.catalog.agree_torch import torch_disagrees
from deploy.catalog.models import Architecture, Catalogue, Gpu, numbers


def disagreements(catalogue: Catalogue) -> list[str]:
    """Every contradiction between rows of silicon, drivers, CUDA and torch."""
    return [
        *_gpus(catalogue),
        *_ranges(catalogue),
        *_architectures(catalogue),
        *_drivers(catalogue),
        *_cuda(catalogue),
        *_notices(catalogue),
        *torch_disagrees(catalogue),
    ]


def _family(row: Gpu) -> str:
    return row.architecture.removeprefix("grace-")


def _gpus(catalogue: Catalogue) -> list[str]:
    found = []
    homes: dict[str, Counter[str]] = defaultdict(Counter)
    for row in catalogue.gpus:
        homes[row.compute][_family(row)] += 1
    for row in catalogue.gpus:
        name = f"gpus: {row.device} {row.name}"
        if row.architecture not in catalogue.architecture:
            found.append(f"{name}: no architecture {row.architecture}")
            continue
        home, _ = homes[row.compute].most_common(1)[0]
        if home != _family(row):
            found.append(
                f"{name}: compute capability {row.compute} belongs to {home}, "
                f"not {row.architecture}"
            )
        if row.fabric and not row.nvlink:
            found.append(f"{name} needs {row.fabric} and has no NVLink")
        found += [
            f"{name} is {row.architecture}, inside the range {block.first}-{block.last} "
            f"of {block.architecture}"
            for block in catalogue.ranges
            if block.holds(row.device) and block.architecture != row.architecture
        ]
    return found


def _ranges(catalogue: Catalogue) -> list[str]:
    found = []
    for row in catalogue.ranges:
        name = f"gpus: range {row.first}-{row.last}"
        if row.architecture not in catalogue.architecture:
            found.append(f"{name}: no architecture {row.architecture}")
        if row.first > row.last:
            found.append(f"{name} ends before it begins")
        found += [
            f"{name} of {row.architecture} holds {switch.device} {switch.name}"
            for switch in catalogue.nvswitches
            if row.holds(switch.device)
        ]
    for older, newer in pairwise(sorted(catalogue.ranges, key=lambda row: row.first)):
        if newer.first <= older.last:
            found.append(
                f"gpus: ranges {older.first}-{older.last} ({older.architecture}) and "
                f"{newer.first}-{newer.last} ({newer.architecture}) overlap"
            )
    return found


def _architectures(catalogue: Catalogue) -> list[str]:
    found = []
    for kind in catalogue.architectures:
        name = f"gpus: {kind.name}"
        if kind.driver_max is not None and kind.driver_min > kind.driver_max:
            found.append(f"{name}: first branch {kind.driver_min} is after {kind.driver_max}")
        elif not any(_serves(kind, row.number) for row in catalogue.branches):
            found.append(f"{name}: no branch in drivers serves it")
        for release in (kind.cuda_last, kind.cuda_min):
            if release not in (None, "0.0") and release not in catalogue.cuda_release:
                found.append(f"{name}: no CUDA release {release} in cuda")
        if kind.cuda_last and numbers(kind.cuda_min) > numbers(kind.cuda_last):
            found.append(f"{name}: first CUDA {kind.cuda_min} is after its last {kind.cuda_last}")
    return found


def _serves(kind: Architecture, branch: int) -> bool:
    last = branch if kind.driver_max is None else kind.driver_max
    return kind.driver_min <= branch <= last


def _drivers(catalogue: Catalogue) -> list[str]:
    found = []
    for row in catalogue.branches:
        name = f"drivers: branch {row.number}"
        if numbers(row.newest)[0] != row.number:
            found.append(f"{name}: newest {row.newest} is another branch")
        if row.ended and row.end_of_life:
            found.append(f"{name}: has an end of life and has ended")
        release = catalogue.cuda_release.get(row.cuda)
        if release is None:
            found.append(f"{name}: no CUDA release {row.cuda} in cuda")
        elif numbers(release.driver)[0] > row.number:
            found.append(f"{name} shipped with CUDA {row.cuda}, which needs {release.driver}")
    fails = sorted((row.number, row.kernel_fails) for row in catalogue.branches if row.kernel_fails)
    for (older, later_kernel), (newer, kernel) in pairwise(fails):
        if numbers(kernel) < numbers(later_kernel):
            found.append(
                f"drivers: branch {newer} fails from kernel {kernel} on, "
                f"the older {older} only from {later_kernel} on"
            )
    for name, number in [
        ("closed_last", catalogue.closed_last.branch),
        *((f"notice of {row.fixed}", row.branch) for row in catalogue.driver_notices),
        *((f"gpus: {row.name}", row.driver_max) for row in catalogue.architectures),
    ]:
        if number is not None and number not in catalogue.branch:
            found.append(f"drivers: {name} names branch {number}, which has no row")
    return found


def _cuda(catalogue: Catalogue) -> list[str]:
    found = []
    rows = sorted(catalogue.cuda_releases, key=lambda row: numbers(row.release))
    for row in rows:
        name = f"cuda: release {row.release}"
        major = catalogue.cuda_major.get(numbers(row.release)[0])
        if major is None:
            found.append(f"{name} has no row for its major")
        elif numbers(row.driver)[0] < numbers(major.driver)[0]:
            found.append(f"{name} needs {row.driver}, below the floor {major.driver} of its major")
        for one in row.updates:
            if not one.version.startswith(f"{row.release}."):
                found.append(f"{name} has an update {one.version}")
        for old, new in pairwise(row.updates):
            if numbers(old.version) > numbers(new.version):
                found.append(f"{name}: update {new.version} stands after {old.version}")
            if numbers(old.driver) > numbers(new.driver):
                found.append(
                    f"{name}: update {old.version} needs {old.driver}, "
                    f"newer {new.version} only {new.driver}"
                )
    for older, newer in pairwise(rows):
        if numbers(older.driver) > numbers(newer.driver):
            found.append(
                f"cuda: release {older.release} needs {older.driver}, "
                f"newer {newer.release} only {newer.driver}"
            )
    for compat in catalogue.cuda_compat:
        branch = catalogue.branch.get(numbers(compat.driver)[0])
        if branch is None or branch.cuda != compat.release:
            home = f"shipped with CUDA {branch.cuda}" if branch else "has no row in drivers"
            found.append(
                f"cuda: compat of {compat.release} holds driver {compat.driver}, "
                f"whose branch {home}"
            )
    return found


def _notices(catalogue: Catalogue) -> list[str]:
    found = []
    for fault in catalogue.driver_notices:
        if numbers(fault.fixed)[0] != fault.branch:
            found.append(f"drivers: notice of branch {fault.branch} is fixed in {fault.fixed}")
        if fault.architecture not in catalogue.architecture:
            found.append(f"drivers: notice of {fault.fixed}: no architecture {fault.architecture}")
    for row in catalogue.cuda_notices:
        if row.release not in catalogue.cuda_release:
            found.append(f"cuda: notice names release {row.release}, which has no row")
        if row.fixed and not row.fixed.startswith(f"{row.release}."):
            found.append(f"cuda: notice of {row.release} is fixed in {row.fixed}")
    return found
