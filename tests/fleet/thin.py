"""The thinnest engine there is: probe, steps, run them in order, probe again. For tests of layers.

No locks, no waves, no reboots: what is left after one round is for the test to judge.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from deploy.catalog import load
from deploy.environment import Resolver
from deploy.facts import NodeFacts
from deploy.fleet.inventory import Host
from deploy.fleet.spec import NodeSpec
from deploy.fleet.transport import Connection, connect
from deploy.plan import HostPlan, plan_host
from deploy.solve import EnvironmentWish, choose, complete
from deploy.solving.offers import Available
from deploy.stack import Repository, TorchEnvironment
from deploy.steps import Step, Wanted
from deploy.survey import probe
from tests import factory
from tests.fleet.live import LiveFleet


@dataclass
class Ran:
    """One step as it was carried out."""

    step: Step
    rc: int | None
    said: str


@dataclass
class Node:
    """A node of the simulated fleet, with what it shall be."""

    live: LiveFleet
    name: str
    spec: NodeSpec
    connection: Connection
    wanted: Wanted | None = None

    def facts(self) -> NodeFacts:
        return probe(self.connection, self.spec)

    def want(self, **spec: Any) -> Wanted:
        """Solve this node as it is now for a wish; the wish counts from now on."""
        base = {
            "vendor_repository": self.live.vendor_url,
            "vendor_key_fingerprint": self.live.vendor_key_fingerprint,
            "torch": "none",
        }
        self.spec = NodeSpec(**{**base, **spec})
        repository = Repository(
            kind="apt",
            url=self.live.vendor_url,
            key_fingerprint=self.live.vendor_key_fingerprint,
            key=self.live.vendor_key_file.read_text(),
        )
        if self.spec.torch != "none" and self.spec.torch_index is None:
            build = self.spec.torch_build
            index = f"{self.live.document['wheels_by_build_url']}/{build}"
            self.spec = NodeSpec(**{**base, **spec, "torch_index": index})
        answer = choose(
            self.spec,
            self.facts(),
            load(),
            Available(repository, factory.offers()),
            factory.TODAY,
        )
        solution = answer.solution
        if answer.environment is not None:
            solution = complete(answer, resolved(answer.environment))
        assert solution.stack is not None, solution.blocked
        self.wanted = Wanted(host=self.name, spec=self.spec, stack=solution.stack)
        return self.wanted

    def plan(self) -> HostPlan:
        assert self.wanted is not None
        return plan_host(self.wanted, self.facts())

    def titles(self) -> list[str]:
        plan = self.plan()
        assert plan.blocked is None, plan.blocked
        return [f"{step.layer}: {step.title}" for step in plan.steps]

    def run(self, steps: Iterable[Step]) -> list[Ran]:
        """Carry steps out, up to the first that fails."""
        done = []
        for step in steps:
            ran = self._run(step)
            done.append(ran)
            if ran.rc != 0:
                break
        return done

    def _run(self, step: Step) -> Ran:
        said = ""
        for command in step.commands:
            result = self.connection.run(
                command.shell, stdin=command.stdin, timeout_s=command.timeout_s, root=True
            )
            said += result.out + result.err + result.trouble
            if not result.ok:
                return Ran(step, result.rc if result.rc else -1, said)
        return Ran(step, 0, said)

    def converge(self) -> list[Ran]:
        """One round that must succeed, after which nothing is left to do."""
        plan = self.plan()
        assert plan.blocked is None, plan.blocked
        done = self.run(plan.steps)
        assert all(one.rc == 0 for one in done), (done[-1].step.title, done[-1].said[-3000:])
        assert not self.titles(), self.titles()
        return done

    def root(self, script: str) -> str:
        """Run a script as root, in the node but not through us; it must succeed."""
        return self.live.root(self.name, f"set -e\n{script}").ok()


@cache
def resolved(wish: EnvironmentWish) -> TorchEnvironment | str:
    """Each wish once per run of the tests."""
    return Resolver()(wish)


def node(live: LiveFleet, name: str) -> Node:
    """Connect to a node as user ops, with the fleet's own keys."""
    data = {
        "ssh_config_file": str(live.ssh_config),
        "ssh_known_hosts_file": str(live.directory / "known_hosts"),
    }
    spec = NodeSpec()
    return Node(live, name, spec, connect(Host(name=name, groups=(), spec=spec, data=data)))
