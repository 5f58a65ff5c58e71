"""Answers for a whole fleet: from its lock, or solved now.

Touches hosts only to ask what their repository offers: one host per repository, the answer kept
for the run. Each host is solved alone, but for what `same_torch` asks.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime

from deploy.available import Asked, ask_in_turn
from deploy.catalog import Catalogue, load
from deploy.environment import Resolver
from deploy.facts import NodeFacts
from deploy.fleet.errors import Fault, WrongInput
from deploy.fleet.inventory import Fleet
from deploy.fleet.spec import NONE
from deploy.fleet.transport import Unreachable, connect
from deploy.lock import HostLock, Lock, spec_digest
from deploy.solve import Answer, Beside, Case, Common, Place, choose_all, complete, place
from deploy.solving.fits import check_fit
from deploy.solving.lifecycle import lifecycle
from deploy.solving.offers import Available, Unavailable
from deploy.solving.refusal import Refused
from deploy.solving.situation import situation
from deploy.stack import Blocked, Reason, Solution, Stack
from deploy.survey import Survey
from deploy.upgrading import Kept

UNREACHABLE = "unreachable"
UNUSABLE = "unusable-answer"
UNSTEADY = (UNREACHABLE, UNUSABLE, "repository", "environment")
"""Rules whose words differ from try to try: the lock holds only their names."""

Say = Callable[[str], None]


def on_terminal(text: str) -> None:
    """Says what is being waited for, where somebody watches."""
    if sys.stderr.isatty():
        print(f"  {text} ...", file=sys.stderr, flush=True)


def answers(
    fleet: Fleet,
    survey: Survey,
    lock: Lock | None,
    say: Say = on_terminal,
    whole: Fleet | None = None,
) -> dict[str, Solution]:
    """One solution per host of the fleet.

    With a lock: the locked stacks, each checked against what the host is now; without one, every
    host is solved; `whole` is then the inventory that `fleet` is a part of. A host without facts
    is Blocked as unreachable. Raises WrongInput, before anything is asked of a host, when the lock
    does not answer the inventory.
    """
    if lock is None:
        return solve_fleet(fleet, survey, say, whole)
    stale = list(_stale(fleet, lock))
    if stale:
        raise WrongInput(stale)
    return {name: _locked(fleet, survey, lock, name) for name in fleet.hosts}


def _again(fleet: Fleet) -> str:
    return f"gpufleet lock {fleet.path or 'INVENTORY'}"


def _stale(fleet: Fleet, lock: Lock) -> Iterator[Fault]:
    for name, host in fleet.hosts.items():
        if name in lock.blocked:
            continue
        entry = lock.hosts.get(name)
        if entry is None:
            yield Fault(name, "", f"is not in the lock; run {_again(fleet)}")
        elif entry.spec != spec_digest(host.spec):
            yield Fault(name, "", f"its wishes changed since it was locked; run {_again(fleet)}")


def _locked(fleet: Fleet, survey: Survey, lock: Lock, name: str) -> Solution:
    if name not in survey.facts:
        return no_facts(survey, name)
    again = f"{_again(fleet)} --limit {name}"
    stack = lock.stack_of(name)
    if stack is None:
        why = lock.blocked[name]
        reason = Refused(
            "not-locked",
            f"the lock has no stack for it: {why}",
            source="the lock",
            unblock=(f"{again} tries again and says more",),
        )
        return _blocked(reason.of(name))
    catalogue = load()
    try:
        spec = fleet.hosts[name].spec
        seen = situation(spec, survey.facts[name], catalogue)
        check_fit(spec, seen, stack, catalogue)
    except Refused as refused:
        unblock = refused.unblock or (f"{again} --upgrade",)
        return _blocked(refused.of(name, unblock))
    because = f"the lock says so (stack {stack.id})"
    reasons = tuple(
        Reason(part=part, choice=choice, because=because, source="the lock")
        for part, choice in chosen(stack).items()
    )
    driver = stack.driver.version if stack.driver else ""
    warnings = tuple(lifecycle(driver, seen, catalogue, _today())) if driver else ()
    return Solution(host=name, stack=stack, blocked=None, reasons=reasons, warnings=warnings)


def _today() -> date:
    return datetime.now(UTC).date()


def _blocked(blocked: Blocked) -> Solution:
    return Solution(host=blocked.host, stack=None, blocked=blocked, reasons=(), warnings=())


def no_facts(survey: Survey, name: str) -> Solution:
    """Blocked: the host could not be looked at, or its answer cannot be used."""
    reason = Refused(
        UNUSABLE if name in survey.unusable else UNREACHABLE,
        survey.failed.get(name, "it was not looked at").removeprefix(f"{name}: "),
        source="one probe of every host",
        unblock=(f"gpufleet facts -w {name}",),
    )
    return _blocked(reason.of(name))


def chosen(stack: Stack) -> dict[str, str]:
    """What a stack holds, by part, in the words that people use for it."""
    parts: dict[str, str] = {}
    if stack.driver:
        parts["driver"] = stack.driver.version
        parts["modules"] = stack.driver.flavour
    for key, component in stack.components:
        parts[key] = component.version
    if stack.environment:
        parts["torch"] = f"{stack.environment.torch}+{stack.environment.build}"
        brought = stack.environment.managed_python
        parts["python"] = f"{brought.version} (uv's)" if brought else stack.environment.python
    return parts


def solve_fleet(
    fleet: Fleet,
    survey: Survey,
    say: Say = on_terminal,
    whole: Fleet | None = None,
    lock: Lock | None = None,
    kept: Kept | None = None,
) -> dict[str, Solution]:
    """Every host solved now, each alone, and one torch for the hosts of a `same_torch` group.

    `whole` is the inventory that `fleet` is a part of: hosts of a group that are not in `fleet`,
    or do not answer, count as `lock` has them. `kept` says what of a lock stays as it is.
    """
    fleet = kept.fleet() if kept else fleet
    catalogue = load()
    answered = offered(fleet, survey, catalogue, say)
    asked: dict[str, Case] = {}
    for name, host in fleet.hosts.items():
        if name in survey.facts:
            facts = survey.facts[name]
            needed = place(host.spec, facts, catalogue)
            available = answered[needed] if needed else Unavailable("it was not asked")
            asked[name] = Case(host.spec, facts, available)
    found = choose_all(asked, catalogue, _today(), beside(whole or fleet, asked, lock))
    resolve = Resolver()
    wishes = {answer.environment for answer in found.values() if answer.environment}
    if wishes:
        count = f"{len(wishes)} Python environments" if len(wishes) > 1 else "a Python environment"
        say(f"resolving {count}")
    solutions = {
        name: _finished(found[name], resolve, kept) if name in found else no_facts(survey, name)
        for name in fleet.hosts
    }
    return {name: kept.solution(one) for name, one in solutions.items()} if kept else solutions


def beside(fleet: Fleet, solved: Iterable[str], lock: Lock | None) -> dict[str, Beside]:
    """Hosts of `same_torch` groups that are not solved now, by word: as the lock has them, where
    it answers their wishes of today."""
    locked: dict[str, dict[str, Common]] = {}
    absent: dict[str, list[str]] = {}
    for name in sorted(set(fleet.hosts) - set(solved)):
        spec = fleet.hosts[name].spec
        if not spec.same_torch or spec.torch == NONE:
            continue
        entry = lock.hosts.get(name) if lock else None
        stack = lock.stack_of(name) if lock and entry else None
        if entry and entry.spec == spec_digest(spec) and stack and stack.environment:
            one = stack.environment
            common = Common(one.torch, one.build, one.python)
            locked.setdefault(spec.same_torch, {})[name] = common
        else:
            absent.setdefault(spec.same_torch, []).append(name)
    return {
        word: Beside(locked.get(word, {}), tuple(absent.get(word, ())))
        for word in sorted({*locked, *absent})
    }


def _finished(answer: Answer, resolve: Resolver, kept: Kept | None) -> Solution:
    wish = answer.environment
    if wish is None:
        return answer.solution
    host = answer.solution.host
    environment = kept.environment(host, wish, resolve) if kept else None
    return complete(answer, resolve(wish) if environment is None else environment)


def offered(
    fleet: Fleet, survey: Survey, catalogue: Catalogue, say: Say = on_terminal
) -> Mapping[Place, Available | Unavailable]:
    """What every repository of a fleet offers, each asked through one host."""
    asking: dict[Place, list[str]] = {}
    for name, host in fleet.hosts.items():
        facts: NodeFacts | None = survey.facts.get(name)
        needed = place(host.spec, facts, catalogue) if facts else None
        if needed:
            asking.setdefault(needed, []).append(name)
    answered = {}
    for needed, names in asking.items():
        say(f"asking {names[0]} what {needed.url} offers")
        answered[needed] = ask_in_turn(needed, _connections(fleet, survey, names))
    return answered


def _connections(fleet: Fleet, survey: Survey, names: list[str]) -> Iterator[Asked]:
    """Connections to hosts, those that are open already first; what is opened here is closed."""
    for name in sorted(names, key=lambda name: name not in survey.connections):
        if name in survey.connections:
            yield survey.connections[name]
            continue
        try:
            connection = connect(fleet.hosts[name])
        except Unreachable:
            continue
        try:
            yield connection
        finally:
            connection.close()


def new_lock(fleet: Fleet, solutions: Mapping[str, Solution], old: Lock | None = None) -> Lock:
    """A lock of the fleet: hosts with a stack as solved, others of `old` as they were.

    A host that has no answer now keeps the stack that answered the same wish before. Hosts that
    `fleet` no longer has are dropped; pass the whole fleet, not a limited one.
    """
    stacks: dict[str, Stack] = dict(old.stacks) if old else {}
    hosts: dict[str, HostLock] = {}
    blocked: dict[str, str] = {}
    for name, host in fleet.hosts.items():
        solution = solutions.get(name)
        if solution is None:
            if old and name in old.hosts:
                hosts[name] = old.hosts[name]
            elif old and name in old.blocked:
                blocked[name] = old.blocked[name]
        elif solution.stack is not None:
            stacks[solution.stack.id] = solution.stack
            hosts[name] = HostLock(stack=solution.stack.id, spec=spec_digest(host.spec))
        elif old and name in old.hosts and old.hosts[name].spec == spec_digest(host.spec):
            hosts[name] = old.hosts[name]
        elif solution.blocked is not None:
            blocked[name] = _steady(solution.blocked)
    return Lock(stacks=stacks, hosts=hosts, blocked=blocked).sealed()


def _steady(blocked: Blocked) -> str:
    """Why, in words that are the same at every try."""
    return blocked.rule if blocked.rule in UNSTEADY else f"{blocked.rule}: {blocked.reason}"
