"""Where rows of torch contradict each other, CUDA, drivers or silicon."""

from itertools import pairwise

from packaging.requirements import InvalidRequirement, Requirement

from deploy.catalog.models import Catalogue, TorchBuild, TorchRelease, numbers

MACHINES = ("x86_64", "aarch64")


def torch_disagrees(catalogue: Catalogue) -> list[str]:
    """Every contradiction that a row of torch takes part in."""
    found = _order(catalogue)
    for row in catalogue.torch:
        found += _default_index(row)
        for build in row.builds:
            name = f"torch: {row.version}+{build.build} for {build.machine}"
            found += [f"{name}{fault}" for fault in _build(catalogue, build)]
    return found


def _order(catalogue: Catalogue) -> list[str]:
    found = []
    for newer, older in pairwise(catalogue.torch):
        if numbers(newer.version) < numbers(older.version):
            found.append(f"torch: {older.version} stands after {newer.version}, newest goes first")
        elif (
            newer.torchvision
            and older.torchvision
            and numbers(newer.torchvision) < numbers(older.torchvision)
        ):
            found.append(
                f"torch: {newer.version} has torchvision {newer.torchvision}, "
                f"older {older.version} has {older.torchvision}"
            )
    for row in catalogue.torch:
        if row.torchaudio and numbers(row.torchaudio) > numbers(row.version):
            found.append(f"torch: {row.version} has torchaudio {row.torchaudio}, a newer torch's")
    return found


def _default_index(row: TorchRelease) -> list[str]:
    found = []
    for machine in MACHINES:
        here = [one for one in row.builds if one.machine == machine]
        default = [one.build for one in here if one.pypi]
        if len(default) > 1:
            found.append(f"torch: {row.version} has two builds on the default index for {machine}")
        if default and machine in row.cpu_wheel:
            found.append(
                f"torch: {row.version}+{default[0]} is the default index's wheel for {machine}, "
                "cpu_wheel says that one has no CUDA"
            )
        if here and not default and machine not in row.cpu_wheel:
            found.append(
                f"torch: {row.version} has no build on the default index for {machine}, "
                "and cpu_wheel does not name it"
            )
    return found


def _build(catalogue: Catalogue, build: TorchBuild) -> list[str]:
    found = []
    if build.build != "cu" + build.cuda.replace(".", ""):
        found.append(f" claims CUDA {build.cuda}")
    if build.cuda not in catalogue.cuda_release:
        return [*found, f": no CUDA release {build.cuda} in cuda"]
    floor = catalogue.cuda_major[numbers(build.cuda)[0]].driver
    if not any(numbers(row.newest) >= numbers(floor) for row in catalogue.branches):
        found.append(f" needs driver {floor}, which no branch in drivers reaches")
    return [*found, *_capabilities(catalogue, build), *_pins(build)]


def _capabilities(catalogue: Catalogue, build: TorchBuild) -> list[str]:
    found = []
    for compute in build.capabilities:
        for rule in catalogue.cudnn:
            newer = numbers(build.cudnn) >= numbers(rule.from_version)
            if newer and numbers(compute) < numbers(rule.compute):
                found.append(
                    f" holds code for {compute}, which its cuDNN {build.cudnn} does not support"
                )
        kinds = {gpu.architecture for gpu in catalogue.gpus if gpu.compute == compute}
        for name in sorted(kinds & catalogue.architecture.keys()):
            kind = catalogue.architecture[name]
            if kind.cuda_last and numbers(build.cuda) > numbers(kind.cuda_last):
                found.append(
                    f" holds code for {compute} ({name}), whose last CUDA is {kind.cuda_last}"
                )
            if numbers(build.cuda) < numbers(kind.cuda_min):
                found.append(
                    f" holds code for {compute} ({name}), whose first CUDA is {kind.cuda_min}"
                )
    return found


def _pins(build: TorchBuild) -> list[str]:
    """The pins of default wheels are their metadata's; other builds' metadata was not read."""
    if build.pypi != bool(build.pins):
        has = "has pins" if build.pins else "has no pins"
        index = "is on the default index" if build.pypi else "is not on the default index"
        return [f" {index} and {has}"]
    found = []
    for pin in build.pins:
        try:
            wanted = Requirement(pin)
        except InvalidRequirement as error:
            found.append(f": pin {pin!r} is no requirement: {error}")
            continue
        if wanted.name.startswith(("nvidia-cudnn-", "nvidia-nccl-")):
            found.append(f": pin {pin} says again what cudnn and nccl say")
        if wanted.name == "cuda-toolkit" and not str(wanted.specifier).startswith(
            f"=={build.cuda}."
        ):
            found.append(f" claims CUDA {build.cuda}, its metadata asks for {pin}")
    return found
