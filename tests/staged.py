"""A tiny stack for tests of the engine: three layers as files, a module that a reboot loads.

`probe`, `plan_host` and `reboot_due` here stand in for the real ones, so that tests of converge
fail for what converge does. The commands themselves are real shell on a `LocalHost`.
"""

from typing import Any

from deploy.facts import NodeFacts
from deploy.fleet.spec import NodeSpec
from deploy.plan import HostPlan
from deploy.stack import Blocked, Stack
from deploy.steps import Command, Reboot, Step, Wanted
from deploy.survey import BadProbe

PARTS = "/opt/gpufleet/parts"
STACK = Stack(
    distribution="debian12",
    arch="x86_64",
    repository=None,
    driver=None,
    fabric=None,
    cuda=None,
    cudnn=None,
    nccl=None,
    environment=None,
)
_UNKNOWN: dict[str, Any] = {
    name: None
    for name in NodeFacts.model_fields
    if name not in {"host", "version", "root", "unknown"}
}


def wanted(host: str = "local1") -> Wanted:
    return Wanted(host=host, spec=NodeSpec(), stack=STACK)


def facts(host: str = "local1", **known: Any) -> NodeFacts:
    return NodeFacts(**{**_UNKNOWN, "host": host, "root": True, "unknown": {}, **known})


def probe(connection: Any, spec: NodeSpec, timeout_s: float = 25) -> NodeFacts:
    """Parts that exist and their content, as facts.state; the real boot_id."""
    result = connection.run(
        f"cat /proc/sys/kernel/random/boot_id; mkdir -p {PARTS}; cd {PARTS}; grep -sH . * || :",
        timeout_s=timeout_s,
    )
    if not result.ok:
        raise BadProbe(connection.host, result.trouble or result.err)
    boot_id, *lines = result.out.splitlines()
    state = dict(line.split(":", 1) for line in lines)
    return facts(connection.host, boot_id=boot_id, state=state)


def part(layer: str, shell: str, **more: Any) -> Step:
    """A step that makes a part, once its shell has succeeded. Running twice at once shows."""
    guarded = (
        f"mkdir {PARTS}.running || {{ touch {PARTS}.overlap; exit 9; }}\n"
        f"( {shell} ); rc=$?; rmdir {PARTS}.running; [ $rc = 0 ] && echo 1 >{PARTS}/{layer}\n"
        "exit $rc"
    )
    command = Command(shell=guarded, timeout_s=20, log=more.pop("log", ""))
    return Step(
        layer=layer, title=f"{layer} is there", why=f"no {layer}", commands=(command,), **more
    )


STEPS = {
    "base": part("base", "echo unpacking; echo done"),
    "driver": part("driver", "echo building", disruptive=True),
    "env": part("env", "echo resolving"),
}


def reboot_due(wanted: Wanted, facts: NodeFacts) -> Reboot | None:
    """The module on disk is not the loaded one."""
    assert facts.state is not None
    if "driver" in facts.state and "loaded" not in facts.state:
        return Reboot(why="the loaded module is not the installed one", expected=False)
    return None


def plan_host(wanted: Wanted, facts: NodeFacts) -> HostPlan:
    assert facts.state is not None
    steps = [step for layer, step in STEPS.items() if layer not in facts.state]
    due = reboot_due(wanted, facts)
    if due is None and "driver" not in facts.state:
        due = Reboot(why="a new driver", expected=True)
    if "loaded" in facts.state and "service" not in facts.state:
        steps.append(part("service", "echo starting"))
    owner = facts.state.get("foreign")
    return HostPlan(
        host=wanted.host,
        steps=tuple(steps),
        reboot=due,
        busy=tuple(filter(None, [facts.state.get("busy")])),
        blocked=owner and Blocked(host=wanted.host, reason=owner, rule="r", source="s", unblock=()),
        warnings=(),
        download=0,
    )
