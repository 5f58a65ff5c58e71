"""pyinfra's own command over `@fake` hosts that answer as hosts would, everything recorded.

Run as `python -m tests.golden.play FOLDER`: FOLDER holds golden.py, golden.lock and hosts.json
(name -> facts as a text of JSON); played.json is written there. Exchanged are the random word that
frames answers, and the one thing that `@fake` cannot do: hold a command open, which the lock on a
host needs. What a host answers comes from `fake_responses`, pyinfra's own way to script it, set
before each command from the model of the host.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

NONCE = "gpufleet-00112233aabbccdd"
SITE = Path(__file__).parents[2] / "deploy/site.py"
_BEFORE, _AFTER = "\n' gpufleet ", " </dev/null >/dev/null 2>&1 &\nsupervisor="


def step_command(executed: str) -> tuple[dict[str, str], str] | None:
    """What the engine's supervisor was told to run, and for which step; None for other commands."""
    from tests.golden.scripts import unquoted

    _, found, rest = executed.partition(_BEFORE)
    if not found:
        return None
    entry, _, shell = rest.partition(_AFTER)[0].partition(' "$limit" ')
    return json.loads(unquoted(entry) + "}"), unquoted(shell)


class Fleet:
    """Every host's model, and what was done with it."""

    def __init__(self, facts: dict[str, str]) -> None:
        from deploy.facts import NodeFacts
        from tests.golden.machine import machine

        self.machines = {
            name: machine(NodeFacts.model_validate_json(one)) for name, one in facts.items()
        }
        self.plans: dict[str, Any] = {}
        self.executed: dict[str, list[dict[str, str]]] = {name: [] for name in facts}
        self.outcomes: dict[str, Any] = {}
        self.faults: list[str] = []
        """Of the model itself: commands that it does not know."""

    def answers(self, name: str) -> dict[str, Any]:
        from tests.probe_text import probe_text

        return {"sh -s": probe_text(self.machines[name].facts, NONCE)}

    def ran(self, name: str, executed: str, stdin: str) -> dict[str, Any] | None:
        """Note a step's command and play it; what the host says when it refuses, else None."""
        from tests.golden.host import Refused

        found = step_command(executed)
        if found is None:
            return None
        about, shell = found
        self.executed[name].append(
            {"layer": about["layer"], "title": about["title"], "shell": shell, "stdin": stdin}
        )
        try:
            self.machines[name].run(shell, stdin)
        except Refused as refused:
            return {"success": False, "stdout": str(refused)}
        except (AssertionError, LookupError, ValueError) as error:
            self.faults.append(f"{name}: {about['title']}: {type(error).__name__}: {error}")
            return {"success": False, "stdout": str(error)}
        return None


class Held:
    """The lock on a host that `@fake` cannot hold."""

    first_line, trouble = "held", ""

    def alive(self) -> bool:
        return True

    def close(self) -> None:
        pass


def install(fleet: Fleet) -> None:
    """Exchange what must be, and listen to the rest."""
    from pyinfra.api import connectors
    from pyinfra.connectors.fake import FakeConnector

    import deploy.native
    import deploy.survey
    from deploy.fleet.transport import Connection

    run, make_plans, tell = (
        FakeConnector.run_shell_command,
        deploy.native.make_plans,
        deploy.native._tell,
    )

    def run_shell_command(self: Any, command: Any, *given: Any, **named: Any) -> Any:
        name, text = str(self.host.name), str(command)
        said = fleet.ran(name, text, named.get("_stdin", ""))
        self.data["fake_responses"] = {"": said} if said else fleet.answers(name)
        return run(self, command, *given, **named)

    def planned(*given: Any) -> Any:
        plans = make_plans(*given)
        fleet.plans |= {name: plan.model_dump(mode="json") for name, plan in plans.items()}
        return plans

    def told(host: Any, outcome: Any) -> None:
        fleet.outcomes[str(host.name)] = outcome.model_dump(mode="json")
        tell(host, outcome)

    # pyinfra reads the list of its connectors anew for every host.
    connectors.get_all_connectors = cache(connectors.get_all_connectors)  # type: ignore[assignment]
    FakeConnector.run_shell_command = run_shell_command  # type: ignore[method-assign]
    Connection.hold = lambda *_given, **_named: Held()  # type: ignore[method-assign, assignment, return-value]
    deploy.survey.new_nonce = lambda: NONCE
    deploy.native.make_plans = planned
    deploy.native._tell = told


def main() -> None:
    from pyinfra_cli.main import main as pyinfra  # first of all: its package patches for gevent

    folder = Path(sys.argv[1])
    fleet = Fleet(json.loads((folder / "hosts.json").read_text()))
    install(fleet)
    sys.argv[1:] = ["-y", "golden.py", str(SITE)]
    try:
        pyinfra()
    finally:
        played = {
            name: {
                "plan": fleet.plans.get(name),
                "executed": fleet.executed[name],
                "outcome": fleet.outcomes.get(name),
                "after": machine.facts.model_dump_json(),
            }
            for name, machine in fleet.machines.items()
        }
        written = {"hosts": played, "faults": fleet.faults}
        (folder / "played.json").write_text(json.dumps(written))


if __name__ == "__main__":
    main()
