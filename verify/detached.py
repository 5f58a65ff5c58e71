"""Runs the checks of level deep on the host itself, apart from whoever asked for them.

    detached.py start|poll|stop <REQUEST    one line GPUFLEET {json} about it, at once
    detached.py work FOLDER                 the run itself: for `start` alone

The run outlives its controller, a lost connection and a logout: as root with systemd it is a
transient unit of its own, elsewhere a session of its own. It ends at its own deadline. Everything
about it is in one folder below /var/lib/gpufleet/deep (without root: beside the bundles), so that
any controller can collect it. Travels: standard library only, Python 3.10.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [str(ROOT), *(p for p in sys.path if p != str(ROOT / "verify"))]

from verify.payload import gpu_users  # noqa: E402
from verify.payload.within import Child, executes  # noqa: E402

MARK = "GPUFLEET "
SYSTEM = Path("/var/lib/gpufleet/deep")
FOLDER = "GPUFLEET_SOAK_FOLDER"
"""Environment variable for verify/test_deep.py: where the soak keeps what it knows."""
CHECKS_S = 600.0
"""For all checks but the soak and DCGM's diagnosis: those of level standard."""
DCGM_S = 2760.0
SPARE_S = 180.0
"""For the soak's start and end (verify/soak.py)."""
WATCH_S = 10.0
"""Between two looks at who uses the GPUs."""
BEGIN_S = 15.0
"""In which a run that was started has to be there."""
KEPT = 3
"""Runs whose folders stay."""
MOST_BYTES = 2_000_000
NAME = re.compile(r"[0-9TZ-]{8,40}")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOT_ID = "/proc/sys/kernel/random/boot_id"

Document = dict[str, Any]


def base(prefix: str) -> Path:
    """Where runs are kept: as the record of the last good run (verify/own.py)."""
    below = os.geteuid() != 0 or os.path.exists(f"{prefix}/expected.json")
    return ROOT.parent.parent / "deep" if below else SYSTEM


def read(path: Path) -> str | None:
    """The text of a plain file, bounded; None without one. Others may have made it."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(opened, "rb") as file:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            return None
        return file.read(MOST_BYTES).decode(errors="replace")


def loaded(path: Path) -> Document:
    """The JSON object in a file; {} without one."""
    try:
        found = json.loads(read(path) or "")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def keep(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file at once or not at all."""
    beside = path.with_name(f".{path.name}.new")
    opened = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(opened, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def held(folder: Path) -> bool:
    """Whether a run is going: it holds the lock for as long as it lives."""
    try:
        with (folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def boot_id() -> str:
    return (read(Path(BOOT_ID)) or "").strip()


# ---- start


def start(asked: Document) -> Document:
    """Start a run, unless one is going."""
    run, request = asked["run"], asked["request"]
    folder = base(request["prefix"])
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)  # a soak runs as another user, in a folder below this one
    if held(folder):
        return {**state(folder, _newest(folder)), "state": "refused"}
    mine = folder / run
    mine.mkdir(mode=0o711)
    mine.chmod(0o711)
    (mine / "soak").mkdir(mode=0o700)
    limit = 60 * request["minutes"] + CHECKS_S + DCGM_S + SPARE_S
    now = time.time()
    record = {
        "run": run, "by": asked["by"], "host": request["host"], "nonce": request["nonce"],
        "bundle": ROOT.name, "boot_id": boot_id(), "started": now,
        "minutes": request["minutes"], "deadline": now + limit,
        "until": now + 60 * request["minutes"] + CHECKS_S / 2,
        "login": os.environ.get("SUDO_USER", ""),
    }  # fmt: skip
    keep(mine / "request.json", json.dumps(request))
    keep(mine / "record.json", json.dumps(record))
    _spawn(mine, limit)
    deadline = time.monotonic() + BEGIN_S
    while time.monotonic() < deadline:
        if (mine / "pid").exists() or (mine / "end.json").exists():
            _prune(folder)
            return {**state(folder, run), "state": "started"}
        time.sleep(0.05)
    return {**state(folder, run), "state": "failed", "why": "it did not start: see the journal"}


def _spawn(mine: Path, limit: float) -> None:
    work = [sys.executable, "-I", "-S", "-B", str(ROOT / "verify/detached.py"), "work", str(mine)]
    nothing = subprocess.DEVNULL
    if os.geteuid() == 0 and os.path.isdir("/run/systemd/system"):
        unit = ["systemd-run", "--quiet", "--collect", f"--unit=gpufleet-deep-{mine.name}"]
        # The run ends itself; systemd is there for when it cannot.
        for one in (
            "KillMode=control-group",
            "TimeoutStopSec=20",
            f"RuntimeMaxSec={limit + 120:.0f}",
        ):
            unit.append(f"--property={one}")
        try:
            if subprocess.run([*unit, *work], stdin=nothing, timeout=10).returncode == 0:
                return
        except (OSError, subprocess.TimeoutExpired):
            pass
    subprocess.Popen(work, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)


def _newest(folder: Path) -> str:
    runs = [one for one in folder.iterdir() if NAME.fullmatch(one.name) and one.is_dir()]
    return max(runs, key=lambda one: one.stat().st_mtime).name if runs else ""


def _prune(folder: Path) -> None:
    runs = [one for one in folder.iterdir() if NAME.fullmatch(one.name) and one.is_dir()]
    for old in sorted(runs, key=lambda one: one.stat().st_mtime)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


# ---- poll and stop


def state(folder: Path, run: str) -> Document:
    """How far a run is, with its answer when it has one."""
    record = loaded(folder / run / "record.json") if run else {}
    names = ("run", "by", "host", "nonce", "bundle", "started", "minutes", "until", "boot_id")
    found: Document = {"schema": 1, "state": "none", "why": "", "stage": "", "answer": "",
                       "partial": [], "left_s": 0, "now": time.time()}  # fmt: skip
    if not record:
        return found
    mine = folder / run
    found |= {name: record.get(name) for name in names}
    found["partial"] = partial(mine / "soak")
    end = loaded(mine / "end.json")
    if end and record.get("boot_id") != boot_id() and not (mine / "answer").exists():
        return {**found, "state": "ended", "why": "the host was rebooted in the middle, in order"}
    if end:
        return {**found, "state": "ended", "why": str(end.get("why", ""))[:600],
                "answer": read(mine / "answer") or ""}  # fmt: skip
    left = float(record.get("until") or 0) - time.time()
    if held(folder) and _newest(folder) == run:
        soaks = [line for line in found["partial"] if ": running in" in line]
        stage = "soak" if soaks else "other checks"
        return {**found, "state": "running", "stage": stage, "left_s": max(0.0, left)}
    rebooted = record.get("boot_id") != boot_id()
    why = "the host went down in the middle" if rebooted else "its process was killed"
    return {**found, "state": "lost", "why": why}


def partial(folder: Path) -> list[str]:
    """What every rank of the soak had done when it was last heard of, a line each."""
    lines = []
    for number in range(64):
        rank = loaded(folder / f"rank-{number}.json")
        if not rank:
            break
        try:
            memory, compute = rank["memory"], rank["compute"]
            lines.append(
                f"rank {number}: {str(rank['state'])[:20]} in {str(rank['stage'])[:40]}, "
                f"{int(memory['rounds'])} rounds over {int(memory['bytes']) >> 20} MiB with "
                f"{int(memory['wrong_words'])} wrong words, {int(compute['products'])} products "
                f"with {int(compute['wrong_products'])} wrong"
            )
        except (KeyError, TypeError, ValueError):
            lines.append(f"rank {number}: its record cannot be used")
    return lines


def stop(mine: Path, why: str) -> None:
    """Ask the soak to end; what it has done until then is its answer."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(mine / "soak/stop", flags, 0o644), "w") as file:
            file.write(why[:300])
    except OSError:
        pass  # it was asked before, or has ended


# ---- the run itself


def work(mine: Path) -> int:
    """Ask the checks under a deadline; leave the answer, or the reason why there is none."""
    lock = (mine.parent / "lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        keep(mine / "end.json", json.dumps({"why": "another run was faster"}))
        return 1
    # Nobody takes the bundle away meanwhile (verify/launch.sh, tidy).
    bundle = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(bundle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    record = loaded(mine / "record.json")
    keep(mine / "pid", str(os.getpid()))
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: told.append(number))
    environment = {
        "PATH": PATH, "LC_ALL": "C", "PYTHONDONTWRITEBYTECODE": "1", FOLDER: str(mine / "soak"),
        "HOME": pwd.getpwuid(os.geteuid()).pw_dir,
    }  # fmt: skip
    if record.get("login"):
        environment["SUDO_USER"] = str(record["login"])
    onhost = [sys.executable, "-I", "-S", "-B", str(ROOT / "verify/onhost.py")]
    run = executes(onhost, environment)

    def with_request() -> None:
        os.dup2(os.open(mine / "request.json", os.O_RDONLY), 0)
        run()

    child = Child(with_request, float(record["deadline"]) - time.time())
    watched = time.monotonic()
    while not child.look():
        if told:
            child.stop()
        if time.monotonic() - watched > WATCH_S:
            stranger = others()
            if stranger:
                stop(mine, f"busy: {stranger}")
            watched = time.monotonic()
        time.sleep(0.1)
    ended = child.document()
    lines = [line for line in ended["out"].splitlines() if line.startswith(MARK)]
    if lines and ended["rc"] == 0:
        keep(mine / "answer", "\n".join(lines) + "\n")
    keep(mine / "end.json", json.dumps({"why": _why(ended, told, bool(lines))}))
    return 0


def _why(ended: Document, told: list[int], answered: bool) -> str:
    if answered and ended["rc"] == 0:
        return ""
    last = " | ".join(ended["err"].strip().splitlines()[-3:])[-300:]
    if told:
        return f"it was told to stop (signal {told[0]})"
    how = "it did not end in time" if ended["hung"] else f"the checks ended with {ended['rc']}"
    return f"{how}: {last or 'and said nothing'}"


def others() -> str:
    """Who uses the GPUs besides this run; "" when nobody is seen."""
    users = gpu_users.holders(os.getpid())["processes"]
    if users:
        return f"{users[0]['command']} (pid {users[0]['pid']}) of {users[0]['user']}"
    jobs = gpu_users.jobs()["jobs"]
    return f"job {jobs[0]['id']} of {jobs[0]['user']}" if jobs else ""


def answer(action: str, asked: Document) -> Document:
    """What start, poll and stop say."""
    if asked.get("schema") != 1 or not NAME.fullmatch(asked.get("run") or "0" * 8):
        return {"schema": 1, "state": "failed", "why": "the request cannot be used"}
    try:
        if action == "start":
            return start(asked)
        folder = base(asked["request"]["prefix"])
        run = asked["run"] or (_newest(folder) if folder.is_dir() else "")
        if action == "stop" and state(folder, run)["state"] == "running":
            stop(folder / run, f"stopped by {asked['by']}")
        return state(folder, run)
    except OSError as error:
        return {"schema": 1, "state": "failed", "why": f"{error.strerror}: {error.filename}"}


def main(argv: list[str]) -> int:
    if argv[:1] == ["work"]:
        return work(Path(argv[1]))
    found = answer(argv[0], json.loads(sys.stdin.read()))
    print(MARK + json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
