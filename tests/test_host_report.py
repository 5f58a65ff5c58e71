"""The report of a host: its parts from prepared files and tools, and whole whatever hangs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.sim import paths
from verify.payload import (
    gpu_users,
    host_parts,
    host_report,
    kernel_log,
    kernels,
    reading,
    within,
)

SCRIPT = host_report.__file__
XID = "NVRM: Xid (PCI:0000:19:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."


def tools(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Programs of these names, as shell scripts, before the machine's own."""
    folder.mkdir(exist_ok=True)
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setattr(reading, "PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


# ---- kernels -------------------------------------------------------------------------------------

GRUB = """
set default="{default}"
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-1' {{
	load_video
	if [ x$grub_platform = xxen ]; then
		insmod xzio
	fi
	linux	/boot/vmlinuz-6.1.0-30-amd64 root=UUID=1 ro quiet
}}
submenu 'Advanced options for Debian' $menuentry_id_option 'gnulinux-advanced-1' {{
	menuentry 'Debian, with Linux 6.1.0-30-amd64' $menuentry_id_option 'gnulinux-30' {{
		linux	/boot/vmlinuz-6.1.0-30-amd64 root=UUID=1 ro quiet
	}}
	menuentry 'Debian, with Linux 6.1.0-9-amd64' $menuentry_id_option 'gnulinux-9' {{
		linux	/boot/vmlinuz-6.1.0-9-amd64 root=UUID=1 ro quiet
	}}
}}
menuentry 'Memory test' {{
	linux16 /boot/memtest86+.bin
}}
"""
NEWER, OLDER = "6.1.0-30-amd64", "6.1.0-9-amd64"


@pytest.mark.parametrize(
    ("default", "saved", "chosen"),
    [
        ("0", {}, NEWER),
        ("1", {}, NEWER),
        ("1>0", {}, NEWER),
        ("1>1", {}, OLDER),
        ("Debian GNU/Linux", {}, NEWER),
        ("gnulinux-advanced-1>gnulinux-9", {}, OLDER),
        ("Advanced options for Debian>Debian, with Linux 6.1.0-9-amd64", {}, OLDER),
        ("${saved_entry}", {"saved_entry": "gnulinux-advanced-1>gnulinux-9"}, OLDER),
        ("${saved_entry}", {}, NEWER),
        ("0", {"saved_entry": "1>1"}, NEWER),
        ("0", {"next_entry": "1>1"}, OLDER),
        ("2", {}, None),
        ("no such entry", {}, None),
    ],
)
def test_grub_starts(default: str, saved: dict[str, str], chosen: str | None) -> None:
    assert kernels.grub_choice(GRUB.format(default=default), saved) == chosen


def booting(root: Path, *releases: str) -> tuple[str, str]:
    """A /boot and a /lib/modules with these kernels."""
    for release in releases:
        (root / "modules" / release).mkdir(parents=True)
        (root / "boot").mkdir(exist_ok=True)
        (root / f"boot/vmlinuz-{release}").touch()
    return str(root / "boot"), str(root / "modules")


def test_the_next_kernel_is_the_newest_that_can_boot(tmp_path: Path) -> None:
    places = booting(tmp_path, "6.1.0-9-amd64", "6.1.0-30-amd64", "6.12.0-rc3", "6.12.0")
    (tmp_path / "boot/vmlinuz-7.0").touch()  # without modules
    (tmp_path / "modules/8.0").mkdir()  # without an image
    (tmp_path / "boot/vmlinuz-6.13.old").touch()
    assert kernels.next_kernel(*places) == ("6.12.0", "")


def test_the_next_kernel_is_what_grub_starts(tmp_path: Path) -> None:
    places = booting(tmp_path, NEWER, OLDER)
    grub = tmp_path / "boot/grub"
    grub.mkdir()
    (grub / "grub.cfg").write_text(GRUB.format(default="${saved_entry}"))
    (grub / "grubenv").write_text("# GRUB Environment Block\nsaved_entry=1>1\n####")
    assert kernels.next_kernel(*places) == (OLDER, "")
    (grub / "grub.cfg").write_text(GRUB.format(default="5"))
    found, problem = kernels.next_kernel(*places)
    assert found is None
    assert "was not understood" in problem


def test_no_kernel_is_no_answer(tmp_path: Path) -> None:
    found, problem = kernels.next_kernel(*booting(tmp_path))
    assert found is None
    assert "no kernel with an image" in problem


def test_installed_modules_by_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = """
    case "$2 $3" in
    "a nvidia") printf 'version:        580.1\\nlicense:        Dual MIT/GPL\\nfirmware: x: y\\n' ;;
    "b nvidia-current") printf 'license: NVIDIA\\nversion: 535.2\\n' ;;
    "c nvidia") printf 'license: something\\n' ;;
    "d nvidia") echo 'modinfo: ERROR: could not open modules.dep' >&2; exit 1 ;;
    *) echo "modinfo: ERROR: Module $3 not found." >&2; exit 1 ;;
    esac"""
    tools(tmp_path, monkeypatch, modinfo=script)
    monkeypatch.setattr(kernels, "_kernels", lambda: ["a", "b", "c", "d", "e"])
    found = kernels.modules()
    assert found["installed"] == {
        "a": {"version": "580.1", "flavour": "open"},
        "b": {"version": "535.2", "flavour": "closed"},
        "c": {"version": "", "flavour": "unknown"},
    }
    assert found["error"] == "modinfo -k d nvidia: modinfo: ERROR: could not open modules.dep"


# ---- PCI -----------------------------------------------------------------------------------------


def device(root: Path, slot: str, kind: str, vendor: str = "0x10de", **more: Any) -> None:
    """One PCI function as sysfs shows it."""
    folder = root / slot
    folder.mkdir(parents=True)
    values = {"vendor": vendor, "device": "0x2330", "class": kind, "revision": "0xa1", **more}
    config = values.pop("config", b"\xde\x10\x30\x23\0\0\0\0\xa1" + bytes(55))
    if config is not None:
        (folder / "config").write_bytes(config)
    for name, value in values.items():
        (folder / name).write_text(f"{value}\n")


def test_pci_shows_gpus_and_switches_and_which_are_gone(tmp_path: Path) -> None:
    lanes = {"current_link_width": 8, "max_link_width": 16}
    device(tmp_path, "0000:19:00.0", "0x030200", **lanes)
    device(tmp_path, "0000:1a:00.0", "0x030200", config=b"\xff" * 64, **lanes)
    device(tmp_path, "0000:1b:00.0", "0x030000", config=None)
    device(tmp_path, "0000:1b:00.1", "0x040300")
    device(tmp_path, "0000:02:00.0", "0x030000", vendor="0x1a03")
    device(tmp_path, "0000:07:00.0", "0x068000")
    (tmp_path / "0000:19:00.0/driver").symlink_to("../drivers/nvidia")
    found = host_parts.pci(str(tmp_path))
    assert found["nvswitches"] == ["0000:07:00.0"]
    shown = [(g["slot"], g["revision"], g["driver"], g["width"]) for g in found["gpus"]]
    assert shown == [
        ("0000:19:00.0", "a1", "nvidia", 8),
        ("0000:1a:00.0", "ff", "", None),  # the kernel's own file still says a1
        ("0000:1b:00.0", "a1", "", None),
    ]
    assert [g["class"] for g in found["gpus"]] == ["0302", "0302", "0300"]


# ---- the kernel's log ----------------------------------------------------------------------------

ENTRY = json.dumps({"MESSAGE": XID, "__REALTIME_TIMESTAMP": "1795352115553457"})


def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> dict[str, Any]:
    """What the log part says with this journalctl; $grep is set when it was given a pattern."""
    asked = 'for word; do [ "$word" != -g ] || grep=yes; done\n'
    tools(tmp_path, monkeypatch, journalctl=asked + script)
    return kernel_log.log()


def test_xids_of_this_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = journal(tmp_path, monkeypatch, f"cat <<'END'\n{ENTRY}\nEND")
    assert (found["readable"], found["error"]) == (True, "")
    assert found["xids"] == [
        {"slot": "0000:19:00", "code": 79, "time": "2026-11-22T12:55:15Z", "line": XID}
    ]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'Hint: You are currently not seeing messages' >&2", "Hint: You are currently"),
        ("echo 'No journal files were found.' >&2", "No journal files were found."),
        ("echo 'Failed to open' >&2; exit 1", "Failed to open"),
        (":", "no kernel messages of this boot"),
        ("[ -n \"$grep\" ] && exit 7; [ $# -gt 8 ] && exit 1; echo '{}'", ""),
    ],
)
def test_a_log_that_is_not_shown_is_not_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str
) -> None:
    found = journal(tmp_path, monkeypatch, script)
    if why:
        assert (found["readable"], found["xids"]) == (False, [])
        assert why in found["error"]
    else:
        assert (found["readable"], found["error"]) == (True, "")


def test_no_journalctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PATH", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert kernel_log.log()["error"] == "journalctl is not installed"


def test_xids_are_bounded_and_hostile_entries_are_left_out() -> None:
    bytes_of = json.dumps({"MESSAGE": [*XID.encode(), 255], "__REALTIME_TIMESTAMP": "1"})
    odd = [
        "not json Xid",
        '{"MESSAGE": "NVRM: Xid (PCI:0000:19:00): 79"}',
        '{"MESSAGE": 79, "__REALTIME_TIMESTAMP": "1", "Xid": 1}',
        json.dumps({"MESSAGE": "SXid (PCI:0000:19:00): 79", "__REALTIME_TIMESTAMP": "1"}),
        json.dumps({"MESSAGE": XID + "x" * 9999, "__REALTIME_TIMESTAMP": "2000000"}),
        bytes_of,
    ]
    found = kernel_log.xids("\n".join(odd))
    assert [(one["time"], len(one["line"])) for one in found] == [
        ("1970-01-01T00:00:00Z", len(XID) + 1),
        ("1970-01-01T00:00:02Z", reading.MOST_LINE),
    ]
    assert len(kernel_log.xids("\n".join([ENTRY] * 2000))) == kernel_log.MOST_XIDS


# ---- who uses the GPUs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "jobs", "error"),
    [
        ("echo '4711 alice'; echo '4712_3 bob'", [("4711", "alice"), ("4712_3", "bob")], ""),
        (":", [], ""),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", [],
         "squeue: slurm_load_jobs error: Unable to contact slurm controller"),
        ("echo 'slurm_load_jobs error: Invalid node name specified' >&2; exit 1", [], ""),
    ],
)  # fmt: skip
def test_slurm_jobs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    jobs: list[tuple[str, str]],
    error: str,
) -> None:
    tools(tmp_path, monkeypatch, squeue=script)
    monkeypatch.setattr(gpu_users, "_slurmd", lambda: "")  # whatever runs beside the tests
    found = gpu_users.jobs()
    assert [(job["id"], job["user"]) for job in found["jobs"]] == jobs
    assert found["error"] == error
    refused, unknown = "Unable" in script, "Invalid" in script
    assert found["slurm"] == (None if refused else not unknown)


def test_a_slurm_daemon_without_a_queue_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PATH", "/nowhere")
    monkeypatch.setattr(gpu_users, "_slurmd", lambda: "/nowhere/sbin/slurmd")
    assert "slurmd runs here" in gpu_users.jobs()["error"]


@pytest.mark.parametrize(("devices", "complete"), [(["null"], True), (["null", "nvidia0"], False)])
def test_who_sees_only_own_processes_knows_all_where_no_gpu_is(
    devices: list[str], complete: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.listdir

    def listdir(path: str) -> list[str]:
        if path == "/dev":
            return devices
        if path.endswith("/fd") and path != f"/proc/{os.getpid()}/fd":
            raise PermissionError(path)
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    found = gpu_users.holders(os.getpid())
    assert found["complete"] is complete
    assert ("only root sees" in found["error"]) is not complete


def test_holders_are_complete_only_when_jobs_could_be_asked() -> None:
    held = {"complete": True, "processes": [], "error": ""}
    assert host_report.with_jobs(held, {"jobs": [], "error": ""})["complete"] is True
    found = host_report.with_jobs(held, {"jobs": [], "error": "squeue: no"})
    assert (found["complete"], found["error"]) == (False, "squeue: no")


# ---- the whole -----------------------------------------------------------------------------------


def whole(env: str | None, mounts: tuple[str, ...] = (), **limits: float) -> dict[str, Any]:
    """A report of this machine, in a process of its own, with shorter limits."""
    script = (
        "import sys; from verify.payload import host_report\n"
        + "".join(f"host_report.{name} = {value}\n" for name, value in limits.items())
        + "sys.exit(host_report.main([sys.argv[1]]))\n"
    )
    asked = json.dumps({"prefix": "/opt/gpufleet", "env": env, "mounts": mounts})
    done = subprocess.run(
        [sys.executable, "-c", script, asked],
        capture_output=True,
        text=True,
        cwd=paths.REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(line.removeprefix(within.MARK))
    return found


def environment(folder: Path, script: str) -> str:
    """An environment whose Python is a script, readable by everybody."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin/python").chmod(0o755)
    return str(folder)


@pytest.fixture
def public() -> Any:
    """A folder that every user may enter."""
    folder = Path("/var/tmp") / f"gpufleet-test-{os.getpid()}"
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


def test_every_part_is_always_there() -> None:
    found = whole(None)
    assert set(found) == {
        *("schema", "host", "pci", "modules", "kernel", "log", "nvml", "torch", "pip", "holders"),
        *("self_name", "disks", "seconds", "mounts", "network", "clock", "processors"),
        *("memory_errors", "stuck", "iommu", "kernel_lines", "dcgm"),
    }
    assert found["schema"] == 1
    assert (found["torch"]["state"], found["pip"]["state"]) == ("absent", "absent")
    assert [one["path"] for one in found["disks"]] == ["/", "/tmp", "/var/lib", "/opt/gpufleet"]
    assert all(one["total_mib"] > 0 for one in found["disks"])
    assert found["host"]["kernel"] == os.uname().release


def test_a_mount_that_hangs_costs_its_own_part(tmp_path: Path) -> None:
    """Each has its own process and its own time; the same one twice is asked once."""
    script = (
        "from verify.payload import host_report, mount_parts\n"
        "real = mount_parts.mount\n"
        "def mount(path):\n"
        "    if path == '/hangs':\n"
        "        import sys, time\n"
        "        print('stage: statvfs /hangs', file=sys.stderr, flush=True); time.sleep(60)\n"
        "    return real(path)\n"
        "mount_parts.mount, host_report.PART_S = mount, 0.6\n"
        "import json; host_report.main([json.dumps({'prefix': '/opt/gpufleet', 'env': None,"
        " 'mounts': ['/hangs', '/proc', '/hangs', '/nowhere']})])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=paths.REPOSITORY
    )
    found = json.loads(done.stdout.removeprefix(within.MARK))
    shown = [(one["path"], one["mounted"], one["hung"]) for one in found["mounts"]]
    assert shown == [("/hangs", None, True), ("/proc", True, False), ("/nowhere", False, False)]
    assert found["mounts"][0]["error"] == "no answer after 0.6 s at: statvfs /hangs"


def test_an_environment_that_hangs_costs_its_own_part(public: Path) -> None:
    env = environment(public / "env", "echo 'stage: import torch' >&2; exec sleep 60")
    found = whole(env, TORCH_S=0.6, PIP_S=0.6)
    assert (found["torch"]["state"], found["torch"]["stage"]) == ("hung", "import torch")
    assert found["torch"]["error"] == "no answer after 0.6 s at: import torch"
    assert found["pip"]["state"] == "hung"


def test_an_environment_that_still_computes_is_slow_and_not_stuck(public: Path) -> None:
    env = environment(public / "env", "echo 'stage: import torch' >&2; while :; do :; done")
    found = whole(env, TORCH_S=0.6, PIP_S=0.6)
    assert (found["torch"]["state"], found["torch"]["stage"]) == ("slow", "import torch")
    assert "it was still working (load " in found["torch"]["error"]
    assert found["self_name"]["name"] == os.uname().nodename
    assert found["host"]["hostname"] == os.uname().nodename


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("echo Traceback >&2; echo 'ValueError: no' >&2; exit 1", "exit 1: Traceback | ValueEr"),
        ("kill -SEGV $$", "exit -11: it said nothing"),
        ("echo hello", "it printed 0 reports that could be read"),
        ("echo 'GPUFLEET {\"schema\": 1'", "it printed 1 reports that could be read"),
        ("echo 'GPUFLEET {\"schema\": 2}'", "it printed 1 reports that could be read"),
        ("echo 'GPUFLEET {\"schema\":1}'; echo 'GPUFLEET {\"schema\":1}'", "it printed 2 reports"),
    ],
)
def test_an_environment_that_answers_nonsense(public: Path, script: str, error: str) -> None:
    found = whole(environment(public / "env", script))
    for part in ("torch", "pip"):
        assert found[part]["state"] == "failed"
        assert found[part]["error"].startswith(error)


def test_an_environment_that_is_gone() -> None:
    found = whole("/nowhere/env")
    assert found["pip"]["error"] == "exit 127: /nowhere/env/bin/python: No such file or directory"
    assert found["torch"]["state"] == "failed"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_environment_that_only_root_may_enter_is_asked_by_root(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(mode=0o700)
    tell = 'printf \'GPUFLEET {"schema":1,"state":"ok","user":"%s"}\\n\' "$(id -un)"'
    found = whole(environment(tmp_path / "private/env", tell))
    assert (found["torch"]["state"], found["torch"]["user"]) == ("ok", "root")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_environment_is_asked_by_a_user_without_rights(public: Path) -> None:
    tell = 'printf \'GPUFLEET {"schema":1,"state":"ok","user":"%s"}\\n\' "$(id -un)"'
    assert whole(environment(public / "env", tell))["torch"]["user"] == "nobody"


def test_a_part_that_breaks_says_so() -> None:
    script = (
        "from verify.payload import host_parts, host_report, kernels\n"
        "def broken(*_): raise OSError('bad disk')\n"
        "def endless(*_):\n    import time\n    time.sleep(60)\n"
        "def loud(*_):\n    print('x')\n    return [1]\n"
        "host_parts.pci, kernels.kernel, host_parts.disk = broken, endless, loud\n"
        "host_report.PART_S = 0.5\n"
        "import json; print(json.dumps(host_report.report('/opt/gpufleet', None, [])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=paths.REPOSITORY
    )
    found = json.loads(done.stdout)
    assert found["pci"]["error"] == "exit 125: OSError: bad disk"
    assert found["pci"]["gpus"] == []
    assert found["kernel"]["error"] == "no answer after 0.5 s"
    assert (found["kernel"]["running"], found["kernel"]["next"]) == (os.uname().release, None)
    assert found["disks"][0]["error"] == "it printed no report"
    assert found["disks"][0]["free_mib"] is None
    assert found["log"]["source"] == "journalctl -k"


@pytest.mark.parametrize(
    "argument",
    [
        *("", "{}", "[]", '{"prefix": 1, "env": null}', '{"prefix": "/x", "env": "relative"}'),
        *('{"prefix": "/x", "env": null, "mounts": "/data"}',),
        *('{"prefix": "/x", "env": null, "mounts": ["data"]}',),
    ],
)
def test_wrong_arguments(argument: str) -> None:
    done = subprocess.run([sys.executable, SCRIPT, argument], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "wanted" in done.stderr
