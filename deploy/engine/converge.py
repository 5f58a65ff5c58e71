"""Bring one host to its stack, at its own pace, and prove it.

Host lock -> steps in order -> fresh probe -> reboot when one is due, consented and nobody uses the
GPUs -> probe -> plan again. Every decision is taken from what a probe found, never from what this
run did; the end is a plan of a fresh probe that is empty.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, NoReturn

from deploy.engine.outcome import Outcome, Status, why_blocked
from deploy.engine.reboot import DEADLINE_S, RebootFailed, pauses, reboot
from deploy.engine.supervise import Reporter, run_step
from deploy.facts import NodeFacts
from deploy.fleet.hostlock import Locked, LockTrouble, Owner, host_lock
from deploy.fleet.model import Model
from deploy.fleet.places import places
from deploy.fleet.runs import Run, controller, now, printable
from deploy.idle import BECAME_BUSY
from deploy.plan import HostPlan, plan_host
from deploy.plan_reboot import reboot_due
from deploy.steps import Reboot, Step, Wanted
from deploy.survey import BadProbe, probe

if TYPE_CHECKING:
    from deploy.fleet.transport import Connection

ROUNDS = 3
"""Plans that are tried before a host counts as not converging."""
FRESH_S = 10
"""A probe older than this is repeated before anything disruptive."""
RECONNECT_S = 180
"""How long a host that was lost may take to answer again, once per run."""


class Consent(Model):
    """What the operator agreed to, for one host."""

    reboot: bool
    reboot_deadline_s: float = DEADLINE_S


class _Ended(Exception):  # noqa: N818 - carries a result out of nested calls
    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome


def conforms(plan: HostPlan) -> bool:
    """Nothing is left to do on this host."""
    return not plan.steps and plan.reboot is None and plan.blocked is None


def converge(
    connection: "Connection",
    wanted: Wanted,
    facts: NodeFacts,
    *,
    consent: Consent,
    report: Reporter,
    run: Run,
    again: Callable[[], "Connection"],
) -> Outcome:
    """Bring one host to `wanted`; never raises for what the host does.

    `facts` only decide whether there is anything to do: the host is probed again under its lock.
    `again` opens a new connection to the host after a reboot; connections are the caller's to
    close, except the one that went down with the host.
    """
    work = _Host(connection, wanted, consent, report, run, again)
    try:
        work.plan(facts)
        outcome = work.try_to_the_end()
        if outcome.status == "failed" and not work.alive() and work.connect_again(outcome.message):
            outcome = work.try_to_the_end()
        return outcome
    except _Ended as ended:
        return ended.outcome


class _Host:
    """One host on its way; every method that ends it raises _Ended."""

    def __init__(
        self,
        connection: "Connection",
        wanted: Wanted,
        consent: Consent,
        report: Reporter,
        run: Run,
        again: Callable[[], "Connection"],
    ) -> None:
        self.connection = connection
        self.wanted = wanted
        self.where = places(wanted.spec)
        self.consent = consent
        self.report = report
        self.run = run
        self.again = again
        self.name = wanted.host
        self.changed: list[str] = []
        self.rebooted = 0
        self.logged = False
        self.probed_at = 0.0
        self.holding: Callable[[], bool] = lambda: False

    def try_to_the_end(self) -> Outcome:
        """One attempt, from the lock on; everything is decided afresh."""
        try:
            self._run_to_the_end()
        except _Ended as ended:
            return ended.outcome
        except Locked as locked:
            return self.outcome("locked", str(locked))
        except (LockTrouble, BadProbe) as error:
            return self.outcome("failed", str(error))
        except RebootFailed as error:
            raise _Ended(self.outcome("failed", str(error))) from None

    def alive(self) -> bool:
        """Whether the connection still carries a command."""
        return self.connection.run("true", timeout_s=10).ok

    def connect_again(self, why: str) -> bool:
        """Another connection, for a host that went away under us (its network, a reboot that
        somebody else asked for). False when there is none within RECONNECT_S."""
        self._note(f"connection lost ({why}); connecting again")
        end = time.monotonic() + RECONNECT_S
        for pause in pauses():
            if time.monotonic() > end:
                break
            time.sleep(pause)
            try:
                self.connection = self.again()
            except Exception:  # anything may be wrong while a host is away
                continue
            if self.alive():
                return True
        return False

    def _run_to_the_end(self) -> NoReturn:
        with ExitStack() as lock:
            self._lock(lock)
            plan = self.plan(self._probe())
            for _ in range(ROUNDS):
                skipped = self._run_steps(plan)
                facts = self._probe()
                plan = self.plan(facts)
                due = reboot_due(self.wanted, facts)
                if plan.busy and (due or all(step.disruptive for step in plan.steps)):
                    self._end_busy(plan)
                # What was left out for a job that has ended by now comes before the reboot.
                if due is not None and not skipped:
                    self._reboot(facts, due, lock)
                    plan = self.plan(self._probe())
            self._end("failed", f"still not as wanted after {ROUNDS} rounds", plan)

    def plan(self, facts: NodeFacts) -> HostPlan:
        """The plan from these facts. Ends the host when it is empty or blocked."""
        plan = plan_host(self.wanted, facts)
        if plan.blocked is not None:
            self._end("blocked", why_blocked(plan.blocked), plan)
        if conforms(plan):
            done = self.changed or self.rebooted
            self._end("converged" if done else "unchanged", "", plan)
        return plan

    def _probe(self) -> NodeFacts:
        facts = probe(self.connection, self.wanted.spec)
        self.probed_at = time.monotonic()
        return facts

    def _lock(self, lock: ExitStack) -> None:
        owner = Owner(controller=controller(), run=self.run.id, since=now())
        held = host_lock(self.connection, owner, note=self._note, line=self._line, where=self.where)
        self.holding = lock.enter_context(held)

    def _run_steps(self, plan: HostPlan) -> bool:
        """Run a plan's steps in order; True when some were left out because the host is busy."""
        self.run.event(
            "plan",
            self.name,
            steps=[step.title for step in plan.steps],
            reboot=plan.reboot.why if plan.reboot else None,
            busy=plan.busy,
        )
        busy, skipped = plan.busy, False
        for number, step in enumerate(plan.steps, start=1):
            if step.disruptive and not busy and time.monotonic() - self.probed_at > FRESH_S:
                # A job may have begun during the steps before this one.
                busy = plan_host(self.wanted, self._probe()).busy
            if step.disruptive and busy:
                skipped = True
                self.run.event("step-skipped", self.name, title=step.title, busy=busy)
                continue
            self.report.step(self.name, step, number, len(plan.steps))
            self._run_step(step, plan)
        return skipped

    def _run_step(self, step: Step, plan: HostPlan) -> None:
        if not self.holding():
            self._end("failed", "the lock on the host was lost; nothing more was begun", plan)
        self.logged = True
        failure = run_step(
            self.connection, step, run=self.run, report=self.report, where=self.where
        )
        if failure is not None and step.disruptive and failure.rc == BECAME_BUSY:
            users = plan.busy or failure.tail[-1:]
            self._end_busy(plan.model_copy(update={"busy": users}))
        self.changed.append(step.title)
        if failure is not None:
            message = f"{step.layer}: wanted {step.title!r}: {failure.found}"
            self._end("failed", message, plan, tail=failure.tail)

    def _reboot(self, facts: NodeFacts, due: Reboot, lock: ExitStack) -> None:
        """Reboot, or end the host when that was not agreed to; facts are from just now."""
        plan = plan_host(self.wanted, facts)
        if not self.consent.reboot:
            self._end(
                "reboot-pending",
                f"needs a reboot that nobody agreed to: {due.why}; apply with --reboot",
                plan,
            )
        if time.monotonic() - self.probed_at > FRESH_S:
            plan = self.plan(self._probe())
            if plan.busy:
                self._end_busy(plan)
        if facts.boot_id is None:
            why = facts.unknown.get("boot_id", "no reason given")
            self._end("failed", f"will not reboot a host whose boot_id is unknown ({why})", plan)
        self.connection = reboot(
            self.connection,
            self.again,
            boot_id=facts.boot_id,
            why=due.why,
            run=self.run,
            deadline_s=self.consent.reboot_deadline_s,
            note=self._note,
        )
        self.rebooted += 1
        lock.close()  # the lock went down with the host
        self._lock(lock)

    def _end_busy(self, plan: HostPlan) -> NoReturn:
        left = "a reboot and the rest" if plan.reboot else "what would disturb them"
        self._end(
            "busy",
            f"in use by {', '.join(plan.busy)}: {left} was left alone; apply again when it is free",
            plan,
        )

    def _end(
        self, status: Status, message: str, plan: HostPlan, tail: tuple[str, ...] = ()
    ) -> NoReturn:
        remaining = [step.title for step in plan.steps if step.title]
        if plan.reboot:
            remaining.append(f"reboot: {plan.reboot.why}")
        if status == "failed" and not tail:
            message = f"{message}: {'; '.join(remaining)}" if remaining else message
        raise _Ended(self.outcome(status, message, tuple(remaining), plan.busy, tail))

    def outcome(
        self,
        status: Status,
        message: str,
        remaining: tuple[str, ...] = (),
        busy: tuple[str, ...] = (),
        tail: tuple[str, ...] = (),
    ) -> Outcome:
        return Outcome(
            host=self.name,
            status=status,
            message=printable(self.run.redact(message)),
            changed=tuple(self.changed),
            rebooted=self.rebooted,
            remaining=remaining,
            busy=busy,
            tail=tail,
            log=str(self.run.log(self.name).path) if self.logged else "",
        )

    def _line(self, text: str) -> None:
        self.report.line(self.name, printable(self.run.redact(text)))

    def _note(self, text: str) -> None:
        clean = printable(self.run.redact(text))
        self.run.event("note", self.name, text=clean)
        self.report.note(self.name, clean)
