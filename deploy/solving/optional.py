"""Parts that only a wish brings: DCGM and the container toolkit, each of one version throughout."""

from deploy.catalog.models import numbers
from deploy.fleet.spec import NodeSpec
from deploy.solving.offers import demand, matches, upstream
from deploy.solving.parts import Ground
from deploy.solving.refusal import Refused
from deploy.solving.toolkit import names_of, packaged
from deploy.stack import Component, Reason

LATEST = "latest"


def choose_dcgm(ground: Ground, reasons: list[Reason]) -> Component | None:
    """DCGM with the plugin for the CUDA that driver and boards have in common. Raises Refused."""
    wish = _wish(ground.spec, "dcgm", ground)
    if wish is None:
        return None
    major, why = _plugin(ground)
    return _at_one_version(ground, "dcgm", wish, f"{major}.0", f"; {why}", reasons)


def choose_container_toolkit(ground: Ground, reasons: list[Reason]) -> Component | None:
    """All packages of the container toolkit, which take each other at any version. Raises
    Refused."""
    wish = _wish(ground.spec, "container_toolkit", ground)
    if wish is None:
        return None
    why = "; its packages would take each other at any version, so all are pinned"
    return _at_one_version(ground, "container_toolkit", wish, "0.0", why, reasons)


def _wish(spec: NodeSpec, part: str, ground: Ground) -> str | None:
    wish: str | None = getattr(spec, part)
    if wish is not None and not ground.seen.gpus:
        raise Refused(
            "no-gpu",
            f"{part} {wish} is wished, but the PCI bus shows no GPU",
            source=f"inventory key {part}",
            unblock=(f"leave {part} out",),
        )
    return wish


def _plugin(ground: Ground) -> tuple[int, str]:
    """The CUDA major of DCGM's plugin: the highest that the driver has and the boards allow."""
    catalogue, driver = ground.catalogue, ground.driver
    if not driver:
        raise Refused(
            "dcgm",
            "which CUDA DCGM's plugin must be for depends on the driver, and none is loaded or "
            "managed",
            source=catalogue.source("packages", ground.seen.row(catalogue).libraries.source),
            unblock=("leave driver out, so that one is installed", "leave dcgm out"),
        )
    had = [one.major for one in catalogue.cuda_majors if numbers(one.driver) <= numbers(driver)]
    last = [numbers(kind.cuda_last)[0] for kind in ground.seen.kinds(catalogue) if kind.cuda_last]
    major = min([max(had, default=0), *last])
    because = f"driver {driver} brings CUDA {max(had, default=0)}"
    if last and min(last) < max(had, default=0):
        because += f", {ground.seen.boards} end with CUDA {min(last)}"
    return major, f"its plugin is the one for CUDA {major}, because {because}"


def _at_one_version(
    ground: Ground, part: str, wish: str, release: str, more: str, reasons: list[Reason]
) -> Component:
    offered = demand(ground.available)
    names = names_of(ground, part, release)
    common = [
        full
        for full in offered.versions(names[0])
        if all(full in offered.versions(name) for name in names[1:])
    ]
    fitting = [full for full in common if wish == LATEST or matches(upstream(full), wish)]
    if not fitting:
        missing = next((name for name in names if not offered.versions(name)), names[0])
        raise Refused(
            "repository-lacks",
            offered.lacks(missing, "" if wish == LATEST else wish),
            source="the vendor's repository",
            unblock=(
                *(f'{part} = "{upstream(full)}"' for full in common[:2]),
                f"leave {part} out",
            ),
        )
    version = upstream(fitting[0])
    because = "the newest that the repository has" if wish == LATEST else "the inventory asks"
    reasons.append(
        Reason(
            part=part,
            choice=version,
            because=f"{because}{more}",
            source=f"inventory key {part}",
        )
    )
    return packaged(ground, part, release, version, {names[0]: fitting[0]})
