"""Fabric manager, at the driver's exact version, on hosts with NVSwitches.

Without it CUDA fails with error 802 there; its package depends on no driver, so nothing but the
lock keeps the two together (research: provisioning 2.6, 2.8 and 4, rows 1 to 4).
"""

from deploy import apt
from deploy.facts import NodeFacts
from deploy.idle import MUST_BE_IDLE
from deploy.known import known
from deploy.packages import difference
from deploy.services import running_step
from deploy.steps import Step, Wanted

NAME = "fabric"
UNIT = "nvidia-fabricmanager"


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """Package, then service; it is stopped before its package changes, so that one which was cut
    off in between is found stopped, and one that runs is known to be of the installed version."""
    fabric, driver = wanted.stack.fabric, wanted.stack.driver
    if fabric is None or driver is None:
        return []
    lacks = difference(fabric.packages, known(facts, "packages", facts.packages))
    if not lacks:
        return running_step(NAME, UNIT, facts, driver)
    stop = MUST_BE_IDLE + f"if systemctl is-active -q {UNIT}; then systemctl stop {UNIT}; fi\n"
    package = Step(
        layer=NAME,
        title=f"fabric manager {fabric.version} is installed",
        why=lacks.why,
        commands=(
            apt.transaction(
                wanted.stack, fabric.packages, lacks, before=stop if lacks.replaces else ""
            ),
        ),
        disruptive=lacks.replaces,
        download=lacks.download,
    )
    return [package, *running_step(NAME, UNIT, facts, driver, will_stop=True)]
