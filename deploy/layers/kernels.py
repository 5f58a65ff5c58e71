"""Which kernels the driver's module must exist for, and what their headers are called."""

from deploy.catalog import load
from deploy.facts import NodeFacts
from deploy.known import known


def header_packages(distribution: str, release: str) -> tuple[str, ...]:
    """Packages with a kernel's headers, as the distribution (its catalogue name) calls them."""
    row = load().named(distribution)
    names = row.base.headers_of(release)
    if row.kind == "apt":  # Debian's package names have no capitals or underscores
        names = tuple(name.lower().replace("_", "-") for name in names)
    return names


def wanted_kernels(facts: NodeFacts) -> list[str]:
    """The running kernel and the one of the next boot.

    Without the running one when its headers are neither here nor offered any more while those of
    the next are: mirrors drop a kernel's headers soon after an update, and then the next boot is
    what brings the driver. dnf may have fetched nothing yet, which tells nothing.
    """
    kernel = known(facts, "kernel", facts.kernel)
    if kernel.next == kernel.running:
        return [kernel.running]
    if facts.candidates is None and facts.packaging != "apt":
        return [kernel.running, kernel.next]
    offered = known(facts, "candidates", facts.candidates)
    there = {name for name, found in offered.items() if found.candidate}

    def obtainable(release: str) -> bool:
        return release in kernel.headers or not there.isdisjoint(_header_names(release))

    if not obtainable(kernel.running) and obtainable(kernel.next):
        return [kernel.next]
    return [kernel.running, kernel.next]


def _header_names(release: str) -> set[str]:
    """Names that the probe asks the package system about, whichever it is."""
    rpm = {f"{name}-devel-{release}" for name in ("kernel", "kernel-uek")}
    return {f"linux-headers-{release.lower().replace('_', '-')}", *rpm}
