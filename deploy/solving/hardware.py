"""What boards allow: driver branches, kernel-module flavours, modules built on the host."""

import re

from deploy.catalog.models import Catalogue, numbers
from deploy.facts import Flavour
from deploy.fleet.spec import NodeSpec
from deploy.solving.refusal import Refused, listed
from deploy.solving.situation import Situation

CLOSED_AND_OLD_BUILD = ('driver_modules = "closed"', 'torch_build = "cu126"')
"""What a host must say to be given closed modules for boards that want open ones."""


def limits(seen: Situation, catalogue: Catalogue) -> list[tuple[int, int, str]]:
    """First and last branch by architecture, with the words for it."""
    found = []
    for kind in seen.kinds(catalogue):
        boards = listed(sorted({gpu.name for gpu in seen.gpus if gpu.architecture == kind.name}))
        if kind.driver_max is not None:
            words = f"{boards} ({kind.name}) is supported up to branch {kind.driver_max}"
            found.append((kind.driver_min, kind.driver_max, words))
        elif kind.driver_min:
            words = f"{boards} ({kind.name}) is supported from branch {kind.driver_min} on"
            found.append((kind.driver_min, 10_000, words))
    return found


def flavours(seen: Situation, catalogue: Catalogue) -> list[Flavour]:
    """Flavours that every board here works with, the preferred one first."""
    kinds = seen.kinds(catalogue)
    return [
        flavour for flavour in kinds[0].modules if all(flavour in kind.modules for kind in kinds)
    ]


def choose_flavour(spec: NodeSpec, seen: Situation, catalogue: Catalogue) -> Flavour:
    """The kernel-module flavour for these boards and this wish. Raises Refused."""
    kinds = seen.kinds(catalogue)
    source = catalogue.source("gpus", kinds[0].source)
    common = flavours(seen, catalogue)
    told = listed([f"{kind.name}: {' or '.join(kind.modules)}" for kind in kinds])
    if not common:
        raise Refused(
            "no-common-driver",
            f"{seen.boards} in one host: no kernel modules serve all of them ({told})",
            source=source,
            unblock=("put the boards into separate hosts",),
        )
    if spec.driver_modules:
        if spec.driver_modules not in common:
            raise Refused(
                "modules",
                f"{spec.driver_modules} modules do not work with {seen.boards} ({told})",
                source=source,
                unblock=(f'driver_modules = "{common[0]}"',),
            )
        if spec.driver_modules == "closed" and len({kind.modules for kind in kinds}) > 1:
            _deliberate(spec, seen, source)
        return spec.driver_modules
    if len({kind.modules[0] for kind in kinds}) > 1:
        _deliberate(spec, seen, source)
    return common[0]


def _deliberate(spec: NodeSpec, seen: Situation, source: str) -> None:
    """Boards that want different modules share a host only when the inventory says so fully."""
    if spec.driver_modules == "closed" and spec.torch_build != "auto":
        return
    raise Refused(
        "mixed-hardware",
        f"{seen.boards} in one host: the older ones work with closed modules only, the newer ones "
        "want open ones, and one build of torch must hold code for all",
        source=source,
        unblock=(
            " and ".join(CLOSED_AND_OLD_BUILD)
            + ": closed modules of branch 580 and torch's cu126 build serve all of them",
            "put the boards into separate hosts",
        ),
    )


def check_branch(
    branch: int,
    flavour: Flavour,
    served: list[tuple[int, int, str]],
    seen: Situation,
    catalogue: Catalogue,
    prebuilt: str = "",
) -> None:
    """Raises Refused when a branch in this flavour cannot run on the host. `prebuilt` names signed
    modules that come built for the host's kernels, "" when DKMS builds them there."""
    for low, high, words in served:
        if not low <= branch <= high:
            raise Refused(
                "driver-hardware",
                f"driver branch {branch} does not serve {seen.boards}: {words}",
                source=catalogue.source("gpus", "modules"),
            )
    last = catalogue.closed_last
    if flavour == "closed" and branch > last.branch:
        raise Refused(
            "modules",
            f"branch {branch} has no closed modules (the last with them is {last.branch})",
            source=catalogue.source("drivers", last.source),
        )
    if not prebuilt:
        _refuse_kernel(branch, seen, catalogue)
        refuse_secure_boot(seen)


def _refuse_kernel(branch: int, seen: Situation, catalogue: Catalogue) -> None:
    row = catalogue.branch.get(branch)
    if row is None or not row.kernel_fails:
        return
    if not seen.kernels:
        raise Refused(
            "unknown-facts",
            f"driver branch {branch} does not build for kernels from {row.kernel_fails} on, and "
            "which kernels this host boots could not be read",
            source="unknown never means fine",
        )
    for kernel in seen.kernels:
        release = re.match(r"\d+\.\d+", kernel)
        if release and numbers(release[0]) >= numbers(row.kernel_fails):
            raise Refused(
                "kernel",
                f"driver branch {branch} does not build for kernel {kernel}: it is known to fail "
                f"from {row.kernel_fails} on",
                source=catalogue.source("drivers", row.source),
            )


def refuse_secure_boot(seen: Situation) -> None:
    """Raises Refused where the kernel would not load a module that is built on the host."""
    if seen.secure_boot in ("disabled", "no-efi"):
        return
    if seen.secure_boot == "enabled":
        raise Refused(
            "secure-boot",
            "Secure Boot is enabled, and modules that DKMS builds are not signed with a key that "
            "the firmware trusts: the kernel would refuse them",
            source="research: provisioning 2.12, Secure Boot",
            unblock=(
                "disable Secure Boot in the firmware",
                "enrol a key on the console, install the driver by hand; it is then kept",
            ),
        )
    raise Refused(
        "unknown-facts",
        f"whether Secure Boot would refuse unsigned modules is not known ({seen.secure_boot})",
        source="unknown never means fine",
    )
