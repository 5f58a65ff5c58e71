"""DCGM 4 at exact versions, and its service; version 3 leaves for it.

Both versions have the same programs and the same unit, so the old package cannot stay beside the
new ones (DCGM user guide, "Installation": it is purged first; research: provisioning 2.9). The
wish for DCGM is the consent; the plan names what goes.
"""

from deploy.facts import NodeFacts
from deploy.known import known
from deploy.layers.services import running_step
from deploy.packages import difference, locked, names_like
from deploy.steps import Step, Wanted
from deploy.transact import transaction

NAME = "dcgm"
UNIT = "nvidia-dcgm"
VERSION_3 = r"datacenter-gpu-manager"
FAMILY = r"datacenter-gpu-manager-4-.+"
"""Parts for other CUDA majors tie themselves to the core at its exact version."""

_STOP = f"if systemctl is-active -q {UNIT}; then systemctl stop {UNIT}; fi\n"


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """Packages, then the service, which is stopped before its package changes: one that runs is
    known to be of the installed version. Without a driver of ours the service is nobody's."""
    dcgm, driver = wanted.stack.dcgm, wanted.stack.driver
    if dcgm is None:
        return []
    packages = known(facts, "packages", facts.packages)
    lacks, old = difference(dcgm.packages, packages), names_like(packages, VERSION_3)
    if not lacks and not old:
        return running_step(NAME, UNIT, facts, driver) if driver else []
    mine = locked(wanted.stack)
    others = [name for name in names_like(packages, FAMILY) if name not in mine]
    goes = [f"{name} {packages[name].version} (DCGM 3) goes" for name in old]
    package = Step(
        layer=NAME,
        title=f"DCGM {dcgm.version} is installed",
        why="; ".join([lacks.why] * bool(lacks) + goes),
        commands=(
            transaction(
                wanted.stack,
                dcgm.packages,
                lacks,
                remove=old,
                may_go=others,
                held=[name for name in (*old, *others) if packages[name].held],
                before=_STOP,
            ),
        ),
        # What links with its library may open more of it.
        disruptive=lacks.replaces or bool(old),
        download=lacks.download,
    )
    return [package, *(running_step(NAME, UNIT, facts, driver, will_stop=True) if driver else [])]
