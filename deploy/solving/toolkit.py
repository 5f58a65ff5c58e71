"""The CUDA toolkit, and what every CUDA part shares: floors, names, packages at one version."""

from deploy.catalog.models import TorchBuild, numbers
from deploy.solving.offers import Available, Unsatisfied, demand, pins, upstream
from deploy.solving.parts import Ground
from deploy.solving.refusal import Refused, listed
from deploy.stack import Component, Reason


def choose_toolkit(
    ground: Ground, build: TorchBuild | None, reasons: list[Reason], warnings: list[str]
) -> Component:
    """The toolkit as wished, or the newest that agrees with torch and driver. Raises Refused."""
    spec, catalogue = ground.spec, ground.catalogue
    offered = demand(ground.available)
    had = _releases(ground, offered)
    if spec.cuda:
        release = spec.cuda
        check_toolkit(ground, release)
        if build and numbers(build.cuda)[0] != numbers(release)[0]:
            warnings.append(
                f"toolkit {release} and torch's build {build.build} are of different CUDA majors: "
                "extensions built with this nvcc do not load into this torch"
            )
        because, source = "the inventory asks for it", "inventory key cuda"
    else:
        release = _default_toolkit(ground, build, had)
        because = f"newest toolkit offered that driver {ground.driver or '(unknown)'} runs"
        if build:
            because += (
                f", of the same CUDA major as torch's {build.build}; torch itself brings the "
                f"libraries of CUDA {build.cuda} and needs no toolkit"
            )
        source = catalogue.source("cuda", catalogue.cuda_release[release].source)
    component = packaged(ground, "cuda", release, release, {})
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
        if all(offered.versions(name) for name in names_of(ground, "cuda", row.release))
    ]


def check_toolkit(ground: Ground, release: str) -> None:
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
    check_driver_floor(ground, f"CUDA {release}", release)


def _default_toolkit(ground: Ground, build: TorchBuild | None, had: list[str]) -> str:
    """Newest release of the wheel's major that the driver runs in full; else the oldest one that
    it runs by minor-version compatibility."""
    refused: list[Refused] = []
    fitting = []
    for release in had:
        if build and numbers(release)[0] != numbers(build.cuda)[0]:
            continue
        try:
            check_toolkit(ground, release)
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


def check_driver_floor(ground: Ground, what: str, cuda: str) -> None:
    """Raises Refused when the driver is below the minor-version floor of a CUDA release."""
    floor = ground.catalogue.cuda_major[numbers(cuda)[0]]
    if ground.driver and numbers(ground.driver) < numbers(floor.driver):
        raise Refused(
            "driver-floor",
            f"{what} needs driver {floor.driver} or newer, the driver is {ground.driver}",
            source=ground.catalogue.source("cuda", floor.source),
        )


def names_of(ground: Ground, part: str, release: str) -> list[str]:
    """A part's package names for a CUDA release, from the distribution's templates."""
    templates = getattr(ground.seen.row(ground.catalogue).libraries, part)
    major, minor = numbers(release)
    return [template.format(major=major, minor=minor) for template in templates]


def packaged(
    ground: Ground, part: str, release: str, version: str, pinned: dict[str, str]
) -> Component:
    """The part's packages, all at the version of the first one."""
    offered = demand(ground.available)
    names = names_of(ground, part, release)
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
