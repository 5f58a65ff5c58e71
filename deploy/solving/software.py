"""Torch, toolkit, cuDNN and NCCL that fit the hardware, the driver and each other."""

from collections.abc import Iterator
from dataclasses import dataclass

from deploy.catalog.models import Catalogue, TorchBuild, TorchRelease, numbers
from deploy.fleet.spec import NONE, NodeSpec
from deploy.solving.driver import demand, matches
from deploy.solving.offers import Available, Unavailable, Unsatisfied, pins, upstream
from deploy.solving.refusal import Refused, listed
from deploy.solving.situation import Situation
from deploy.stack import Component, Reason

CPU = "cpu"


@dataclass(frozen=True)
class Torch:
    """The torch part of an answer, before its environment is resolved."""

    version: str
    build: str
    hardware_build: str
    python: str
    pypi: bool
    """The default index serves this build."""


@dataclass(frozen=True)
class Software:
    torch: Torch | None
    cuda: Component | None
    cudnn: Component | None
    nccl: Component | None
    reasons: tuple[Reason, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ground:
    """What all software stands on: equal for every candidate of one host."""

    spec: NodeSpec
    seen: Situation
    catalogue: Catalogue
    available: Available | Unavailable
    driver: str
    """Version that programs will find, "" when unknown."""


def choose_software(ground: Ground) -> Software:
    """The newest torch for which everything fits together. Raises Refused with the reason of the
    first candidate among those that came furthest."""
    spec = ground.spec
    python, reasons = ("", []) if spec.torch == NONE else _python(ground)
    if not ground.seen.gpus:
        return _without_gpu(ground, python, reasons)
    if spec.torch == NONE:
        parts = _parts(ground, None)
        return Software(None, *parts[:3], tuple(parts[3]), tuple(parts[4]))
    refused: list[Refused] = []
    for release, build in _candidates(ground):
        try:
            _torch_fits(ground, release, build, python)
            cuda, cudnn, nccl, why, warnings = _parts(ground, build)
        except Refused as reason:
            refused.append(reason)
            continue
        asked = CPU if spec.torch_build == CPU else build.build
        torch = Torch(release.version, asked, build.build, python, build.pypi)
        chosen = _why_torch(ground, release, build, asked)
        return Software(torch, cuda, cudnn, nccl, (chosen, *reasons, *why), tuple(warnings))
    raise max(refused, key=_reached) if refused else _no_torch(ground)


def _reached(refused: Refused) -> int:
    """How far a candidate came: the one that came furthest tells most about the wish."""
    stages = ("python", "torch-hardware", "driver-floor")
    return stages.index(refused.rule) if refused.rule in stages else len(stages)


def _without_gpu(ground: Ground, python: str, reasons: list[Reason]) -> Software:
    """No GPU: torch for the CPU, and of the CUDA parts only what is asked for by name."""
    spec = ground.spec
    if spec.torch_build not in ("auto", CPU):
        raise Refused(
            "no-gpu",
            f"torch_build {spec.torch_build} is wished, but the PCI bus shows no GPU",
            source="inventory key torch_build",
            unblock=('leave torch_build out: the host gets torch\'s "cpu" build',),
        )
    torch = None
    if spec.torch != NONE:
        releases = [row for row in ground.catalogue.torch if _wished(row, spec)]
        fitting = [row for row in releases if python in row.pythons]
        if not fitting:
            raise _no_python(releases[0], python) if releases else _no_torch(ground)
        torch = Torch(fitting[0].version, CPU, "", python, False)
        reasons.insert(
            0,
            Reason(
                part="torch",
                choice=f"{torch.version}+{CPU}",
                because="the PCI bus shows no GPU",
                source="facts: pci",
            ),
        )
    parts = _parts(ground, None)
    return Software(torch, *parts[:3], (*reasons, *parts[3]), tuple(parts[4]))


def _python(ground: Ground) -> tuple[str, list[Reason]]:
    """Python of the environment: the host's own, or what its distribution brings."""
    seen, wish = ground.seen, ground.spec.python
    if seen.python_unknown:
        raise Refused(
            "unknown-facts",
            f"needed facts could not be read: python ({seen.python_unknown})",
            source="unknown never means fine",
        )
    row = seen.row(ground.catalogue)
    found = seen.python or row.python
    if wish and wish != found:
        raise Refused(
            "python",
            f"Python {wish} is wished, the host's own is {found}",
            source="inventory key python",
            unblock=(f'python = "{found}"',),
        )
    because = "the host's own python3" if seen.python else f"{row.title} brings it"
    return found, [Reason(part="python", choice=found, because=because, source="facts: python")]


def _wished(release: TorchRelease, spec: NodeSpec) -> bool:
    return spec.torch is None or matches(release.version, spec.torch)


def _candidates(ground: Ground) -> Iterator[tuple[TorchRelease, TorchBuild]]:
    """Releases newest first, each one's builds in the catalogue's order; builds of the CUDA major
    that the inventory asks a toolkit of come before the others."""
    spec = ground.spec
    major = numbers(spec.cuda)[0] if spec.cuda and spec.cuda != NONE else None
    pairs = [
        (release, build)
        for release in ground.catalogue.torch
        if _wished(release, spec)
        for build in release.builds
        if spec.torch_build in ("auto", CPU, build.build)
    ]
    yield from sorted(
        pairs, key=lambda pair: major is not None and numbers(pair[1].cuda)[0] != major
    )


def _no_torch(ground: Ground) -> Refused:
    spec, catalogue = ground.spec, ground.catalogue
    wish = " ".join(
        part
        for part in (
            f"torch {spec.torch}" if spec.torch else "torch",
            f"as build {spec.torch_build}" if spec.torch_build != "auto" else "",
        )
        if part
    )
    known = [
        f"{row.version} ({', '.join(build.build for build in row.builds)})"
        for row in catalogue.torch
    ]
    return Refused(
        "torch",
        f"the catalogue has no {wish}; it has {listed(known)}",
        source="catalogue: torch",
    )


def _no_python(release: TorchRelease, python: str) -> Refused:
    return Refused(
        "python",
        f"torch {release.version} has wheels for Python {listed(list(release.pythons))}, "
        f"the host has {python}",
        source="catalogue: torch",
    )


def _torch_fits(ground: Ground, release: TorchRelease, build: TorchBuild, python: str) -> None:
    name = f"torch {release.version}+{build.build}"
    source = ground.catalogue.source("torch", build.source)
    if python not in release.pythons:
        raise _no_python(release, python)
    missing = sorted(
        {
            f"{gpu.name} (compute capability {gpu.compute})"
            for gpu in ground.seen.gpus
            if not build.runs_on(gpu.compute)
        }
    )
    if missing:
        raise Refused(
            "torch-hardware",
            f"{name} holds no code for {listed(missing)}, only for {', '.join(build.capabilities)}",
            source=source,
        )
    _driver_floor(ground, f"{name} (CUDA {build.cuda})", build.cuda)


def _driver_floor(ground: Ground, what: str, cuda: str) -> None:
    floor = ground.catalogue.cuda_major[numbers(cuda)[0]]
    if ground.driver and numbers(ground.driver) < numbers(floor.driver):
        raise Refused(
            "driver-floor",
            f"{what} needs driver {floor.driver} or newer, the host has {ground.driver}",
            source=ground.catalogue.source("cuda", floor.source),
        )


def _why_torch(ground: Ground, release: TorchRelease, build: TorchBuild, asked: str) -> Reason:
    spec = ground.spec
    by_name = [
        f"{key} = {value}"
        for key, value in (("torch", spec.torch), ("torch_build", spec.torch_build))
        if value not in (None, "auto")
    ]
    if by_name:
        because = f"the inventory says {listed(by_name)}"
    else:
        because = f"newest release with a build for {ground.seen.boards}"
        because += f" and driver {ground.driver}" if ground.driver else ""
    if asked == CPU:
        because += f"; the hardware alone would have chosen {build.build}"
    return Reason(
        part="torch",
        choice=f"{release.version}+{asked}",
        because=because,
        source=ground.catalogue.source("torch", build.source),
    )


Parts = tuple[Component | None, Component | None, Component | None, list[Reason], list[str]]


def _parts(ground: Ground, build: TorchBuild | None) -> Parts:
    """Toolkit, cuDNN and NCCL: as wished, else agreeing with this build of torch; without either
    on a host without GPUs they are not asked for."""
    spec, seen = ground.spec, ground.seen
    reasons: list[Reason] = []
    warnings: list[str] = []

    def asked(wish: str | None) -> bool:
        return wish != NONE and (wish is not None or bool(seen.gpus))

    cuda = _toolkit(ground, build, reasons, warnings) if asked(spec.cuda) else None
    release = cuda.version if cuda else build.cuda if build else None
    cudnn = nccl = None
    if asked(spec.cudnn):
        cudnn = _cudnn(ground, build, _based_on(release, "cudnn", spec.cudnn), reasons, warnings)
    if asked(spec.nccl):
        nccl = _nccl(ground, build, _based_on(release, "nccl", spec.nccl), reasons, warnings)
    return cuda, cudnn, nccl, reasons, warnings


def _based_on(release: str | None, key: str, wish: str | None) -> str:
    if release is None:
        raise Refused(
            "cuda-release",
            f"{key} {wish or ''} is wished without a CUDA release to build on".replace("  ", " "),
            source=f"inventory key {key}",
            unblock=('cuda = "13.0" or another release', f'{key} = "none"'),
        )
    return release


def _toolkit(
    ground: Ground, build: TorchBuild | None, reasons: list[Reason], warnings: list[str]
) -> Component:
    spec, catalogue = ground.spec, ground.catalogue
    offered = demand(ground.available)
    had = _releases(ground, offered)
    if spec.cuda:
        release = spec.cuda
        _toolkit_fits(ground, release)
        if build and numbers(build.cuda)[0] != numbers(release)[0]:
            warnings.append(
                f"toolkit {release} and torch's build {build.build} are of different CUDA majors: "
                "extensions built with this nvcc do not load into this torch"
            )
        because, source = "the inventory asks for it", "inventory key cuda"
    else:
        release = _default_toolkit(ground, build, had)
        because = f"newest offered that driver {ground.driver or '(unknown)'} runs" + (
            f", of the same CUDA major as torch's {build.build}" if build else ""
        )
        source = catalogue.source("cuda", catalogue.cuda_release[release].source)
    component = _component(ground, "cuda", release, release, {})
    row = catalogue.cuda_release.get(release)
    if row and ground.driver and numbers(ground.driver) < numbers(row.driver):
        warnings.append(
            f"CUDA {release} has its full function from driver {row.driver} on; with "
            f"{ground.driver} it runs by minor-version compatibility: no PTX JIT, "
            "no newer features"
        )
    full = upstream(next(iter(component.packages.values())).version)
    for notice in catalogue.cuda_notices:
        if notice.release == release and not (notice.fixed and _newer(full, notice.fixed)):
            warnings.append(f"CUDA {release}: {notice.text}")
    reasons.append(Reason(part="cuda", choice=release, because=because, source=source))
    return component


def _newer(version: str, than: str) -> bool:
    try:
        return numbers(version) >= numbers(than)
    except ValueError:
        return False


def _releases(ground: Ground, offered: Available) -> list[str]:
    """CUDA releases of the catalogue that the repository has a toolkit of, newest first."""
    return [
        row.release
        for row in sorted(
            ground.catalogue.cuda_releases, key=lambda row: numbers(row.release), reverse=True
        )
        if all(offered.versions(name) for name in _names(ground, "cuda", row.release))
    ]


def _names(ground: Ground, part: str, release: str) -> list[str]:
    templates = getattr(ground.seen.row(ground.catalogue).packages, part)
    major, minor = numbers(release)
    return [template.format(major=major, minor=minor) for template in templates]


def _toolkit_fits(ground: Ground, release: str) -> None:
    """Hard limits of a toolkit: the boards' architectures, the driver's minor-version floor."""
    catalogue = ground.catalogue
    row = catalogue.cuda_release.get(release)
    if row is None:
        known = listed([one.release for one in catalogue.cuda_releases])
        raise Refused(
            "cuda",
            f"the catalogue has no CUDA {release}; it has {known}",
            source="catalogue: cuda",
        )
    for kind in ground.seen.kinds(catalogue):
        boards = listed(
            sorted({gpu.name for gpu in ground.seen.gpus if gpu.architecture == kind.name})
        )
        source = catalogue.source("gpus", kind.source)
        if kind.cuda_last and numbers(release) > numbers(kind.cuda_last):
            raise Refused(
                "cuda-hardware",
                f"CUDA {release} does not support {boards} ({kind.name}); "
                f"the last release for it is {kind.cuda_last}",
                source=source,
                unblock=(f'cuda = "{kind.cuda_last}"',),
            )
        if numbers(release) < numbers(kind.cuda_min):
            raise Refused(
                "cuda-hardware",
                f"CUDA {release} does not support {boards} ({kind.name}); "
                f"the first release for it is {kind.cuda_min}",
                source=source,
                unblock=(f'cuda = "{kind.cuda_min}"',),
            )
    _driver_floor(ground, f"CUDA {release}", release)


def _default_toolkit(ground: Ground, build: TorchBuild | None, had: list[str]) -> str:
    """Newest release of the wheel's major that the driver runs in full; else the oldest one that
    it runs by minor-version compatibility."""
    refused: list[Refused] = []
    fitting = []
    for release in had:
        if build and numbers(release)[0] != numbers(build.cuda)[0]:
            continue
        try:
            _toolkit_fits(ground, release)
            fitting.append(release)
        except Refused as reason:
            refused.append(reason)
    floors = ground.catalogue.cuda_release
    for release in fitting:
        if not ground.driver or numbers(ground.driver) >= numbers(floors[release].driver):
            return release
    if fitting:
        return fitting[-1]
    if refused:
        raise refused[0]
    wanted = f"of CUDA {numbers(build.cuda)[0]} (torch's build {build.build})" if build else ""
    raise Refused(
        "repository-lacks",
        f"the repository has no toolkit {wanted}; it has {listed(had) or 'none'}",
        source="the vendor's repository",
        unblock=('cuda = "none"',),
    )


def _cudnn(
    ground: Ground,
    build: TorchBuild | None,
    release: str,
    reasons: list[Reason],
    warnings: list[str],
) -> Component:
    wish = ground.spec.cudnn
    offered = demand(ground.available)
    name = _names(ground, "cudnn", release)[0]
    had = offered.versions(name)
    fitting = [full for full in had if _cudnn_rule(ground, upstream(full)) is None]
    pin = build.cudnn if build else None
    full = _pick("cudnn", name, wish, pin, had, fitting, offered)
    version = upstream(full)
    if rule := _cudnn_rule(ground, version):
        raise rule
    _said("cudnn", wish, pin, version, build, ground, reasons, warnings)
    return _component(ground, "cudnn", release, version, {name: full})


def _cudnn_rule(ground: Ground, version: str) -> Refused | None:
    for rule in ground.catalogue.cudnn:
        old = sorted(
            {
                f"{gpu.name} (compute capability {gpu.compute})"
                for gpu in ground.seen.gpus
                if numbers(gpu.compute) < numbers(rule.compute)
            }
        )
        if old and numbers(version) >= numbers(rule.from_version):
            return Refused(
                "cudnn-hardware",
                f"cuDNN {version} does not support {listed(old)}: from {rule.from_version} on it "
                f"needs compute capability {rule.compute}",
                source=ground.catalogue.source("cuda", rule.source),
            )
    return None


def _nccl(
    ground: Ground,
    build: TorchBuild | None,
    release: str,
    reasons: list[Reason],
    warnings: list[str],
) -> Component:
    """NCCL at the pin, packaged for the toolkit's release: that one, else the nearest older, else
    the nearest newer of the same CUDA major."""
    wish = ground.spec.nccl
    offered = demand(ground.available)
    name = _names(ground, "nccl", release)[0]
    had = offered.versions(name)
    major = numbers(release)[0]
    suffixes = {full: _suffix(full) for full in had}
    fitting = [full for full in had if suffixes[full] and suffixes[full][0] == major]
    pin = build.nccl if build else None
    version = upstream(_pick("nccl", name, wish, pin, had, fitting, offered))
    same = [full for full in fitting if upstream(full) == version]
    wanted = numbers(release)
    older = [full for full in same if suffixes[full] <= wanted]
    full = (
        max(older, key=lambda one: suffixes[one])
        if older
        else min(same, key=lambda one: suffixes[one])
    )
    _said("nccl", wish, pin, version, build, ground, reasons, warnings)
    return _component(ground, "nccl", release, version, {name: full})


def _suffix(full: str) -> tuple[int, ...]:
    """CUDA release in a package version: 2.29.7-1+cuda12.9 -> (12, 9); () without one."""
    _, _, release = full.partition("+cuda")
    try:
        return numbers(release)
    except ValueError:
        return ()


def _pick(
    key: str,
    name: str,
    wish: str | None,
    pin: str | None,
    had: list[str],
    fitting: list[str],
    offered: Available,
) -> str:
    """The version that a wish or torch's pin names, else the newest that fits."""
    wanted = wish or pin
    if wanted is None:
        chosen = fitting
    else:
        chosen = [full for full in fitting if matches(upstream(full), wanted)] or [
            full for full in had if key == "cudnn" and matches(upstream(full), wanted)
        ]
    if chosen:
        return chosen[0]
    why = "" if wish else f", which torch pins as {pin}" if pin else ""
    there = list(dict.fromkeys(upstream(full) for full in fitting or had))
    raise Refused(
        "repository-lacks",
        f"{offered.lacks(name, wanted or '')}{why}",
        source="the vendor's repository",
        unblock=(*(f'{key} = "{version}"' for version in there[:2]), f'{key} = "none"'),
    )


def _said(
    key: str,
    wish: str | None,
    pin: str | None,
    version: str,
    build: TorchBuild | None,
    ground: Ground,
    reasons: list[Reason],
    warnings: list[str],
) -> None:
    if wish:
        because, source = f"the inventory asks for {wish}", f"inventory key {key}"
    elif build:
        because = f"torch's build {build.build} pins it"
        source = ground.catalogue.source("torch", build.source)
    else:
        because, source = "newest offered that fits the hardware", "the vendor's repository"
    if pin and version != pin:
        warnings.append(
            f"{key} {version} is not what torch's wheel brings ({pin}): harmless while nothing "
            "global stands before the loader's path"
        )
    reasons.append(Reason(part=key, choice=version, because=because, source=source))


def _component(
    ground: Ground, part: str, release: str, version: str, pinned: dict[str, str]
) -> Component:
    """The part's packages, all at the version of the first one."""
    offered = demand(ground.available)
    names = _names(ground, part, release)
    roots = dict(pinned)
    try:
        for name in names:
            if name in roots:
                continue
            had = offered.versions(name)
            same = [full for full in had if not pinned or full in pinned.values()]
            if not same:
                raise Unsatisfied(offered.lacks(name, next(iter(pinned.values()), "")))
            roots[name] = same[0]
        packages = pins(offered.closure(roots))
    except Unsatisfied as reason:
        raise Refused(
            "repository-lacks",
            str(reason),
            source="the vendor's repository",
            unblock=(f'{part} = "none"',),
        ) from None
    first = {name: packages[name] for name in names}
    return Component(version=version, packages=first | packages)
