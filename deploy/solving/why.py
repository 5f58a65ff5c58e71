"""Why a driver was chosen: the links of its chain of reasons."""

from deploy.catalog.models import Catalogue, numbers
from deploy.facts import Flavour
from deploy.fleet.spec import NodeSpec
from deploy.solving.origins import WORDS
from deploy.solving.refusal import Refused, listed
from deploy.solving.situation import Situation
from deploy.stack import Origin, Reason


def why_version(
    spec: NodeSpec, catalogue: Catalogue, version: str, kind: str, passed: list[str]
) -> Reason:
    row = catalogue.branch.get(numbers(version)[0])
    if spec.driver:
        because, source = f"the inventory asks for {spec.driver}", "inventory key driver"
    else:
        because = f"newest {kind} driver offered that fits this host".replace("  ", " ")
        if passed:
            because += f"; no {listed(passed)} driver is to be had here"
        source = catalogue.source("drivers", row.source) if row else f"policy {spec.policy}"
    return Reason(part="driver", choice=version, because=because, source=source)


def why_flavour(spec: NodeSpec, seen: Situation, catalogue: Catalogue, flavour: Flavour) -> Reason:
    kinds = seen.kinds(catalogue)
    if spec.driver_modules:
        because, source = "the inventory says so", "inventory key driver_modules"
    else:
        because = f"{seen.boards}: {listed([kind.name for kind in kinds])}"
        source = catalogue.source("gpus", kinds[0].source)
    return Reason(part="modules", choice=flavour, because=because, source=source)


def why_prebuilt(template: str, catalogue: Catalogue, source: str) -> Reason:
    return Reason(
        part="modules",
        choice=template,
        because="the distribution builds and signs these modules for each of its kernels, so the "
        "firmware accepts them with Secure Boot and nothing is built on the host",
        source=catalogue.source("packages", source),
    )


def why_origin(
    spec: NodeSpec,
    seen: Situation,
    catalogue: Catalogue,
    origin: Origin,
    refused: list[tuple[Origin, Refused]],
) -> tuple[Reason, ...]:
    """Why this origin, where there is more than one."""
    row = seen.row(catalogue)
    if len(row.origins) < 2:
        return ()
    if spec.origin != "auto":
        because, source = "the inventory says so", "inventory key origin"
    elif refused:
        other, why = refused[0]
        because, source = f"{WORDS[other]} packages cannot: {why.reason}", why.source
    elif origin == "vendor":
        because = "the vendor's are taken unless only the distribution's can work"
        source = "inventory key origin (auto)"
    else:
        because = "the driver that stands is the distribution's, and origins are not mixed"
        source = "research: provisioning 2.6"
    return (Reason(part="origin", choice=origin, because=because, source=source),)
