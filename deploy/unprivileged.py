"""What a host without root for us must have already: checked, and named with the remedy.

With `privileged = False` nothing is installed for the whole machine; an administrator has done
it, or is told what to run.
"""

from deploy.facts import NodeFacts
from deploy.layers.prerequisites import prerequisites
from deploy.stack import Blocked
from deploy.steps import Step, Wanted

NEEDED = ("python3", "python3-venv")
"""Without these there is no environment; the rest of os-base's list serves torch.compile."""


def lacking(wanted: Wanted, facts: NodeFacts, steps: list[Step]) -> Blocked | None:
    """Blocked when an environment is to be built that cannot be without root's help."""
    if wanted.spec.privileged or not steps:
        return None
    missing = {name: why for name, why in prerequisites(wanted, facts).items() if name in NEEDED}
    if not missing:
        return None
    return Blocked(
        host=wanted.host,
        reason=f"not installed: {'; '.join(f'{name} ({why})' for name, why in missing.items())}",
        rule="nothing is installed for the whole machine, the inventory says privileged = False",
        source="inventory key privileged",
        unblock=(f"ask an administrator of {wanted.host} for: {_install(wanted, missing)}",),
    )


def warnings(wanted: Wanted, facts: NodeFacts) -> list[str]:
    """What works without, but not in full."""
    if wanted.spec.privileged:
        return []
    missing = {
        name: why for name, why in prerequisites(wanted, facts).items() if name not in NEEDED
    }
    found = []
    if missing:
        whys = "; ".join(dict.fromkeys(missing.values()))
        found.append(
            f"{whys}: everything else works; an administrator would {_install(wanted, missing)}"
        )
    return found


def _install(wanted: Wanted, missing: dict[str, str]) -> str:
    tool = {"apt": "apt-get"}.get(wanted.stack.packaging, wanted.stack.packaging)
    return f"sudo {tool} install {' '.join(sorted(missing))}"
