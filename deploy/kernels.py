"""Which kernels the driver's module must exist for."""

from deploy.facts import Candidate, NodeFacts
from deploy.known import known


def headers_package(release: str) -> str:
    """Debian's package of a kernel's headers; package names have no capitals or underscores."""
    return f"linux-headers-{release.lower().replace('_', '-')}"


def wanted_kernels(facts: NodeFacts) -> list[str]:
    """The running kernel and the one of the next boot.

    Without the running one when its headers are neither here nor offered any more while those of
    the next are: mirrors drop a kernel's headers soon after an update, and then the next boot is
    what brings the driver.
    """
    kernel = known(facts, "kernel", facts.kernel)
    if kernel.next == kernel.running:
        return [kernel.running]
    offered = known(facts, "candidates", facts.candidates)

    def obtainable(release: str) -> bool:
        none = Candidate(candidate="", origins=(), pin="")
        there = offered.get(headers_package(release), none).candidate
        return release in kernel.headers or bool(there)

    if not obtainable(kernel.running) and obtainable(kernel.next):
        return [kernel.next]
    return [kernel.running, kernel.next]
