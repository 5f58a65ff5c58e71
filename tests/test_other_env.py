"""An environment of --env: what is asked of it, as whom, and what is said when it does not work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import reported
from tests.reported import Host, Ran, changed
from verify import started, test_env, there
from verify.applies import OTHER, Scene, applies
from verify.checks import Look
from verify.payload import host_report, within

ENV = "/home/alice/conda/envs/llm"
ROOT = os.geteuid() == 0


def scene(**torch: Any) -> Scene:
    """A healthy host that is asked for another environment, whose report is changed."""
    of = reported.scene("hgx-h100", asked=reported.request(level="standard", env=ENV))
    return changed(of, lambda parts: parts["report"]["torch"].update(torch))


def works(of: Scene) -> Look:
    look = Look(test_env.test_env.check)  # type: ignore[attr-defined]
    test_env.test_env(of, Host(), look)
    return look


def test_it_is_held_against_itself_and_not_the_lock() -> None:
    look = works(scene(version="2.1.0+cu118", python="3.12.4"))
    assert look.verdict == "pass"
    assert {one.component.name for one in look.observations} == {ENV}
    wheels = test_env.test_wheels.check  # type: ignore[attr-defined]
    assert applies(wheels, scene()).reason == OTHER
    problems = scene()
    problems.report["pip"]["problems"] = ["numpy 1 requires x, which is not installed."]
    problems.report["torch"]["wheels"]["numpy"] = "1"
    look = Look(test_env.test_pip_check.check)  # type: ignore[attr-defined]
    test_env.test_pip_check(problems, look)
    assert [(one.verdict, one.because) for one in look.findings] == [("fail", "")]


@pytest.mark.parametrize(
    ("torch", "found"),
    [
        ({"state": "failed", "error": f"exit 127: {ENV}/bin/python: No such file"}, "No such file"),
        ({"state": "failed", "error": "exit 126: Permission denied"}, "Permission denied"),
        ({"state": "failed", "error": "import torch: ModuleNotFoundError"}, "ModuleNotFoundError"),
        ({"python": "3.8.10"}, "3.8.10"),
    ],
)
def test_what_does_not_work_is_said_with_what_is_wanted(torch: dict[str, Any], found: str) -> None:
    look = works(scene(**torch))
    (finding,) = look.findings
    assert (finding.verdict, finding.component.name) == ("fail", ENV)
    assert found in finding.found
    assert finding.expected
    if "state" in torch:
        assert any("--as its owner" in line for line in finding.evidence)


def test_the_locked_one_by_another_path_is_the_locked_one() -> None:
    of = reported.scene("hgx-h100")
    linked = Host(files={"/opt/gpufleet/env": reported.ENVIRONMENT})
    assert there._other_environment(linked, "/opt/gpufleet/env", of.expected) == ""
    assert there._other_environment(linked, ENV, of.expected) == ENV
    assert there._other_environment(linked, ENV, None) == ENV
    assert there._other_environment(linked, "", of.expected) == ""


def test_its_python_is_what_trains() -> None:
    of = scene()
    assert there.environment_python(of.asked, of.expected, of.report) == f"{ENV}/bin/python"


# ---- activation


def active(env: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    words = [*started.activated(str(env)), *command]
    return subprocess.run(words, env={"PATH": "/usr/bin:/bin", **variables},
                          capture_output=True, text=True, timeout=20)  # fmt: skip


SHOW = 'echo "$VIRTUAL_ENV|$CONDA_PREFIX|$CONDA_SHLVL|${PATH%%:*}|$PYTHONHOME|$FROM_PACKAGE"'


def test_a_venv_and_a_conda_environment_are_active_as_their_own_scripts_make_them(
    tmp_path: Path,
) -> None:
    venv, conda = tmp_path / "venv", tmp_path / "conda"
    venv.mkdir()
    (venv / "pyvenv.cfg").touch()
    done = active(venv, "sh", "-c", SHOW, PYTHONHOME="/x")
    assert done.stdout == f"{venv}|||{venv}/bin||\n"
    (conda / "conda-meta").mkdir(parents=True)
    assert active(conda, "sh", "-c", SHOW).stdout == f"|{conda}|1|{conda}/bin||\n"
    scripts = conda / "etc/conda/activate.d"
    scripts.mkdir(parents=True)
    (scripts / "a.sh").write_text("export FROM_PACKAGE=$CONDA_PREFIX/lib\n")
    (scripts / "b.sh").write_text("false\n")
    done = active(conda, "sh", "-c", SHOW)
    assert done.stdout == f"|{conda}|1|{conda}/bin||{conda}/lib\n"


def test_words_of_a_command_are_never_read_as_shell(tmp_path: Path) -> None:
    odd = "$(touch /tmp/never); `id` 'x' \"y\""
    assert active(tmp_path, "printf", "%s", odd).stdout == odd


# ---- as whom


def test_limits_are_read_as_the_kernel_shows_them() -> None:
    text = Path("/proc/self/limits").read_text()
    found = within.limits_of(text)
    assert {kind for kind, _, _ in found} == set(within.LIMITS.values())
    import resource

    for kind, soft, hard in found:
        assert resource.getrlimit(kind) == (soft, hard)
    assert within.limits_of("Max open files 1\nrubbish\nMax locked memory     x   y  bytes\n") == ()


@pytest.mark.skipif(not ROOT, reason="only root can become another user")
def test_a_session_has_its_own_home_and_no_rights_of_root(tmp_path: Path) -> None:
    words = [sys.executable, within.__file__, "20", "--user", "nobody", "--session", "--login"]
    script = 'echo "$HOME"; id -u; ls -ld "$TMPDIR"'
    done = subprocess.run([*words, "--", "sh", "-c", script], capture_output=True, text=True)
    said = json.loads(done.stdout.removeprefix("GPUFLEET "))
    home, uid, listed = said["out"].splitlines()
    import pwd

    entry = pwd.getpwnam("nobody")
    assert (home, int(uid)) == (entry.pw_dir, entry.pw_uid)
    assert listed.startswith("drwx------")


@pytest.mark.skipif(not ROOT, reason="only root can become another user")
def test_a_session_that_pam_does_not_open_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runuser").write_text("#!/bin/sh\necho 'cannot open session' >&2; exit 1\n")
    (tmp_path / "runuser").chmod(0o755)
    monkeypatch.setattr(within, "PATH", f"{tmp_path}:{within.PATH}")
    user = within.user_of("nobody")
    try:
        with pytest.raises(within.Refused, match="no session of user nobody can be opened: cannot"):
            within.in_session(user)
    finally:
        within.remove(user)


@pytest.mark.skipif(not ROOT, reason="only root could run it as root")
@pytest.mark.long
def test_its_python_never_runs_as_root(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Not even where nobody else may read it, as one of ours in a private home does."""
    place = Path("/var/tmp") / f"gpufleet-test-{os.getpid()}"
    try:
        (place / "bin").mkdir(parents=True)
        (place / "bin/python").write_text(f"#!/bin/sh\nid -u >>{place}/uids\nexit 3\n")
        (place / "bin/python").chmod(0o755)
        (place / "uids").touch(mode=0o666)
        (place / "uids").chmod(0o666)
        for mode in (0o755, 0o700):
            place.chmod(mode)
            question = {"prefix": str(place), "env": str(place),
                        "front": started.activated(str(place)), "user": ""}  # fmt: skip
            done = subprocess.run(
                [sys.executable, host_report.__file__, json.dumps(question)],
                capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            found = json.loads(done.stdout.removeprefix("GPUFLEET "))
            assert found["torch"]["state"] == "failed"
        uids = set((place / "uids").read_text().split())
        assert uids
        assert "0" not in uids
    finally:
        import shutil

        shutil.rmtree(place, ignore_errors=True)


def test_a_user_is_looked_for_only_where_one_is_named() -> None:
    asked = reported.request()
    here = Host(answers={"printf": Ran(stdout="alice")})
    assert there.way(here, asked, True, "root").user == "alice"
