"""Readers of what stands around the GPUs, on trees as the kernel shows them, and what keeps it."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from deploy.fleet.inventory import Fleet, Host
from deploy.fleet.spec import NodeSpec
from tests import around, reported
from tests.test_host_report import tools
from verify import kernel_lines as table
from verify import own, thresholds
from verify.applies import NEEDS
from verify.expectation import threshold_faults
from verify.payload import iommu_parts, kernel_lines, mount_parts, network_parts, system_parts


def files(root: Path, values: dict[str, Any]) -> None:
    """Files below a folder, each with one value."""
    for name, value in values.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{value}\n")


# ---- network ports


def port(root: Path, device: str, **more: Any) -> None:
    """A port as /sys/class/infiniband shows it."""
    values = {
        "ports/1/state": "4: ACTIVE",
        "ports/1/phys_state": "5: LinkUp",
        "ports/1/rate": "400 Gb/sec (4X NDR)",
        "ports/1/link_layer": "InfiniBand",
        "ports/1/counters/link_downed": 2,
        "ports/1/counters/symbol_error": 7,
        "device/vendor": "0x15b3",
        "device/device": "0x1021",
    }
    files(root / device, {**values, **more})


def test_ports_as_sysfs_shows_them(tmp_path: Path) -> None:
    port(tmp_path, "mlx5_0")
    ethernet = {"ports/1/link_layer": "Ethernet", "ports/1/rate": "25 Gb/sec (1X EDR)"}
    port(tmp_path, "mlx5_1", **{**ethernet, "device/net/eth1/carrier_down_count": 3})
    files(tmp_path / "mlx5_1/device/net", {"eth0/dev_port": 1, "eth0/carrier_down_count": 9})
    files(tmp_path / "mlx5_1/device/net", {"eth1/dev_port": 0})
    port(tmp_path, "rdmap0", **{"ports/1/link_layer": "Unspecified", "ports/1/rate": "odd"})
    (tmp_path / "rdmap0/device/driver").symlink_to("../drivers/efa")
    (tmp_path / "modules").write_text("580")
    found = network_parts.network(str(tmp_path), (str(tmp_path / "modules"),))
    assert found["peermem"] is True
    assert found["uptime_s"] > 0
    first, second, third = found["ports"]
    assert (first["state"], first["phys_state"]) == ("ACTIVE", "LinkUp")
    assert (first["rate_gbs"], first["lanes"], first["model"]) == (400.0, 4, "15b3:1021")
    assert (first["link_downed"], first["symbol_errors"], first["carrier_lost"]) == (2, 7, None)
    assert (second["netdev"], second["carrier_lost"], second["lanes"]) == ("eth1", 3, 1)
    assert (third["driver"], third["rate_gbs"], third["link_layer"]) == ("efa", None, "Unspecified")


def test_no_ports_at_all(tmp_path: Path) -> None:
    found = network_parts.network(str(tmp_path / "absent"), ())
    assert (found["ports"], found["peermem"], found["error"]) == ([], False, "")


# ---- mounts


TABLE = """21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:40 / /data rw,relatime shared:2 - autofs auto.data rw,fd=6,direct
31 30 0:41 / /data rw,relatime shared:3 - nfs4 filer:/data rw,vers=4.2
32 21 0:42 / /scratch ro,relatime shared:4 - xfs /dev/nvme0n1 rw
33 21 0:43 / /only/auto rw shared:5 - autofs auto rw,fd=7,direct
34 21 0:44 / /with\\040blank rw - nfs4 filer:/with\\040blank rw
garbage
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/data", ("nfs4", "filer:/data", ["rw", "relatime"])),
        ("/scratch", ("xfs", "/dev/nvme0n1", ["ro", "relatime"])),
        ("/with blank", ("nfs4", "filer:/with blank", ["rw"])),
        ("/only/auto", None),  # an automounter that has mounted nothing
        ("/else", None),
    ],
)
def test_what_is_mounted_on_top(tmp_path: Path, path: str, found: object) -> None:
    (tmp_path / "mountinfo").write_text(TABLE)
    assert mount_parts._entry(path, str(tmp_path / "mountinfo")) == found


def test_mounts_of_this_machine(tmp_path: Path) -> None:
    assert mount_parts.mount("/proc")["type"] == "proc"
    here = mount_parts.mount(str(tmp_path))
    assert (here["mounted"], here["error"]) == (False, "nothing is mounted there")
    assert mount_parts.mount(str(tmp_path / "no"))["mounted"] is False
    (tmp_path / "link").symlink_to("/proc")
    assert mount_parts.mount(str(tmp_path / "link"))["mounted"] is True


# ---- the bus


def bridge(
    root: Path, slot: str, buses: tuple[int, int], acs: int | None, size: int = 4096
) -> None:
    """A port of a switch above some buses; `acs` is its control register."""
    space = bytearray(4096)
    space[0x19:0x1B] = bytes(buses)
    # Another capability comes first in the list.
    struct.pack_into("<I", space, 0x100, 0x00010001 | 0x148 << 20)
    if acs is not None:
        struct.pack_into("<IHH", space, 0x148, 0x0001000D, 0x1F, acs)
    files(root / slot, {"class": "0x060400", "vendor": "0x1000"})
    (root / slot / "config").write_bytes(space[:size])


def test_bridges_above_a_gpu_and_what_they_redirect(tmp_path: Path) -> None:
    files(tmp_path / "0000:1a:00.0", {"class": "0x030200", "vendor": "0x10de"})
    files(tmp_path / "0000:1a:00.0", {"iommu_group/type": "DMA-FQ"})
    files(tmp_path / "0000:9a:00.0", {"class": "0x030200", "vendor": "0x10de"})
    bridge(tmp_path, "0000:00:01.0", (0x10, 0x20), 0x0001)  # source validation redirects nothing
    bridge(tmp_path, "0000:16:00.0", (0x17, 0x1A), 0x001D)
    bridge(tmp_path, "0000:80:01.0", (0x90, 0xA0), None)
    bridge(tmp_path, "0001:80:01.0", (0x00, 0xFF), 0x001D)  # of another domain
    first, second = iommu_parts.iommu(root=str(tmp_path))["gpus"]
    above = [(one["slot"], one["redirects"]) for one in first["bridges"]]
    assert above == [("0000:00:01.0", False), ("0000:16:00.0", True)]
    assert (first["domain"], second["domain"]) == ("DMA-FQ", "none")
    assert [one["redirects"] for one in second["bridges"]] == [False]


def test_who_is_not_root_reads_no_capabilities(tmp_path: Path) -> None:
    files(tmp_path / "0000:1a:00.0", {"class": "0x030200", "vendor": "0x10de"})
    bridge(tmp_path, "0000:16:00.0", (0x17, 0x1A), 0x001D, size=64)
    bridge(tmp_path, "0000:15:00.0", (0x16, 0x1A), 0x001D, size=20)
    (gpu,) = iommu_parts.iommu(root=str(tmp_path))["gpus"]
    assert [one["redirects"] for one in gpu["bridges"]] == [None, None]
    assert "only root" in gpu["bridges"][1]["error"]


def test_a_list_of_capabilities_that_is_a_ring_ends() -> None:
    space = bytearray(4096)
    struct.pack_into("<I", space, 0x100, 0x00010001 | 0x100 << 20)
    assert iommu_parts._redirects(bytes(space)) is False
    assert iommu_parts._redirects(b"\xff" * 4096) is False


# ---- processors, memory, clock, processes


@pytest.mark.parametrize(
    ("ranges", "count"),
    [("0-3,8", 5), ("0", 1), ("", None), ("0-x", None), ("a", None), ("0-127,256-383", 256)],
)
def test_processors_that_are_on(ranges: str, count: int | None) -> None:
    assert system_parts.count_of(ranges) == count


def test_processors_and_memory(tmp_path: Path) -> None:
    files(tmp_path / "cpu", {"online": "0-1", "cpu0/cpufreq/scaling_governor": "performance"})
    files(tmp_path / "cpu", {"cpu1/cpufreq/scaling_governor": "powersave", "cpufreq/x": "no"})
    (tmp_path / "meminfo").write_text("MemTotal:       24684532 kB\nMemFree: 1 kB\n")
    found = system_parts.processors(str(tmp_path / "cpu"), str(tmp_path / "meminfo"))
    assert (found["count"], found["memory_mib"]) == (2, 24105)
    assert found["governors"] == {"performance": 1, "powersave": 1}
    empty = system_parts.processors(str(tmp_path / "no"), str(tmp_path / "no"))
    assert (empty["count"], empty["memory_mib"], empty["governors"]) == (None, None, {})


@pytest.mark.parametrize(
    ("flags", "virtual"), [("fpu hypervisor vme", True), ("fpu hypervisors", False)]
)
def test_a_virtual_machine_has_a_flag(tmp_path: Path, flags: str, virtual: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert system_parts.virtual(str(tmp_path / "cpuinfo")) is virtual


@pytest.mark.parametrize(("script", "virtual"), [("exit 0", True), ("exit 1", False)])
def test_without_flags_systemd_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, virtual: bool
) -> None:
    tools(tmp_path, monkeypatch, **{"systemd-detect-virt": script})
    assert system_parts.virtual(str(tmp_path / "none")) is virtual


@pytest.mark.parametrize(
    ("script", "asked"), [("echo yes", "timedatectl"), ("echo; exit 1", "adjtimex")]
)
def test_the_clock_is_asked_by_systemd_and_else_by_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, asked: str
) -> None:
    tools(tmp_path, monkeypatch, timedatectl=script)
    found = system_parts.clock()
    assert found["asked"] == asked
    assert isinstance(found["synchronised"], bool)


def test_memory_controllers(tmp_path: Path) -> None:
    files(tmp_path / "mc0", {"ue_count": 2, "ce_count": 5, "dimm0/dimm_ue_count": 0})
    files(tmp_path / "mc0", {"dimm3/dimm_ue_count": 2, "dimm3/dimm_label": "A4"})
    files(tmp_path / "mc1", {"ue_count": "?", "ce_count": 0})
    files(tmp_path / "power", {"control": "auto"})
    first, second = system_parts.memory_errors(str(tmp_path))["controllers"]
    assert (first["uncorrected"], first["corrected"]) == (2, 5)
    assert first["modules"] == [{"label": "A4", "uncorrected": 2}]
    assert second["uncorrected"] is None
    assert system_parts.memory_errors(str(tmp_path / "no"))["controllers"] == []


def test_a_process_that_sleeps_at_both_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter(
        [
            {"7": ("cp", "1+0"), "8": ("dd", "5+1"), "9": ("fio", "2+2"), "10": ("pause", "1+1")},
            {"7": ("cp", "1+0"), "8": ("dd", "6+1"), "10": ("pause", "1+1"), "11": ("new", "1+0")},
        ]
    )
    monkeypatch.setattr(system_parts, "_sleeping", lambda: next(looks))
    monkeypatch.setattr(system_parts, "AGAIN_S", 0)
    monkeypatch.setattr(
        system_parts, "_last_ran", lambda pid: {"self": 500_000.0, "7": 100_000.0}.get(pid)
    )
    mine = min(os.sched_getaffinity(0))
    stat = f"7 (cp x) D 1 {' '.join(['0'] * 34)} {mine} 0 0"
    where = {"/proc/7/wchan": "rpc_wait_bit_killable", "/proc/10/wchan": "__refrigerator"}
    where["/proc/7/stat"] = stat
    monkeypatch.setattr(system_parts, "text_of", lambda path, most=0: where.get(path, ""))
    assert system_parts.stuck()["processes"] == [
        {"pid": 7, "command": "cp", "where": "rpc_wait_bit_killable", "seconds": 400.0}
    ]


def test_how_long_a_process_of_ours_has_slept() -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        time.sleep(1.2)
        found = system_parts._asleep(str(sleeper.pid))
        sleeper.kill()
    assert found is None or 0.9 < found < 30
    assert system_parts._asleep("0") is None


def test_nothing_here_is_stuck() -> None:
    assert system_parts.stuck()["error"] == ""
    assert system_parts._last_ran("self") is None or system_parts._last_ran("self") > 0  # type: ignore[operator]


# ---- the kernel's log


def shown(*lines: str) -> str:
    return "\n".join(json.dumps({"MESSAGE": line}) for line in lines)


def test_errors_of_the_kernel_are_kinds_with_counts() -> None:
    lines = [
        "nvme nvme0: I/O 12 QID 3 timeout",
        "nvme nvme0: I/O 99 QID 4 timeout",
        "mlx5_core 0000:18:00.0: device's health compromised",
    ]
    found = kernel_lines.kinds(lines)
    assert [(one["line"], one["count"]) for one in found] == [(lines[0], 2), (lines[2], 1)]
    assert len(kernel_lines.kinds([f"a{'x' * n}" for n in range(999)])) == kernel_lines.MOST_KINDS


def test_tasks_that_the_kernel_saw_hang() -> None:
    lines = [f"INFO: task a b:7 blocked for more than {s} seconds." for s in (122, 245)]
    lines.append("INFO: task cp:8 blocked for more than 122 seconds. [Warning #1]")
    assert kernel_lines.hung(lines) == [
        {"command": "a b", "pid": 7, "seconds": 245},
        {"command": "cp", "pid": 8, "seconds": 122},
    ]


def test_hostile_lines_of_the_journal_are_left_out() -> None:
    text = "\n".join(["no json", "[]", '{"MESSAGE": 7}', '{"MESSAGE": [104, 105, 255]}', "{}"])
    assert kernel_lines._messages(text) == ["hi\ufffd"]
    assert len(kernel_lines._messages(shown("x" * 9999))[0]) == 300


UE = "EDAC MC0: 1 UE memory read error on CPU_SrcID#0_Ha#0_Chan#1_DIMM#0"


@pytest.mark.parametrize("pattern", [True, False])
def test_the_log_is_read_with_or_without_patterns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: bool
) -> None:
    refuse = "" if pattern else '[ -n "$grep" ] && { echo "pattern matching" >&2; exit 1; }\n'
    script = 'for word; do [ "$word" != -g ] || grep=yes; done\n' + refuse
    script += f"cat <<'END'\n{shown(UE, 'some new error')}\nEND"
    tools(tmp_path, monkeypatch, journalctl=script)
    found = kernel_lines.lines()
    assert (found["readable"], found["error"]) == (True, "")
    assert [one["line"] for one in found["hardware"]] == [UE]
    assert [one["line"] for one in found["errors"]] == [UE, "some new error"]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'Failed to open journal' >&2; exit 1", "Failed to open journal"),
        ("echo 'Hint: You are currently not seeing messages' >&2", "Hint: You"),
        (":", "no kernel messages"),
    ],
)
def test_a_log_that_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str
) -> None:
    tools(tmp_path, monkeypatch, journalctl=script)
    found = kernel_lines.lines()
    assert found["readable"] is False
    assert why in found["error"]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (UE, "uncorrected"),
        ("EDAC MC0: 1 CE memory read error on CPU_SrcID#0", "asked"),
        ("mce: [Hardware Error]: CPU 3: Machine Check Exception: 5 Bank 7: be", "uncorrected"),
        ("mce: [Hardware Error]: CPU 3: Machine Check: 0 Bank 7: 8c", "asked"),
        ("[Hardware Error]: Uncorrected, software restartable error.", "uncorrected"),
        ("[Hardware Error]: Corrected error, no action required.", "asked"),
        ("{1}[Hardware Error]: event severity: recoverable", "uncorrected"),
        ("{1}[Hardware Error]: event severity: corrected", "asked"),
        ("Memory failure: 0x1f2a: recovery action for dirty LRU page: Recovered", "uncorrected"),
        ("NVRM: Xid (PCI:0000:19:00): 79, GPU has fallen off the bus.", "asked"),
        ("integrity: Problem loading X.509 certificate -65", "harmless"),
        ("mlx5_core 0000:18:00.0: something new", ""),
    ],
)
def test_what_lines_mean(line: str, kind: str) -> None:
    assert table.kind(line) == kind


def test_every_row_of_lines_has_a_class_a_meaning_and_a_source() -> None:
    for _, row in table.table():
        assert row["class"] in table.CLASSES
        assert row["meaning"]
        assert row["source"]


# ---- the record


def kept(**changes: Any) -> dict[str, Any]:
    """What the record keeps of a healthy host's surroundings when these differ."""
    values: dict[str, Any] = {
        "report": reported.report("hgx-h100"),
        "before": None,
        "verdicts": {"network.ports": "pass"},
        "not_asked": set(),
        "accept": False,
    }
    return own.around(**{**values, **changes})


def test_a_first_good_run_is_recorded() -> None:
    assert kept() == around.record("hgx-h100")
    assert kept(verdicts={}) == {"host": around.record("none")["host"]}  # nobody looked at ports
    assert kept(verdicts={}, not_asked={"network.ports"})["ports"]


def test_a_loss_is_not_taken_over_unless_it_is_accepted() -> None:
    less = reported.report("hgx-h100")
    less["processors"].update(count=100, memory_mib=around.MEMORY_MIB - 10)
    less["network"]["ports"][0]["state"] = "DOWN"
    before = around.record("hgx-h100")
    bad = {"network.ports": "fail"}
    assert kept(report=less, before=before, verdicts=bad) == before
    accepted = kept(report=less, before=before, verdicts=bad, accept=True)
    assert accepted["host"] == {"cpus": 100, "memory_mib": around.MEMORY_MIB - 10}
    assert len(accepted["ports"]) == 7
    more = reported.report("hgx-h100")
    more["processors"]["memory_mib"] *= 2
    assert kept(report=more, before=before)["host"]["memory_mib"] == 2 * around.MEMORY_MIB


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ({}, True),
        ({"host": None, "ports": None}, True),
        ({"host": {"cpus": "many", "memory_mib": 1}}, False),
        ({"host": {"cpus": True, "memory_mib": 1}}, False),
        ({"host": []}, False),
        ({"ports": [{"device": "mlx5_0"}]}, False),
        ({"ports": [{"device": "a", "port": "1", "rate_gbs": "fast"}]}, False),
        ({"ports": {"mlx5_0": 1}}, False),
    ],
)
def test_a_record_has_its_form(change: dict[str, Any], good: bool) -> None:
    assert own._around({**around.record("hgx-h100"), **change}) is good


def test_a_record_of_before_is_one_without_surroundings() -> None:
    old = {name: reported.record("v100")[name] for name in ("schema", "time", "stack", "gpus")}
    of = reported.scene("v100", record=old)
    answer = NEEDS["hardware-record"](of)
    assert answer.kind == "not-asked"
    assert "the next will" in answer.reason


# ---- figures


def test_every_threshold_has_a_source_and_a_name_that_is_read_somewhere() -> None:
    room = Path(own.__file__).parent
    text = "".join(file.read_text() for file in room.rglob("*.py") if file.name != "thresholds.py")
    for name, known in thresholds.THRESHOLDS.items():
        assert known.source
        assert known.meaning
        if name.startswith(("disk.", "network.", "stuck.", "memory.")):
            assert f'"{name}"' in text, f"nothing reads {name}"
    assert thresholds.unknown({"disk.root-mib": 1.0, "disk.rot-mib": 2.0}) == ["disk.rot-mib"]


def test_without_gpus_a_log_that_is_not_shown_is_nobodys_loss() -> None:
    from tests.broken_host import UNREADABLE
    from tests.test_checks import CHECKS

    closed = reported.changed(reported.scene("none"), UNREADABLE)
    assert NEEDS["kernel-log"](closed).kind == "not-asked"
    look = reported.ask(CHECKS["host.machine-check"], closed)
    assert not isinstance(look, str)
    assert [one.what for one in look.observations] == ["uncorrected errors of memory"]
    closed.report["memory_errors"]["controllers"] = []
    assert "is not shown here (no journal)" in str(
        reported.ask(CHECKS["host.machine-check"], closed)
    )


def test_geforce_boards_are_not_asked_for_what_they_cannot() -> None:
    def gaming(parts: dict[str, Any]) -> None:
        for one in parts["report"]["nvml"]["gpus"]:
            one["name"] = "NVIDIA GeForce RTX 4090"

    of = reported.changed(reported.scene(), gaming)
    for name in ("peers", "gpudirect"):
        assert "GeForce" in NEEDS[name](of).reason


def test_what_a_host_without_gpus_and_ports_is_not_asked() -> None:
    for name in ("network", "peers", "hardware-record"):
        assert NEEDS[name](reported.scene("none")).kind == "not-asked"


def test_a_threshold_that_no_check_reads_is_refused_for_all_hosts_at_once() -> None:
    good = Host("gpu3", (), NodeSpec(thresholds={"disk.root-mib": 100.0}), {})
    wrong = {"disk.rot-mib": 1.0, "zzz.unheard": 2.0}
    bad = [Host(name, (), NodeSpec(thresholds=wrong), {}) for name in ("gpu1", "gpu2")]
    fleet = Fleet("lab", None, {one.name: one for one in (*bad, good)})
    faults = threshold_faults(fleet)
    assert [(one.where, one.key) for one in faults] == [("gpu[1-2]", "thresholds")] * 2
    assert "did you mean disk.root-mib?" in faults[0].message
    assert "; known: " in faults[1].message
    assert "disk.root-mib, " in faults[1].message
    assert threshold_faults(Fleet("lab", None, {"gpu3": good})) == []
