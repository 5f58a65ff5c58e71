"""Where rows of the catalogue contradict each other, each fault naming file and rows."""

from collections import Counter, defaultdict
from itertools import pairwise

from deploy.catalog.models import Catalogue, Gpu, TorchBuild, numbers


def disagreements(catalogue: Catalogue) -> list[str]:
    """Every contradiction between rows of silicon, drivers, CUDA and torch."""
    return [
        *_gpus(catalogue),
        *_drivers(catalogue),
        *_cuda(catalogue),
        *_torch(catalogue),
    ]


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
        for block in catalogue.ranges:
            if block.holds(row.device) and block.architecture != row.architecture:
                found.append(
                    f"{name} is {row.architecture}, inside the range {block.first}-{block.last} "
                    f"of {block.architecture}"
                )
        if row.fabric and not row.nvlink:
            found.append(f"{name} needs {row.fabric} and has no NVLink")
    found += _ranges(catalogue)
    for kind in catalogue.architectures:
        if kind.driver_max is not None and kind.driver_min > kind.driver_max:
            found.append(
                f"gpus: {kind.name}: first branch {kind.driver_min} is after {kind.driver_max}"
            )
        for release in (kind.cuda_last,):
            if release is not None and release not in catalogue.cuda_release:
                found.append(f"gpus: {kind.name}: no CUDA release {release} in cuda")
    return found


def _family(row: Gpu) -> str:
    return row.architecture.removeprefix("grace-")


def _ranges(catalogue: Catalogue) -> list[str]:
    found = []
    for row in catalogue.ranges:
        name = f"gpus: range {row.first}-{row.last}"
        if row.architecture not in catalogue.architecture:
            found.append(f"{name}: no architecture {row.architecture}")
        if row.first > row.last:
            found.append(f"{name} ends before it begins")
        for switch in catalogue.nvswitches:
            if row.holds(switch.device):
                found.append(f"{name} of {row.architecture} holds {switch.device} {switch.name}")
    ordered = sorted(catalogue.ranges, key=lambda row: row.first)
    for older, newer in pairwise(ordered):
        if newer.first <= older.last:
            found.append(
                f"gpus: ranges {older.first}-{older.last} ({older.architecture}) and "
                f"{newer.first}-{newer.last} ({newer.architecture}) overlap"
            )
    return found


def _drivers(catalogue: Catalogue) -> list[str]:
    found = []
    for row in catalogue.branches:
        if numbers(row.newest)[0] != row.number:
            found.append(f"drivers: branch {row.number}: newest {row.newest} is another branch")
        if row.ended and row.end_of_life:
            found.append(f"drivers: branch {row.number}: has an end of life and has ended")
        release = catalogue.cuda_release.get(row.cuda)
        if release is None:
            found.append(f"drivers: branch {row.number}: no CUDA release {row.cuda} in cuda")
        elif numbers(release.driver)[0] > row.number:
            found.append(
                f"drivers: branch {row.number} shipped with CUDA {row.cuda}, "
                f"which needs {release.driver}"
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
        major = catalogue.cuda_major.get(numbers(row.release)[0])
        if major is None:
            found.append(f"cuda: release {row.release} has no row for its major")
        elif numbers(row.driver) < numbers(major.driver):
            found.append(
                f"cuda: release {row.release} needs {row.driver}, "
                f"below the floor {major.driver} of its major"
            )
    for older, newer in pairwise(rows):
        if numbers(older.driver) > numbers(newer.driver):
            found.append(
                f"cuda: release {older.release} needs {older.driver}, "
                f"newer {newer.release} only {newer.driver}"
            )
    for notice in catalogue.cuda_notices:
        if notice.release not in catalogue.cuda_release:
            found.append(f"cuda: notice names release {notice.release}, which has no row")
    return found


def _torch(catalogue: Catalogue) -> list[str]:
    found = []
    for row in catalogue.torch:
        for machine in ("x86_64", "aarch64"):
            default = [one for one in row.builds if one.pypi and one.machine == machine]
            if len(default) > 1:
                found.append(
                    f"torch: {row.version} has two builds on the default index for {machine}"
                )
            if default and machine in row.cpu_wheel:
                found.append(
                    f"torch: {row.version}+{default[0].build} is the default index's wheel for "
                    f"{machine}, cpu_wheel says that one has no CUDA"
                )
        for build in row.builds:
            name = f"torch: {row.version}+{build.build}"
            if build.build != "cu" + build.cuda.replace(".", ""):
                found.append(f"{name} claims CUDA {build.cuda}")
            if build.cuda not in catalogue.cuda_release:
                found.append(f"{name}: no CUDA release {build.cuda} in cuda")
            else:
                found += [f"{name}{fault}" for fault in _capabilities(catalogue, build)]
    return found


def _capabilities(catalogue: Catalogue, build: TorchBuild) -> list[str]:
    found = []
    for compute in build.capabilities:
        for rule in catalogue.cudnn:
            newer = numbers(build.cudnn) >= numbers(rule.from_version)
            if newer and numbers(compute) < numbers(rule.compute):
                found.append(
                    f" holds code for {compute}, which its cuDNN {build.cudnn} does not support"
                )
        for kind in {gpu.architecture for gpu in catalogue.gpus if gpu.compute == compute}:
            last = (
                catalogue.architecture[kind].cuda_last if kind in catalogue.architecture else None
            )
            if last is not None and numbers(build.cuda) > numbers(last):
                found.append(f" holds code for {compute} ({kind}), whose last CUDA is {last}")
    return found
