"""The engine: one host is brought to its stack, whatever happens on the way."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import deploy.engine.converge
import deploy.engine.reboot
import deploy.engine.supervise
from deploy.engine.converge import Consent, converge
from deploy.engine.outcome import Outcome
from deploy.fleet import hostlock
from deploy.fleet.hostlock import Owner, host_lock
from deploy.fleet.redact import Redactor
from deploy.fleet.runs import Run
from deploy.steps import Command, Reboot, Step
from tests import staged
from tests.localhost import LocalConnection, LocalHost

ALL = ("base is there", "driver is there", "env is there", "service is there")


class Silent:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.lines: list[str] = []

    def note(self, host: str, text: str) -> None:
        self.notes.append(text)

    def step(self, host: str, step: Step, number: int, count: int) -> None:
        self.notes.append(f"{number}/{count} {step.title}")

    def line(self, host: str, text: str) -> None:
        self.lines.append(text)


class Stage:
    """One host, one run directory and a way to apply."""

    def __init__(self, tmp_path: Path) -> None:
        self.host = LocalHost(tmp_path / "host")
        (self.host.root / "opt/gpufleet/parts").mkdir(parents=True)
        self.on_boot("true")
        self.run = Run(tmp_path / "runs", ["apply"], inventory="lab.py", hosts=["local1"])
        self.report = Silent()

    def part(self, name: str) -> Path:
        return self.host.root / "opt/gpufleet/parts" / name

    def on_boot(self, also: str) -> None:
        """Booting loads the module; `also` is more shell that boots run."""
        script = self.host.root / "on-boot"
        script.write_text(f"#!/bin/sh\necho 1 >{self.part('loaded')}\n{also}\n")
        script.chmod(0o755)

    def apply(self, connection: LocalConnection | None = None, **consent: Any) -> Outcome:
        connection = connection or self.host.connect()
        before = staged.probe(self.host.connect(), staged.wanted().spec)
        return converge(
            connection,
            staged.wanted(),
            before,
            consent=Consent(**{"reboot": True, "reboot_deadline_s": 5, **consent}),
            report=self.report,
            run=self.run,
            again=self.host.connect,
        )

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.run.directory / "journal.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == kind]


def exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny stack in place of the real probe and plan."""
    for name in ("probe", "plan_host", "reboot_due"):
        monkeypatch.setattr(deploy.engine.converge, name, getattr(staged, name))
    monkeypatch.setattr(deploy.engine.reboot, "POLL_S", (0.02, 0.05))
    monkeypatch.setattr(deploy.engine.supervise, "WATCH_S", 0.01)
    monkeypatch.setattr(staged, "STEPS", dict(staged.STEPS))


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    exchange(monkeypatch)
    stage = Stage(tmp_path)
    yield stage
    stage.run.end(None, "finished")


def test_a_bare_host_converges_with_one_reboot(stage: Stage) -> None:
    before = stage.host.boot_id
    outcome = stage.apply()
    assert (outcome.status, outcome.changed, outcome.rebooted) == ("converged", ALL, 1)
    assert outcome.remaining == ()
    assert stage.host.reboots == [before]
    asked, ended = [json.loads(line)["event"] for line in stage.host.journal].index, stage.events
    assert asked("reboot-asked") == 6
    assert [event["rc"] for event in ended("command-ended")] == [0, 0, 0, 0]
    log = Path(outcome.log).read_text()
    assert "base: base is there (no base)" in log
    assert "unpacking\ndone\n" in log
    assert "building" in stage.report.lines


def test_a_converged_host_is_not_touched(stage: Stage) -> None:
    stage.apply()
    journal, reboots = stage.host.journal, stage.host.reboots
    connection = stage.host.connect()
    stage.host.commands.clear()
    outcome = stage.apply(connection)
    assert (outcome.status, outcome.changed, outcome.log) == ("unchanged", (), "")
    assert stage.host.commands == [stage.host.commands[0]], "only the probe of the survey"
    assert (stage.host.journal, stage.host.reboots) == (journal, reboots)


def test_without_consent_nothing_reboots(stage: Stage) -> None:
    outcome = stage.apply(reboot=False)
    assert outcome.status == "reboot-pending"
    assert "--reboot" in outcome.message
    assert outcome.remaining == ("reboot: the loaded module is not the installed one",)
    assert stage.host.reboots == []
    assert stage.apply().status == "converged", "and the next run goes on from there"
    assert len(stage.host.reboots) == 1


def test_a_failing_step_ends_the_host_with_its_log(stage: Stage) -> None:
    make_log = stage.host.root / "var/lib/gpufleet/dkms/580/make.log"
    make_log.parent.mkdir(parents=True)
    make_log.write_text("gcc: error: no such file\n")
    staged.STEPS["driver"] = staged.part(
        "driver",
        "echo Building module; exit 10",
        disruptive=True,
        log="/var/lib/gpufleet/dkms/*/make.log",
    )
    outcome = stage.apply()
    assert outcome.status == "failed"
    assert "exit code 10" in outcome.message
    assert outcome.changed == ("base is there", "driver is there")
    assert outcome.remaining[:2] == ("base is there", "driver is there")
    assert outcome.tail[0] == "Building module"
    assert outcome.tail[-1] == "gcc: error: no such file"
    assert "gcc: error" in Path(outcome.log).read_text()
    assert not stage.part("env").exists(), "nothing after the failure ran"


def test_a_step_over_its_limit_is_stopped_on_the_host(stage: Stage) -> None:
    slow = staged.part("base", "sleep 30")
    command = slow.commands[0].model_copy(update={"timeout_s": 1})
    staged.STEPS["base"] = slow.model_copy(update={"commands": (command,)})
    outcome = stage.apply()
    assert outcome.status == "failed"
    assert "did not end within its limit of 1 s" in outcome.message


def test_a_lost_connection_is_no_success(stage: Stage) -> None:
    connection = stage.host.connect()
    connection.before = lambda command: "lost connection" if "building" in command else ""
    outcome = stage.apply(connection)
    assert outcome.status == "failed"
    assert "lost connection" in outcome.message


def test_a_host_that_was_lost_for_a_moment_goes_on(stage: Stage) -> None:
    connection, dead = stage.host.connect(), []

    def cut(command: str) -> str:
        if "building" in command:
            dead.append(command)
        return "the connection was lost" if dead else ""

    connection.before = cut
    outcome = stage.apply(connection)
    assert outcome.status == "converged"
    assert any("connecting again" in note for note in stage.report.notes)


def test_a_host_that_stays_lost_is_a_failure(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy.engine.converge, "RECONNECT_S", 0.3)
    down = stage.host.root / "down"
    staged.STEPS["env"] = staged.part("env", f"touch {down}; sleep 0.2")
    outcome = stage.apply()
    assert outcome.status == "failed"
    assert outcome.rebooted == 0


def test_a_probe_that_fails_is_a_failed_host(stage: Stage) -> None:
    connection = stage.host.connect()
    connection.before = lambda command: "garbage" if "random/boot_id" in command else ""
    outcome = stage.apply(connection)
    assert (outcome.status, outcome.changed) == ("failed", ())
    assert "garbage" in outcome.message


def test_a_busy_host_keeps_what_would_disturb_it(stage: Stage) -> None:
    stage.part("busy").write_text("job 4711 of alice\n")
    outcome = stage.apply()
    assert outcome.status == "busy"
    assert outcome.busy == ("job 4711 of alice",)
    assert "job 4711 of alice" in outcome.message
    assert outcome.changed == ("base is there", "env is there")
    assert not stage.part("driver").exists()
    assert stage.host.reboots == []
    stage.part("busy").unlink()
    assert stage.apply().status == "converged"


def test_a_job_that_begins_before_the_reboot_keeps_its_host(stage: Stage) -> None:
    staged.STEPS["env"] = staged.part("env", f"echo pid 42 of bob >{staged.PARTS}/busy")
    outcome = stage.apply()
    assert outcome.status == "busy"
    assert "pid 42 of bob" in outcome.message
    assert outcome.changed == ("base is there", "driver is there", "env is there")
    assert stage.host.reboots == []


def test_a_job_that_begins_during_a_long_step_is_seen_before_the_disruptive_one(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy.engine.converge, "FRESH_S", 0)
    staged.STEPS["base"] = staged.part("base", f"echo pid 42 of bob >{staged.PARTS}/busy")
    outcome = stage.apply()
    assert outcome.status == "busy"
    assert outcome.changed == ("base is there", "env is there")
    assert not stage.part("driver").exists()
    assert stage.events("step-skipped")[0]["busy"] == ["pid 42 of bob"]


def test_a_step_that_finds_the_gpus_in_use_ends_as_busy(stage: Stage) -> None:
    found = "echo 'pid 7 (python) of bob holds a GPU: nothing was changed'; exit 75"
    staged.STEPS["driver"] = staged.part("driver", found, disruptive=True)
    outcome = stage.apply()
    assert outcome.status == "busy"
    assert "pid 7 (python) of bob" in outcome.message
    assert outcome.changed == ("base is there",)


def test_a_job_that_ended_meanwhile_lets_the_rest_go_on(stage: Stage) -> None:
    stage.part("busy").write_text("pid 42 of bob\n")
    staged.STEPS["env"] = staged.part("env", f"rm {staged.PARTS}/busy")
    outcome = stage.apply()
    assert outcome.status == "converged"
    assert len(stage.host.reboots) == 1


def test_a_host_that_somebody_else_took_meanwhile_is_blocked(stage: Stage) -> None:
    staged.STEPS["base"] = staged.part("base", f"echo DGX OS >{staged.PARTS}/foreign")
    outcome = stage.apply()
    assert outcome.status == "blocked"
    assert "DGX OS" in outcome.message


def test_a_host_that_never_conforms_ends_after_three_rounds(stage: Stage) -> None:
    idle = Command(shell="true")
    staged.STEPS["base"] = staged.STEPS["base"].model_copy(update={"commands": (idle,)})
    outcome = stage.apply()
    assert outcome.status == "failed"
    assert "3 rounds: base is there" in outcome.message
    assert outcome.changed.count("base is there") == 3
    assert len(stage.host.reboots) == 1


def test_a_locked_host_is_left_to_its_holder(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostlock, "GRACE_S", 0)
    owner = Owner(controller="alice@box", run="20260101T000000Z", since="2026-01-01T00:00:00Z")
    with host_lock(stage.host.connect(), owner, note=print, line=print):
        outcome = stage.apply()
    assert (outcome.status, outcome.changed) == ("locked", ())
    assert "alice@box since 2026-01-01T00:00:00Z (run 20260101T000000Z)" in outcome.message
    assert stage.apply().status == "converged"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("stay-down", "did not come back within 0.3 s"),
        ("ignore-reboot", "boot_id unchanged"),
        ("refuse-reboot", "refused"),
    ],
)
def test_a_reboot_that_does_not_happen_is_a_failure(stage: Stage, fault: str, message: str) -> None:
    (stage.host.root / fault).touch()
    outcome = stage.apply(reboot_deadline_s=0.3)
    assert outcome.status == "failed"
    assert message in outcome.message
    assert outcome.rebooted == 0


def test_a_reboot_asked_by_a_killed_controller_is_waited_for_not_repeated(stage: Stage) -> None:
    stage.apply(reboot=False)
    uptime = int(float(Path("/proc/uptime").read_text().split()[0]))
    record = stage.host.root / "var/lib/gpufleet/reboot"
    record.write_text(f"{stage.host.boot_id} {uptime - 3} 20260101T000000Z\n")
    staged_boot = stage.host.root / "next-boot-id"
    # The host goes down by itself while the new controller waits.
    stage.report.note = lambda host, text: (  # type: ignore[method-assign]
        stage.report.notes.append(text),
        "earlier run" in text
        and (
            stage.part("loaded").write_text("1\n"),
            (stage.host.root / "boot_id").write_text(staged_boot.read_text()),
        ),
    )
    outcome = stage.apply(reboot_deadline_s=60)
    assert outcome.status == "converged"
    assert stage.host.reboots == [], "nobody asked twice"
    assert any("asked for this reboot" in note for note in stage.report.notes)


def test_an_old_unanswered_reboot_request_is_not_waited_for(stage: Stage) -> None:
    stage.apply(reboot=False)
    uptime = int(float(Path("/proc/uptime").read_text().split()[0]))
    record = stage.host.root / "var/lib/gpufleet/reboot"
    record.write_text(f"{stage.host.boot_id} {uptime - 4000} 20260101T000000Z\n")
    assert stage.apply().status == "converged"
    assert len(stage.host.reboots) == 1


def test_a_host_whose_boot_id_is_unknown_is_not_rebooted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_boot_id(*given: Any) -> Any:
        return staged.probe(*given).model_copy(update={"boot_id": None})

    monkeypatch.setattr(deploy.engine.converge, "probe", without_boot_id)
    outcome = stage.apply()
    assert outcome.status == "failed"
    assert "boot_id is unknown" in outcome.message
    assert stage.host.reboots == []


def test_secrets_stay_out_of_logs_and_messages(stage: Stage) -> None:
    stage.run.redact = Redactor(["c4nary-secret"])
    staged.STEPS["base"] = staged.part("base", "echo sudo password c4nary-secret; exit 3")
    outcome = stage.apply()
    kept = [path.read_text() for path in stage.run.directory.rglob("*") if path.is_file()]
    assert "sudo password" in Path(outcome.log).read_text()
    for text in [*kept, outcome.model_dump_json(), *stage.report.lines, *stage.report.notes]:
        assert "c4nary" not in text


def test_a_reboot_is_recorded_before_it_is_asked_for(stage: Stage) -> None:
    seen: list[str] = []

    def refuse(command: str) -> str:
        if "systemctl" in command and "reboot" in command:
            seen.extend(event["boot_id"] for event in stage.events("reboot-asked"))
            return "lost connection"
        return ""

    connection = stage.host.connect()
    connection.before = refuse
    before = stage.host.boot_id
    outcome = stage.apply(connection, reboot_deadline_s=0.3)
    assert seen == [before]
    assert outcome.status == "failed"


def test_the_due_reason_names_the_reboot() -> None:
    due = staged.reboot_due(staged.wanted(), staged.facts(state={"driver": "1"}))
    assert isinstance(due, Reboot)
