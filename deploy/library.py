"""One component of vendor libraries at exact versions: what CUDA, cuDNN and NCCL have in common."""

from deploy.facts import NodeFacts
from deploy.known import known
from deploy.packages import difference, locked, names_like
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
