"""Our own record on a host: flat `key=value` lines in `Places.state`.

The probe reads it into `facts.state`. It holds what no other fact can say: which stack was
reached last, how many GPUs the host had, and what an interrupted step still owes the host.
"""

import re

from deploy.fleet.places import SYSTEM, Places
from deploy.shell import assign, script

_RECORD = """\
recorded() {
    sed -n "s/^$1=//p" "$record_state" 2>/dev/null || :
}
record() {
    mkdir -p -m 755 "${record_state%/*}"
    record_new=$(mktemp "${record_state%/*}/.state.XXXXXX")
    { grep -v "^$1=" "$record_state" 2>/dev/null || :; } >"$record_new"
    [ -z "$2" ] || printf '%s=%s\\n' "$1" "$2" >>"$record_new"
    LC_ALL=C sort -o "$record_new" "$record_new"
    chmod 644 "$record_new"
    sync "$record_new"
    mv -fT "$record_new" "$record_state"
}
"""

HELD = "owed_hold"
"""Packages whose hold a step took off and had not set again when it was cut off."""
STOPPED = "owed_start"
"""Services that a step stopped and had not started again when it was cut off."""
STACK = "stack"
"""Id of the stack that the host reached last."""
PREVIOUS_STACK = "stack_previous"
"""Id of the one before: what a rollback returns to."""
PREVIOUS_ENVIRONMENT = "environment_previous"
"""Id of the environment that was current before this one; kept for a rollback."""
GPUS = "gpus"
"""Most GPUs that any run has seen here: a GPU that leaves the bus must not become normal."""
NVSWITCHES = "nvswitches"
"""Most NVSwitches, likewise."""


def recorder(where: Places = SYSTEM) -> str:
    """Shell text that defines `recorded KEY` and `record KEY VALUE`, which sets one key, or drops
    it when VALUE is empty.

    Call it from one command at a time: the apply engine holds a lock on the host.
    """
    return assign(record_state=where.state) + _RECORD


def put(values: dict[str, str], where: Places) -> str:
    """A script that records some values."""
    lines = []
    for key, value in values.items():
        if not re.fullmatch(r"[a-z_]+", key) or "\n" in value:
            raise AssertionError(f"{key} is no record line")
        lines.append(assign(value=value) + f'record {key} "$value"')
    return script(recorder(where), *lines)
