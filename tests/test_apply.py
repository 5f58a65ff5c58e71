"""The apply command: what it asks, refuses, shows and returns; hosts are directories."""

import io
import json
from pathlib import Path
from typing import Any

import gevent
import pytest
from pyinfra_cli.util import PYTHON_CODES

import deploy.commands.apply as command
import deploy.commands.plan
import deploy.engine.converge
import deploy.engine.reboot
import deploy.engine.supervise
import deploy.engine.wave
from deploy.cli import main
from deploy.fleet.errors import Fault, WrongInput
from deploy.fleet.inventory import Fleet
from deploy.fleet.transport import Unreachable
from deploy.lock import Lock
from deploy.stack import Blocked, Solution
from deploy.survey import BadProbe, Survey
from tests import staged
from tests.localhost import LocalHost

CANARIES = {"ssh_password": "c4nary-one", "_sudo_password": "c4nary'two"}


class Lab:
    """A folder with an inventory of directory hosts; every way to them goes through here."""

    def __init__(self, root: Path, *names: str) -> None:
        self.root = root
        self.hosts = {name: LocalHost(root / "hosts" / name, name) for name in names}
        self.unreachable: dict[str, str] = {}
        self.blocked: dict[str, str] = {}
        self.logins: list[str] = []
        self.on_connect: dict[str, Any] = {}
        self.surveyed: list[str] = []
        (root / "lab.py").write_text(f"gpus = {[(name, CANARIES) for name in names]!r}\n")
        for host in self.hosts.values():
            (host.root / "opt/gpufleet/parts").mkdir(parents=True)
            script = host.root / "on-boot"
            script.write_text(f"#!/bin/sh\necho 1 >{host.root}/opt/gpufleet/parts/loaded\n")
            script.chmod(0o755)

    def part(self, host: str, name: str, text: str = "1") -> None:
        (self.hosts[host].root / "opt/gpufleet/parts" / name).write_text(f"{text}\n")

    def survey(self, fleet: Fleet, *, ended: Any) -> Survey:
        found = Survey()
        self.surveyed = list(fleet.hosts)
        for name, host in fleet.hosts.items():
            if name in self.unreachable:
                found.failed[name] = self.unreachable[name]
            else:
                connection = self.hosts[name].connect()
                found.facts[name] = staged.probe(connection, host.spec)
            ended(name)
        return found

    def answers(self, fleet: Fleet, found: Survey, lock: Lock | None) -> dict[str, Solution]:
        return {name: self._answer(name) for name in fleet.hosts}

    def answers_all(self) -> dict[str, Solution]:
        return {name: self._answer(name) for name in self.hosts}

    def _answer(self, name: str) -> Solution:
        why = self.blocked.get(name) or self.unreachable.get(name)
        blocked = why and Blocked(host=name, reason=why, rule="rule", source="x", unblock=("this",))
        stack = None if blocked else staged.STACK
        return Solution(host=name, stack=stack, blocked=blocked or None, reasons=(), warnings=())

    def connect(self, host: Any, timeout_s: float = 10) -> Any:
        self.logins.append(host.name)
        act = self.on_connect.get(host.name)
        if act is not None:
            act()
        return self.hosts[host.name].connect()

    def run_file(self, newest: int = -1) -> dict[str, Any]:
        runs = sorted((self.root / "runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        loaded: dict[str, Any] = json.loads((runs[newest] / "run.json").read_text())
        return loaded


def make_lab(root: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> Lab:
    lab = Lab(root, *names)
    monkeypatch.chdir(root)
    PYTHON_CODES.clear()  # pyinfra keeps inventories by name; each test has its own lab.py
    monkeypatch.setattr(deploy.engine.converge, "probe", staged.probe)
    monkeypatch.setattr(deploy.engine.converge, "plan_host", staged.plan_host)
    monkeypatch.setattr(deploy.engine.converge, "reboot_due", staged.reboot_due)
    monkeypatch.setattr(deploy.commands.plan, "plan_host", staged.plan_host)
    monkeypatch.setattr(deploy.engine.reboot, "POLL_S", (0.02, 0.05))
    monkeypatch.setattr(deploy.engine.supervise, "WATCH_S", 0.01)
    monkeypatch.setattr(deploy.engine.wave, "connect", lab.connect)
    monkeypatch.setattr(command, "survey", lab.survey)
    monkeypatch.setattr(command, "answers", lab.answers)
    monkeypatch.setattr(command, "read_lock", lambda path: "a lock" if path.exists() else None)
    monkeypatch.setattr(command, "new_lock", lambda fleet, solutions: FakeLock(solutions))
    monkeypatch.setattr(command, "write_lock", lambda path, lock: path.write_text("{}"))
    monkeypatch.setattr(command, "lock_path", lambda path: path.with_suffix(".lock"))
    return lab


class FakeLock:
    """As much of a lock as the command reads."""

    def __init__(self, solutions: dict[str, Solution]) -> None:
        self.hosts = [name for name, solution in solutions.items() if solution.stack]
        self.digest = "d1gest"

    def sealed(self) -> "FakeLock":
        return self


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    made = make_lab(tmp_path, monkeypatch, "gpu1", "gpu2", "gpu3")
    monkeypatch.setattr(command, "read_lock", lambda path: FakeLock(made.answers_all()))
    return made


def test_apply_converges_and_the_second_run_does_nothing(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["apply", "lab.py", "--yes", "--reboot"]) == 0
    said = capsys.readouterr().out
    assert "12 changes" not in said
    assert "15 changes; 3 converged; one wave; no verification gate ran" in said
    assert said.rstrip().endswith("next: gpufleet verify lab.py")
    assert lab.run_file()["hosts"] == dict.fromkeys(["gpu1", "gpu2", "gpu3"], "converged")
    journals = {name: host.journal for name, host in lab.hosts.items()}
    lab.logins.clear()

    assert main(["apply", "lab.py", "--yes", "--reboot"]) == 0
    assert "0 changes; 3 unchanged" in capsys.readouterr().out
    assert lab.logins == [], "nobody is visited after the survey"
    assert {name: host.journal for name, host in lab.hosts.items()} == journals
    second = lab.run_file()
    assert (second["state"], second["exit"]) == ("finished", 0)
    journal = (lab.root / "runs" / second["id"] / "journal.jsonl").read_text()
    assert "command-began" not in journal
    assert not list((lab.root / "runs" / second["id"] / "logs").iterdir())


def test_the_json_result_holds_every_host(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.blocked["gpu2"] = "DGX OS manages the driver"
    lab.unreachable["gpu3"] = "gpu3: no TCP connection within 10 s"
    assert main(["apply", "lab.py", "--yes", "--reboot", "--json"]) == 1
    streams = capsys.readouterr()
    document = json.loads(streams.out)
    found = {name: outcome["status"] for name, outcome in document["hosts"].items()}
    assert found == {"gpu1": "converged", "gpu2": "blocked", "gpu3": "unreachable"}
    assert document["exit"] == 1
    assert document["gate"] is None
    assert "DGX OS manages the driver" in streams.err
    assert main(["apply", "lab.py", "--yes", "--json", "out.json"]) == 1
    assert json.loads((lab.root / "out.json").read_text())["hosts"]["gpu1"]["status"] == "unchanged"


@pytest.mark.parametrize(
    ("gpu1", "gpu2", "code"),
    [("fine", "fine", 0), ("busy", "fine", 4), ("away", "fine", 4), ("blocked", "busy", 1),
     ("fails", "away", 1)],
)  # fmt: skip
def test_exit_codes(
    lab: Lab, gpu1: str, gpu2: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = dict(staged.STEPS)
    for name, kind in (("gpu1", gpu1), ("gpu2", gpu2)):
        if kind == "busy":
            lab.part(name, "busy", "job 4711 of alice")
        elif kind == "away":
            lab.unreachable[name] = f"{name}: no SSH server"
        elif kind == "blocked":
            lab.blocked[name] = "no"
        elif kind == "fails":
            steps["env"] = staged.part("env", "exit 3")
    monkeypatch.setattr(staged, "STEPS", steps)
    assert main(["apply", "lab.py", "--yes", "--reboot", "--limit", "gpu[1-2]"]) == code
    assert lab.run_file()["exit"] == code
    assert "gpu3" not in lab.run_file()["hosts"]


def test_a_failure_shows_its_log_and_the_next_command(
    lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = staged.part("driver", "echo 'Error! Bad return status'; exit 10", disruptive=True)
    monkeypatch.setattr(staged, "STEPS", {**staged.STEPS, "driver": failing})
    assert main(["apply", "lab.py", "--yes", "--limit", "gpu2"]) == 1
    said = capsys.readouterr().out
    assert "    Error! Bad return status" in said
    assert "next: gpufleet apply lab.py --limit gpu2" in said
    log = next(line for line in said.splitlines() if "raw log: " in line).partition(": ")[2]
    assert "Bad return status" in Path(log).read_text()


def test_a_busy_host_is_listed_with_job_and_user(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.part("gpu1", "busy", "job 4711 of alice")
    assert main(["apply", "lab.py", "--yes", "--reboot"]) == 4
    assert "gpu1: busy: in use by job 4711 of alice" in capsys.readouterr().out
    assert lab.hosts["gpu1"].reboots == []
    lab.logins.clear()
    assert main(["apply", "lab.py", "--yes", "--reboot"]) == 4
    assert lab.logins == [], "only disruptive steps are left: nobody goes there"


def test_without_a_terminal_yes_is_needed(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["apply", "lab.py"]) == 2
    assert "needs --yes" in capsys.readouterr().err
    assert lab.surveyed == []
    assert not (lab.root / "runs").exists()


def test_all_wrong_options_are_told_at_once(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["apply", "lab.py", "--reboot-timeout", "0", "--json", "no/such/folder.json"]
    assert main(wrong) == 2
    said = capsys.readouterr().err
    assert "3 faults" in said
    for option in ("--yes", "--reboot-timeout", "--json"):
        assert option in said


def test_yes_alone_does_not_reboot(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["apply", "lab.py", "--yes", "--limit", "gpu1"]) == 4
    assert "no --reboot given: gpu1 will not be rebooted" in capsys.readouterr().out
    assert lab.hosts["gpu1"].reboots == []
    assert main(["apply", "lab.py", "--yes", "--no-reboot", "--limit", "gpu1"]) == 4
    assert lab.hosts["gpu1"].reboots == []
    assert main(["apply", "lab.py", "--yes", "--reboot", "--limit", "gpu1"]) == 0
    assert len(lab.hosts["gpu1"].reboots) == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("answers", "code", "changed", "reboots"),
    [("n\n", 4, False, 0), ("\n", 4, False, 0), ("y\nn\n", 4, True, 0), ("y\ny\n", 0, True, 1)],
)
def test_a_terminal_is_asked_for_both(
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
    answers: str,
    code: int,
    changed: bool,
    reboots: int,
) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(answers))
    monkeypatch.setattr("sys.stdout", screen)
    assert main(["apply", "lab.py", "--limit", "gpu1"]) == code
    assert "Change gpu1? [y/N]" in screen.getvalue()
    assert ("Reboot gpu1 when it is due? [y/N]" in screen.getvalue()) is changed
    assert bool(lab.hosts["gpu1"].journal) is changed
    assert len(lab.hosts["gpu1"].reboots) == reboots


def test_a_missing_lock_is_written_for_the_whole_fleet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = make_lab(tmp_path, monkeypatch, "gpu1", "gpu2")
    monkeypatch.setattr(command, "read_lock", lambda path: None)
    assert main(["apply", "lab.py", "--yes", "--reboot", "--limit", "gpu1"]) == 0
    assert lab.surveyed == ["gpu1", "gpu2"]
    assert (tmp_path / "lab.lock").exists()
    assert "no lock yet: solved 2 hosts and wrote lab.lock" in capsys.readouterr().out
    assert lab.hosts["gpu2"].journal == [], "only the limited host is changed"


def test_no_lock_is_written_when_nothing_could_be_solved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make_lab(tmp_path, monkeypatch, "gpu1")
    monkeypatch.setattr(command, "read_lock", lambda path: None)
    lab.unreachable["gpu1"] = "gpu1: no SSH server"
    assert main(["apply", "lab.py", "--yes"]) == 4
    assert not (tmp_path / "lab.lock").exists()


@pytest.mark.long
def test_one_hanging_host_delays_nobody(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("gpu2", "gpu3"):
        for part in ("base", "driver", "loaded", "service"):
            lab.part(name, part)
    monkeypatch.setattr(deploy.engine.wave, "HOST_DEADLINE_S", 2)
    lab.on_connect["gpu1"] = lambda: gevent.sleep(3600)
    assert main(["apply", "lab.py", "--yes", "--reboot"]) == 1
    hosts = lab.run_file()["hosts"]
    assert hosts == {"gpu1": "failed", "gpu2": "converged", "gpu3": "converged"}
    assert "gpu1: no result within 2 s" in capsys.readouterr().out


@pytest.mark.long
def test_what_goes_wrong_on_one_host_is_its_own(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable() -> None:
        raise Unreachable("gpu1", "10.0.0.1", "the login was refused", "try ssh")

    def unexpected() -> None:
        raise RuntimeError("something nobody thought of")

    lab.on_connect |= {"gpu1": unreachable, "gpu2": unexpected}
    assert main(["apply", "lab.py", "--yes", "--reboot"]) == 1
    found = lab.run_file()
    assert found["hosts"] == {"gpu1": "unreachable", "gpu2": "failed", "gpu3": "converged"}
    assert "the login was refused" in capsys.readouterr().out
    trace = (lab.root / "runs" / found["id"] / "logs/gpu2.log").read_text()
    assert "Traceback" in trace
    assert "something nobody thought of" in trace


def test_secrets_appear_nowhere(
    lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def leak() -> None:
        raise RuntimeError(f"login with {CANARIES!r} failed")

    def leaking_probe(connection: Any, spec: Any, timeout_s: float = 25) -> Any:
        if connection.host == "gpu2":
            raise BadProbe("gpu2", f"sudo echoed {CANARIES['_sudo_password']}")
        return staged.probe(connection, spec)

    lab.on_connect["gpu1"] = leak
    monkeypatch.setattr(deploy.engine.converge, "probe", leaking_probe)
    noisy = staged.part("base", "echo given c4nary-one and c4nary\\'two; exit 1")
    monkeypatch.setattr(staged, "STEPS", {**staged.STEPS, "base": noisy})
    assert main(["apply", "lab.py", "--yes", "--json"]) == 1
    streams = capsys.readouterr()
    kept = [path.read_text() for path in (lab.root / "runs").rglob("*") if path.is_file()]
    assert "given [redacted]" in streams.err
    for text in (streams.out, streams.err, *kept):
        assert "c4nary" not in text


@pytest.mark.long
def test_an_interrupt_says_what_is_in_flight_and_frees_the_hosts(
    lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = staged.part("base", "sleep 0.6")
    monkeypatch.setattr(staged, "STEPS", {**staged.STEPS, "base": slow})

    def press() -> None:
        gevent.sleep(0.3)
        raise KeyboardInterrupt

    lab.on_connect["gpu3"] = press
    assert main(["apply", "lab.py", "--yes", "--reboot"]) == 130
    streams = capsys.readouterr()
    found = lab.run_file()
    assert (found["state"], found["exit"]) == ("interrupted", None)
    assert set(found["hosts"].values()) == {"interrupted"}
    assert "interrupted while changing:" in streams.out
    assert "gpu1: 1/3 base: base is there" in streams.out
    lab.on_connect.clear()
    assert main(["apply", "lab.py", "--yes", "--reboot"]) == 0
    assert all(len(host.reboots) == 1 for host in lab.hosts.values())


def test_a_stale_lock_is_refused_before_any_connection(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stale(*given: Any) -> Any:
        raise WrongInput([Fault("gpu1", "", "its wishes changed since it was locked")])

    monkeypatch.setattr(command, "answers", stale)
    assert main(["apply", "lab.py", "--yes"]) == 2
    assert "gpu1: its wishes changed" in capsys.readouterr().err
    assert lab.surveyed == []
    assert not (lab.root / "runs").exists()


def test_wrong_input_found_later_is_exit_2_in_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwritable(*given: Any) -> Any:
        raise WrongInput([Fault("lab.lock", "", "cannot be written")])

    lab = make_lab(tmp_path, monkeypatch, "gpu1")
    monkeypatch.setattr(command, "read_lock", lambda path: None)
    monkeypatch.setattr(command, "write_lock", unwritable)
    assert main(["apply", "lab.py", "--yes"]) == 2
    assert lab.run_file()["exit"] == 2
    assert lab.logins == []
