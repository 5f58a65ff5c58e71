"""What verification will expect of this host, written where it can be read without us.

It is the last layer: when it is in place, every other one was. The stack is kept beside it as the
last good one, and the one before as what a rollback returns to.
"""

import json
from typing import Any

from deploy.apt import set_holds
from deploy.facts import NodeFacts
from deploy.fleet.places import Places, places
from deploy.known import known
from deploy.layers.files import in_place, write_file
from deploy.lock import expected_state
from deploy.record import GPUS, HELD, NVSWITCHES, PREVIOUS_STACK, STACK, put, recorder
from deploy.shell import assign, script
from deploy.steps import Command, Step, Wanted

NAME = "expected"

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
    """The expected state with the hardware that this host has shown, as JSON on the host."""
    return expected_state(
        wanted.host,
        wanted.spec,
        wanted.stack,
        gpus=expected_gpus(wanted, facts),
        nvswitches=max(seen_nvswitches(facts), _recorded_count(facts, NVSWITCHES)),
    )


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
