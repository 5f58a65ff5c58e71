"""One component at exact versions: what CUDA, cuDNN and NCCL have in common, and what those have
that run as a service of the driver's own version (fabric manager, IMEX)."""

from deploy.facts import NodeFacts
from deploy.idle import MUST_BE_IDLE
from deploy.known import known
from deploy.packages import Difference, difference, locked, names_like
from deploy.stack import Component
from deploy.steps import Step, Wanted
from deploy.transact import transaction


def packages_step(
    layer: str, name: str, wanted: Wanted, component: Component, facts: NodeFacts, family: str
) -> list[Step]:
    """The step that installs a component's packages, or nothing when all are as locked.

    `family` matches other packages of the component that may have to leave: the library for
    another CUDA major, metapackages that would pull the newest. Replacing a library under a
    running program breaks what it has not opened yet, so that is disruptive; adding one is not.
    """
    packages = known(facts, "packages", facts.packages)
    lacks = difference(component.packages, packages)
    if not lacks:
        return []
    mine = locked(wanted.stack)
    others = [n for n in names_like(packages, family) if n not in mine] if family else []
    return [
        Step(
            layer=layer,
            title=f"{name} {component.version} is installed",
            why=lacks.why,
            commands=(
                transaction(
                    wanted.stack,
                    component.packages,
                    lacks,
                    may_go=others,
                    held=[other for other in others if packages[other].held],
                ),
            ),
            disruptive=lacks.replaces or bool(others),
            download=lacks.download,
        )
    ]


def service_step(
    layer: str,
    name: str,
    unit: str,
    wanted: Wanted,
    component: Component,
    lacks: Difference,
    facts: NodeFacts,
    *,
    family: str,
) -> Step:
    """The step that installs the packages of `unit`, which `lacks` says are not as locked.

    Where files are replaced the unit is stopped first, on an idle host only: one that was cut off
    in between is then found stopped, and one that runs is known to be of the installed version.
    `family` matches every name that the package has had: another one holds the same files, so it
    leaves in the same transaction.
    """
    packages, mine = known(facts, "packages", facts.packages), locked(wanted.stack)
    others = [other for other in names_like(packages, family) if other not in mine]
    replaces = lacks.replaces or bool(others)
    stop = MUST_BE_IDLE + f"if systemctl is-active -q {unit}; then systemctl stop {unit}; fi\n"
    return Step(
        layer=layer,
        title=f"{name} {component.version} is installed",
        why="; ".join([lacks.why, *(f"{other} goes" for other in others)]),
        commands=(
            transaction(
                wanted.stack,
                component.packages,
                lacks,
                remove=others,
                held=[other for other in others if packages[other].held],
                before=stop if replaces else "",
            ),
        ),
        disruptive=replaces,
        download=lacks.download,
    )
