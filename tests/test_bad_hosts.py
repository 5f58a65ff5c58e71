"""Hosts whose answers are bad in every way, in one fleet with good ones: `gpufleet lock` and
`gpufleet plan` over pyinfra's `@fake` connector, from inventory to verdict.

Each bad host is blocked by name with its own reason, the good ones are as without it, and no host
is sent anything but the probe.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyinfra.connectors.fake import FakeConnector
from pyinfra_cli.util import PYTHON_CODES

from deploy import cli, locking, survey
from deploy.facts import Kernel, NodeFacts, Os, PciDevice
from deploy.fleet import exits
from deploy.plan import plan_host
from deploy.probing.probe import BadProbe, escaped, parse
from deploy.probing.rdma_facts import Rdma
from deploy.probing.setting_facts import GpuSettings
from tests import factory
from tests.golden.cases import SPEC, Case, available, bare, wanted
from tests.golden.play import NONCE
from tests.golden.states import converged
from tests.probe_text import probe_text

CASE = Case("debian12", "x86_64", "open")
EL = Case("rhel9", "x86_64", "open")
EVIL = "\x1b]0;owned\x07$(touch /tmp/owned)`id`';\N{RIGHT-TO-LEFT OVERRIDE}"


def good(**changes: Any) -> str:
    """What a good bare host answers, with some facts changed."""
    boot = f"{random.Random(str(changes)).getrandbits(128):032x}"
    boot_id = f"{boot[:8]}-{boot[8:12]}-{boot[12:16]}-{boot[16:20]}-{boot[20:]}"
    return probe_text(bare(CASE).model_copy(update={"boot_id": boot_id, **changes}), NONCE)


def os(**changes: str) -> Os:
    found = bare(CASE).os
    assert found is not None
    return found.model_copy(update=changes)


def board(device: str, revision: str = "a1") -> tuple[PciDevice, ...]:
    first = (bare(CASE).pci or ())[0]
    return (first.model_copy(update={"device": device, "revision": revision}),)


def reordered(text: str) -> str:
    """The lines of an answer in another order."""
    lines = text.split("\n")
    random.Random(1).shuffle(lines)
    return "\n".join(lines)


def without(text: str, start: str) -> str:
    """An answer without the lines that begin so, its counts kept right."""
    lines, dropped = [], 0
    for line in text.split("\n"):
        if line.startswith(start):
            dropped += 1
        elif dropped and line.startswith(f"{NONCE} done "):
            head, _, count = line.rpartition(" ")
            lines.append(f"{head} {int(count) - dropped}")
            dropped = 0
        else:
            lines.append(line)
    return "\n".join(lines)


BAD: dict[str, tuple[str, str]] = {
    "truncated": (good()[: len(good()) // 2], "breaks off"),
    "empty": ("", "is empty"),
    "reordered": (reordered(good()), "cannot be used"),
    "huge": (good() + "x" * 1_600_000, "printed more than 1500000 bytes"),
    "forged": (good().replace(NONCE, "gpufleet-ffffffffffffffff"), "never began"),
    "old-probe": (good().replace(f"{NONCE} begin 2", f"{NONCE} begin 1"), "version 1"),
    "mixed": (good().replace("|running ", "motd\n|running ", 1), "other output is mixed into it"),
    "evil-os": (good(os=os(id="plan9", pretty_name=EVIL)), "is not supported; supported: "),
    "old-os": (
        good(os=os(version_id="7", pretty_name="Debian GNU/Linux 7 (wheezy)")),
        "Debian GNU/Linux 7 (wheezy) is not supported",
    ),
    "other-arch": (good(os=os(arch="riscv64")), "on riscv64 is not supported"),
    "unknown-gpu": (good(pci=board("fffe")), "fffe"),
    "fallen-off": (good(pci=board("2330", "ff")), "no answer on the PCI bus"),
    "no-kernel": (without(good(), "|running "), "os (the answer makes no sense"),
    "no-packages": (
        good(uptime_s=3).replace(f"{NONCE} part packages 0", f"{NONCE} part packages late"),
        "packages (took longer than its time limit",
    ),
    "el-no-version": (
        probe_text(bare(EL), NONCE).replace("\t1-1\n", f"\t1-1{EVIL}\n"),
        "is no version of an rpm",
    ),
    "el-torn": (
        "\n".join(line for line in probe_text(bare(EL), NONCE).split("\n") if "family" not in line),
        "part manager has lost or gained lines",
    ),
    "no-settings": (
        good(uptime_s=4).replace(f"{NONCE} part rdma 0", f"{NONCE} part rdma died"),
        "rdma could not be read: was killed on the host",
    ),
}
"""Host -> its whole answer, and words of the reason that it is blocked for."""
GOOD = {"good-a": good(uptime_s=1), "good-b": good(uptime_s=2)}


class World:
    """An inventory of scripted hosts, and everything that was sent to them."""

    def __init__(self, folder: Path) -> None:
        self.inventory, self.lock = folder / "lab.py", folder / "lab.lock"
        self.sent: list[tuple[str, str]] = []

    def run(self, *words: str, hosts: dict[str, str]) -> int:
        listed = []
        for name, answer in hosts.items():
            scripted = {"sh -s": answer}
            quick = {"fake_responses": scripted, "fake_delay": 0.0, "fake_delay_jitter": 0.0}
            listed.append((f"@fake/{name}", {**SPEC, **quick}))
        PYTHON_CODES.clear()  # pyinfra compiles a file once per process
        self.inventory.write_text(f"gpus = {listed!r}\n")
        return cli.main([words[0], str(self.inventory), *words[1:]])


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path)
    run = FakeConnector.run_shell_command

    def recorded(self: Any, command: Any, *given: Any, **named: Any) -> Any:
        made.sent.append((str(self.host.name), str(command)))
        return run(self, command, *given, **named)

    monkeypatch.setattr(FakeConnector, "run_shell_command", recorded)
    monkeypatch.setattr(survey, "new_nonce", lambda: NONCE)
    monkeypatch.setattr(locking, "ask_in_turn", lambda place, hosts: available(CASE))
    monkeypatch.setattr(locking, "Resolver", lambda: lambda wish: factory.environment())
    yield made
    assert {command for _host, command in made.sent} <= {"sh -s"}


def plans(world: World, folder: Path, hosts: dict[str, str]) -> tuple[int, dict[str, Any]]:
    code = world.run("plan", "--json", str(folder / "plan.json"), hosts=hosts)
    return code, json.loads((folder / "plan.json").read_text())["hosts"]


def test_bad_hosts_are_blocked_by_name_and_the_others_are_as_without_them(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, alone = plans(world, tmp_path, GOOD)
    assert code == exits.OK
    everybody = {name: answer for name, (answer, _) in BAD.items()} | GOOD
    capsys.readouterr()
    code, found = plans(world, tmp_path, everybody)
    assert code == exits.FAILED
    assert {name for name, _ in world.sent} == {f"@fake/{name}" for name in everybody}
    for name, (_, reason) in BAD.items():
        one = found[f"@fake/{name}"]
        assert one["verdict"] == "blocked", (name, one)
        assert one["steps"] == []
        assert one["blocked"]["host"] == f"@fake/{name}"
        assert reason in one["blocked"]["reason"], name
        assert one["blocked"]["unblock"] or one["blocked"]["rule"], name
    for name in GOOD:
        assert found[f"@fake/{name}"] == alone[f"@fake/{name}"]
        assert found[f"@fake/{name}"]["verdict"] == "change"
    said = capsys.readouterr()
    shown = said.out + said.err + json.dumps(found)
    assert not set(shown) & {"\x1b", "\x07", "\N{RIGHT-TO-LEFT OVERRIDE}"}
    assert not Path("/tmp/owned").exists()


def test_a_lock_of_good_and_bad_hosts_is_the_same_bytes_twice(world: World) -> None:
    everybody = {name: answer for name, (answer, _) in BAD.items()} | GOOD
    assert world.run("lock", hosts=everybody) == exits.FAILED
    first = world.lock.read_bytes()
    lock = json.loads(first)
    assert set(lock["hosts"]) == {f"@fake/{name}" for name in (*GOOD, "no-settings")}
    assert "\x1b" not in first.decode()
    world.run("lock", "--upgrade", hosts=everybody)
    assert world.lock.read_bytes() == first
    world.lock.unlink()
    world.run("lock", hosts=dict(reversed(everybody.items())))
    assert world.lock.read_bytes() == first


def rich(case: Case) -> NodeFacts:
    """A converged host that has something in every part of the probe."""
    found = converged(case, "h1")
    gpus = tuple(
        GpuSettings(
            index=index,
            uuid=f"GPU-{index}",
            slot=f"0000:{index:02x}:00.0",
            persistence=True,
            mig=False,
            mig_pending=False,
            mig_instances=(),
            mig_devices=(),
            mig_profiles=(),
            ecc=True,
            ecc_pending=True,
            power_limit=700.0,
            power_min=200.0,
            power_max=700.0,
        )
        for index in range(2)
    )
    return found.model_copy(
        update={
            "gpu_settings": gpus,
            "module_params": {"RegistryDwords": "", "EnableMSI": "1"},
            "rdma": Rdma(ofed="MLNX_OFED_LINUX-24.10", devices=("mlx5_0",), loaded=("ib_core",)),
            "cdi": {"/etc/cdi/nvidia.yaml": "580.178.04"},
        }
    )


RICH = (CASE, EL, Case("ubuntu2404", "x86_64", "open"))
LINES = {case: probe_text(rich(case), NONCE).split("\n") for case in RICH}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_damaged_answer_is_refused_or_says_what_is_unknown(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(sorted(LINES, key=str)))
    lines = list(LINES[case])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        match data.draw(st.sampled_from(["cut", "drop", "swap", "text", "words", "double"])):
            case "cut":
                lines = lines[: at + 1]
            case "drop":
                del lines[at]
            case "swap":
                other = data.draw(st.integers(0, len(lines) - 1))
                lines[at], lines[other] = lines[other], lines[at]
            case "text":
                lines[at] = "|" + data.draw(st.text(max_size=40))
            case "words":
                lines[at] = lines[at][: data.draw(st.integers(0, 30))]
            case _:
                lines.insert(at, lines[at])
        if not lines:
            return
    try:
        found = parse("h1", NONCE, "\n".join(lines))
    except BadProbe:
        return
    for field in NodeFacts.model_fields:
        if getattr(found, field) is None:
            assert found.unknown[field], f"{field} is unknown for no reason"
    said = found.model_dump_json()
    assert escaped(said) == said
    plan = plan_host(wanted(case, "h1"), found)  # whatever it says, it says it of this host
    assert plan.blocked is None or plan.blocked.reason


def test_an_unknown_kernel_release_stays_text() -> None:
    release = "6.1; touch owned"
    kernel = Kernel(running=release, next=release, installed=(release,), headers=())
    found = bare(CASE).model_copy(update={"kernel": kernel})
    plan = plan_host(wanted(CASE, "h1"), found)
    quoted = [c.shell for step in plan.steps for c in step.commands if release in c.shell]
    assert plan.blocked or quoted
    for shell in quoted:
        for line in shell.splitlines():
            assert release not in line or "'" in line.partition(release)[0], line
