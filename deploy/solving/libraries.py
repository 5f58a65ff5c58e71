"""cuDNN and NCCL: at torch's pins or at a wish, for the toolkit's CUDA."""

from deploy.catalog.models import TorchBuild, numbers
from deploy.solving.offers import Available, demand, matches, upstream
from deploy.solving.parts import Ground
from deploy.solving.refusal import Refused, listed
from deploy.solving.toolkit import names_of, packaged
from deploy.stack import Component, Reason


def choose_cudnn(
    ground: Ground,
    build: TorchBuild | None,
    release: str,
    reasons: list[Reason],
    warnings: list[str],
) -> Component:
    """cuDNN for the CUDA major of `release`: as wished, at torch's pin, or the newest that the
    boards can run. Raises Refused."""
    wish = ground.spec.cudnn
    offered = demand(ground.available)
    name = names_of(ground, "cudnn", release)[0]
    had = offered.versions(name)
    fitting = [full for full in had if _cudnn_rule(ground, upstream(full)) is None]
    pin = build.cudnn if build else None
    full = _pick("cudnn", name, wish, pin, had, fitting, offered)
    version = upstream(full)
    if rule := _cudnn_rule(ground, version):
        raise rule
    _said("cudnn", wish, pin, version, build, ground, reasons, warnings)
    return packaged(ground, "cudnn", release, version, {name: full})


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


def choose_nccl(
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
    name = names_of(ground, "nccl", release)[0]
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
    return packaged(ground, "nccl", release, version, {name: full})


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
