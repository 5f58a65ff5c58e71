"""What verification will expect of this host, written where it can be read without us.

It is the last layer: when it is in place, every other one was. The stack is kept beside it as the
last good one, and the one before as what a rollback returns to.
"""

import json
from typing import Any

from deploy.apt import set_holds
from deploy.fabric import UNIT as FABRIC
from deploy.facts import NodeFacts
from deploy.files import in_place, write_file
from deploy.fleet.places import Places, places
from deploy.known import known
from deploy.packages import locked
from deploy.persistence import UNIT as PERSISTENCE
from deploy.record import GPUS, HELD, NVSWITCHES, PREVIOUS_STACK, STACK, put, recorder
from deploy.shell import assign, script
from deploy.steps import Command, Step, Wanted
from deploy.torch_env import versions

NAME = "expected"
VERSION = 1
"""Of the document's form; verification refuses one that it does not know."""

_FORGET = """\
for file in "$stacks"/*.json; do
    case "$file" in */"$current".json | */"$before".json) ;; *) rm -f -- "$file" ;; esac
done
"""


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """Debts of interrupted runs settled, expected state written, stack recorded as reached."""
    return [*_owed_holds(facts), *_recorded(wanted, facts)]


def seen_gpus(facts: NodeFacts) -> int:
    """NVIDIA GPUs on the PCI bus now, those included that no longer answer."""
    return sum(device.pci_class.startswith("03") for device in known(facts, "pci", facts.pci))


def seen_nvswitches(facts: NodeFacts) -> int:
    """NVSwitches on the PCI bus now."""
    return sum(device.pci_class.startswith("0680") for device in known(facts, "pci", facts.pci))


def expected_gpus(wanted: Wanted, facts: NodeFacts) -> int:
    """What the spec says; else the most that any run has seen here, so that a GPU which falls off
    the bus never becomes the new normal."""
    if wanted.spec.gpus is not None:
        return wanted.spec.gpus
    return max(seen_gpus(facts), _recorded_count(facts, GPUS))


def _recorded_count(facts: NodeFacts, key: str) -> int:
    text = known(facts, "state", facts.state).get(key, "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0


def document(wanted: Wanted, facts: NodeFacts) -> dict[str, Any]:
    """The expected state, as JSON on the host: no times in it, equal for equal stacks and
    hardware."""
    stack, environment = wanted.stack, wanted.stack.environment
    driver = stack.driver
    services = [PERSISTENCE] if driver else []
    services += [FABRIC] if driver and stack.fabric else []
    return {
        "version": VERSION,
        "host": wanted.host,
        "stack": stack.id,
        "gpus": expected_gpus(wanted, facts),
        "nvswitches": max(seen_nvswitches(facts), _recorded_count(facts, NVSWITCHES)),
        "driver": {
            "branch": driver.branch,
            "version": driver.version,
            "flavour": driver.flavour,
        }
        if driver
        else None,
        "fabric": stack.fabric.version if stack.fabric else None,
        "cuda": stack.cuda.version if stack.cuda else None,
        "cudnn": stack.cudnn.version if stack.cudnn else None,
        "nccl": stack.nccl.version if stack.nccl else None,
        "packages": {name: pin.version for name, pin in sorted(locked(stack).items())},
        "services": services,
        "prefix": wanted.spec.prefix,
        "library_path": wanted.spec.library_path,
        "environment": {
            "id": environment.id,
            "path": f"{wanted.spec.prefix}/envs/{environment.id}",
            "python": environment.python,
            "torch": environment.torch,
            "build": environment.build,
            "wheels": versions(environment),
        }
        if environment
        else None,
    }


def _recorded(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    state, where = known(facts, "state", facts.state), places(wanted.spec)
    found = document(wanted, facts)
    content = json.dumps(found, indent=1, sort_keys=True) + "\n"
    current = state.get(STACK, "")
    record = {
        STACK: wanted.stack.id,
        GPUS: str(found["gpus"]),
        NVSWITCHES: str(found["nvswitches"]),
    }
    if current and current != wanted.stack.id:
        record[PREVIOUS_STACK] = current
    if in_place(facts, where.expected, content) and record.items() <= state.items():
        return []
    before = record.get(PREVIOUS_STACK, state.get(PREVIOUS_STACK, ""))
    stack_text = wanted.stack.model_dump_json(indent=1) + "\n"
    stacks = f"{where.record}/stacks"
    values = assign(stacks=stacks, current=wanted.stack.id, before=before)
    return [
        Step(
            layer=NAME,
            title=f"stack {wanted.stack.id} is recorded as this host's expected state",
            why=_why(current, wanted, where),
            commands=(
                write_file(f"{stacks}/{wanted.stack.id}.json", stack_text),
                write_file(where.expected, content),
                Command(shell=put(record, where), timeout_s=60),
                Command(shell=script(values, _FORGET), timeout_s=60),
            ),
        )
    ]


def _why(current: str, wanted: Wanted, where: Places) -> str:
    if not current:
        return "none is recorded"
    if current != wanted.stack.id:
        return f"recorded is {current}"
    return f"{where.expected} differs"


def _owed_holds(facts: NodeFacts) -> list[Step]:
    """Holds that a run which was cut off had taken off."""
    names = known(facts, "state", facts.state).get(HELD, "").split()
    if not names:
        return []
    packages = known(facts, "packages", facts.packages)
    present = [name for name in names if name in packages]
    settle = set_holds(present) if present else ""
    return [
        Step(
            layer=NAME,
            title=f"{', '.join(names)} on hold again",
            why="a run that was cut off had taken the hold off",
            commands=(
                Command(shell=script(recorder(), settle, f"record {HELD} ''"), timeout_s=60),
            ),
        )
    ]
