"""One package transaction of a layer, in the words of the host's package system."""

from collections.abc import Iterable

from deploy import apt, dnf
from deploy.packages import Difference
from deploy.stack import Packages, Packaging, Stack
from deploy.steps import Command

SPOKEN: tuple[Packaging, ...] = ("apt", "dnf")
"""Package systems that there are transactions for."""


def transaction(
    stack: Stack,
    pins: Packages,
    lacks: Difference,
    *,
    remove: Iterable[str] = (),
    may_go: Iterable[str] = (),
    may_be: str = "",
    also: Iterable[str] = (),
    held: Iterable[str] = (),
    conffiles: str = "confold",
    before: str = "",
    timeout_s: int = 3600,
    log: str = "",
) -> Command:
    """One transaction that puts `pins` at their exact versions, refused on the host when it would
    do more to GPU packages than the plan says, and safe to run again after any interruption.

    `remove` leaves in the same transaction. `may_go` are packages outside the lock that may be
    removed, or brought to upstream version `may_be`. `also` come along at whatever version fits.
    `held` are holds on those that may go. `conffiles` names dpkg's rule for files that an operator
    edited; rpm has none to choose. `before` runs when everything is downloaded, right before the
    change.
    """
    if stack.packaging == "apt":
        return apt.transaction(
            stack,
            pins,
            lacks,
            remove=remove,
            may_go=may_go,
            may_be=may_be,
            also=also,
            held=held,
            conffiles=conffiles,
            before=before,
            timeout_s=timeout_s,
            log=log,
        )
    if stack.packaging == "dnf":
        # Locks of versionlock do not stand in its way, so there is none to take off.
        return dnf.transaction(
            stack,
            pins,
            remove=remove,
            may_go=may_go,
            may_be=may_be,
            also=also,
            before=before,
            timeout_s=timeout_s,
            log=log,
        )
    raise ValueError(f"no transactions for {stack.packaging}: the plan blocks such a host")
