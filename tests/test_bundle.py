"""The bundle: the same bytes for the same sources, whole on a host or not run there at all."""

import ast
import base64
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from deploy.fleet.errors import WrongInput
from verify import bundle as module
from verify.bundle import MANIFEST, PIECES, ROOM, Bundle, build
from verify.launch import Action, Said, said, script

NONCE = "0123456789abcdef"
ONHOST = """\
import json, os, sys
request = json.load(sys.stdin)
assert sys.version_info >= (3, 10) and sys.dont_write_bytecode
print("GPUFLEET", json.dumps({"asked": request, "folder": os.getcwd()}))
sys.exit(request.get("exit", 0))
"""


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A folder of checks: every piece that must travel, two checks, and what stays."""
    room = tmp_path / "room"
    (room / "payload").mkdir(parents=True)
    (room / "data").mkdir()
    for name in PIECES:
        (room / name).write_text(f'"""{name}"""\n')
    (room / "attended.py").write_text((ROOM / "attended.py").read_text())
    (room / "onhost.py").write_text(ONHOST)
    (room / "test_gpu.py").write_text("def test_gpu(): ...\n")
    (room / "data/xids.json").write_text("{}\n")
    (room / "runner.py").write_text("import deploy\n")
    return room


@pytest.fixture
def small(room: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle without the vendored libraries: what a host does with it is the same."""
    monkeypatch.setattr(module, "DISTRIBUTIONS", {})
    return build(room)


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return tmp_path / "host/opt"


def on_host(
    prefix: Path, action: Action, made: Bundle, *, request: str = "{}", archive: str = ""
) -> tuple[Said | None, str]:
    """What launch.sh says on a host that is a folder here, and all that it printed."""
    text = script(
        action,
        id=made.id,
        prefix=str(prefix),
        privileged=False,
        nonce=NONCE,
        limit_s=20,
        request=request,
    )
    content = base64.b64encode(archive.encode("latin-1") or made.archive).decode()
    ran = subprocess.run(
        ["sh", "-c", text],
        input=content if action == "push" else "",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, "or it would be run once more, as another user"
    return said(ran.stdout, NONCE), ran.stdout


def pushed(prefix: Path, made: Bundle) -> Path:
    answer, _ = on_host(prefix, "push", made)
    assert answer is not None
    assert answer.word == "pushed", answer
    return prefix / "bundle" / made.id


def test_equal_sources_give_equal_bytes(room: Path) -> None:
    first = build(room)
    for path in room.rglob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o600)
    (room / "test_gpu.py").rename(room / "later")
    (room / "later").rename(room / "test_gpu.py")
    (room / "__pycache__").mkdir()
    (room / "__pycache__/checks.cpython-311.pyc").write_bytes(b"x")
    again = build(room)
    assert (again.id, again.archive) == (first.id, first.archive)
    (room / "test_gpu.py").write_text("def test_gpu(): pass\n")
    assert build(room).id != first.id


def test_the_archive_is_what_the_manifest_says(room: Path) -> None:
    made = build(room)
    with tarfile.open(fileobj=io.BytesIO(made.archive)) as tar:
        assert {(one.mode, one.mtime, one.uid, one.isfile()) for one in tar} == {
            (0o644, module.WRITTEN, 0, True)
        }
        names = tar.getnames()
    assert names == [MANIFEST, *(line[66:] for line in made.manifest.splitlines())]
    assert {"verify/onhost.py", "verify/test_gpu.py", "verify/data/xids.json"} <= set(names)
    assert "verify/runner.py" not in names
    assert {name for name in names if not name.endswith((".py", ".json"))} == {MANIFEST}


def test_every_missing_piece_is_named_at_once(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (room / "onhost.py").unlink()
    monkeypatch.setitem(module.DISTRIBUTIONS, "no-such-distribution", ("nothing",))
    monkeypatch.setitem(module.DISTRIBUTIONS, "packaging", ("packaging", "gone.py"))
    with pytest.raises(WrongInput) as caught:
        build(room)
    text = str(caught.value)
    assert "onhost.py: cannot be read (No such file or directory)" in text
    assert "is not installed here: python -m pip install no-such-distribution" in text
    assert "packaging: does not list gone.py among its files" in text


@pytest.mark.long
def test_pytest_runs_from_the_bundle_alone(room: Path, tmp_path: Path) -> None:
    """The vendored libraries are complete: no other module of this installation is used."""
    for path, content in build(room).files.items():
        (tmp_path / "bundle" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bundle" / path).write_bytes(content)
    (tmp_path / "test_it.py").write_text(
        "def test_it(host):\n    assert host.file('/etc/passwd').exists\n"
    )
    code = (
        "import sys; sys.path[:0] = ['lib']; import pynvml, pytest; "
        "sys.exit(pytest.main(['-p', 'testinfra.plugin', '-q', '-p', 'no:cacheprovider', "
        f"'--hosts=local://', '{tmp_path}/test_it.py']))"
    )
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", code],
        cwd=tmp_path / "bundle",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "1 passed" in ran.stdout, ran.stdout + ran.stderr


@pytest.mark.long
def test_what_travels_is_written_for_python_3_10(room: Path) -> None:
    files = {path: text for path, text in build(room).files.items() if path.endswith(".py")}
    files |= {str(path): path.read_bytes() for path in ROOM.glob("*.py")}
    assert len(files) > 100
    for path, text in files.items():
        ast.parse(text, filename=path, feature_version=(3, 10))


def test_a_bundle_arrives_is_checked_and_runs(prefix: Path, small: Bundle) -> None:
    assert on_host(prefix, "run", small)[0] == Said(
        "missing", os.getuid(), f"{prefix}/bundle/{small.id}"
    )
    place = pushed(prefix, small)
    assert place.stat().st_mode & 0o777 == 0o755
    assert on_host(prefix, "check", small)[0] == Said("ready", os.getuid(), f"python3 {place}")
    for _ in range(2):
        answer, printed = on_host(prefix, "run", small, request='{"it\'s": "$(odd)"}')
        assert answer is None
        assert f'{{"asked": {{"it\'s": "$(odd)"}}, "folder": "{place}"}}' in printed
    assert not list(place.rglob("__pycache__")), "running leaves nothing behind"
    answer, _ = on_host(prefix, "run", small, request='{"exit": 3}')
    assert answer == Said("ended", os.getuid(), "3")


TAMPERED = {
    "verify/checks.py has other content": lambda place: (place / "verify/checks.py").write_text(""),
    "verify/test_gpu.py is missing": lambda place: (place / "verify/test_gpu.py").unlink(),
    "verify/test_new.py does not belong there": lambda place: (
        place / "verify/test_new.py"
    ).write_text(""),
    "verify/__pycache__/x.pyc does not belong there": lambda place: (
        (place / "verify/__pycache__").mkdir(),
        (place / "verify/__pycache__/x.pyc").write_text(""),
    ),
    "verify/data/xids.json is no plain file": lambda place: (
        (place / "verify/data/xids.json").rename(place.parent / "elsewhere"),
        (place / "verify/data/xids.json").symlink_to(place.parent / "elsewhere"),
    ),
    "MANIFEST is not that of this bundle": lambda place: (place / MANIFEST).write_text(""),
    "MANIFEST is missing": lambda place: (place / MANIFEST).unlink(),
    "is missing": lambda place: (place / "verify/test_\nx.py").write_text(""),
}


@pytest.mark.parametrize("words", TAMPERED)
def test_a_tampered_bundle_is_named_and_not_run_until_it_is_pushed_again(
    words: str, prefix: Path, small: Bundle
) -> None:
    place = pushed(prefix, small)
    TAMPERED[words](place)
    answer, printed = on_host(prefix, "run", small)
    assert answer is not None
    assert answer.word == "damaged"
    assert f"{place}: " in answer.text
    assert words in answer.text
    assert "asked" not in printed, "it did not run"
    pushed(prefix, small)
    assert on_host(prefix, "run", small)[0] is None
    assert (prefix / "bundle/.replaced").is_dir(), "kept to be looked at"


def test_a_folder_that_others_can_write_to_is_not_trusted(prefix: Path, small: Bundle) -> None:
    place = pushed(prefix, small)
    place.parent.chmod(0o777)
    answer, _ = on_host(prefix, "run", small)
    assert answer == Said(
        "unsafe", os.getuid(), f"{place.parent} can be written by others (mode 777)"
    )
    if os.getuid() == 0:
        place.parent.chmod(0o755)
        prefix.chmod(0o707)
        answer, _ = on_host(prefix, "run", small)
        assert answer is not None
        assert answer.text == f"{prefix} can be written by others (mode 707)"
        prefix.chmod(0o755)
        os.chown(prefix, 12345, 0)
        answer, _ = on_host(prefix, "run", small)
        assert answer is not None
        assert answer.text == f"{prefix} belongs to user 12345"


def test_what_does_not_arrive_whole_is_not_kept(prefix: Path, small: Bundle) -> None:
    half = small.archive[: len(small.archive) // 2].decode("latin-1")
    answer, _ = on_host(prefix, "push", small, archive=half)
    assert answer is not None
    assert answer.word == "cannot"
    other = Bundle({**small.files, "verify/checks.py": b"other"}).archive.decode("latin-1")
    answer, _ = on_host(prefix, "push", small, archive=other)
    assert answer is not None
    assert answer.text.endswith(
        f"did not arrive whole in {prefix}/bundle: MANIFEST is not that of this bundle"
    )
    assert list((prefix / "bundle").iterdir()) == []


def test_the_previous_bundle_and_those_in_use_stay(prefix: Path, small: Bundle) -> None:
    places = []
    for number in range(4):
        made = Bundle({**small.files, "verify/number.py": f"{number}".encode()})
        places.append(pushed(prefix, made))
        os.utime(places[-1], (number + 1, number + 1))
        if number == 0:
            holder = subprocess.Popen(
                ["flock", "-s", places[0], "sh", "-c", "echo held; read x"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert holder.stdout is not None
            holder.stdout.readline()
    assert [place.exists() for place in places] == [True, False, True, True]
    holder.communicate(b"\n")
    pushed(prefix, small)
    assert [place.exists() for place in places] == [False, False, False, True]


def test_without_a_python_it_says_what_there_is(
    prefix: Path, small: Bundle, tmp_path: Path
) -> None:
    pushed(prefix, small)
    tools = tmp_path / "tools"
    tools.mkdir()
    for folder in ("/usr/bin", "/bin"):
        for path in Path(folder).iterdir():
            if not path.name.startswith("python") and not (tools / path.name).exists():
                (tools / path.name).symlink_to(path)
    old = tools / "python3"
    old.write_text("#!/bin/sh\n[ $1 = -V ] && echo Python 3.9.2\nexit 1\n")
    old.chmod(0o755)
    text_path = f"{tools}:/nowhere"
    answer, printed = on_host_with_tools(prefix, small, text_path)
    assert answer is not None
    assert answer.word == "no-python"
    assert answer.text == f"neither at {prefix}/env/bin/python nor as python3 (Python 3.9.2)"
    assert "asked" not in printed
    (prefix / "env/bin").mkdir(parents=True)
    (prefix / "env/bin/python").symlink_to(sys.executable)
    answer, printed = on_host_with_tools(prefix, small, text_path)
    assert answer is None
    assert "asked" in printed


def on_host_with_tools(prefix: Path, made: Bundle, path: str) -> tuple[Said | None, str]:
    """As `on_host`, on a host whose only programs are those on `path`."""
    text = script(
        "run", id=made.id, prefix=str(prefix), privileged=False, nonce=NONCE, limit_s=20,
        request="{}",
    )  # fmt: skip
    usual = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert text.startswith(usual)
    text = text.replace(usual, f"PATH={path}", 1)
    ran = subprocess.run(["sh", "-c", text], capture_output=True, text=True, timeout=60)
    return said(ran.stdout, NONCE), ran.stdout


def test_without_root_where_it_was_wanted_the_bundle_is_the_users_own(
    prefix: Path, small: Bundle, tmp_path: Path
) -> None:
    text = script(
        "run", id=small.id, prefix=str(prefix), privileged=True, nonce=NONCE, limit_s=20
    ).replace("uid=$(id -u)", "uid=4711")
    for given, place in (
        ({"HOME": "/home/me", "XDG_CACHE_HOME": ""}, "/home/me/.cache"),
        ({"HOME": "/home/me", "XDG_CACHE_HOME": "/cache"}, "/cache"),
    ):
        ran = subprocess.run(["sh", "-c", text], env=given, capture_output=True, text=True)
        assert said(ran.stdout, NONCE) == Said(
            "missing", 4711, f"{place}/gpufleet/bundle/{small.id}"
        )
    ran = subprocess.run(["sh", "-c", text], env={"HOME": ""}, capture_output=True, text=True)
    answer = said(ran.stdout, NONCE)
    assert answer is not None
    assert answer.word == "cannot"


def test_only_our_own_line_is_taken_for_ours() -> None:
    noise = "GPUFLEET-LAUNCH 1111 ready 0 /x\nWelcome! GPUFLEET-LAUNCH 22 damaged 0 \x1b[31mred"
    assert said(noise, "22") == Said("damaged", 0, "red")
    assert said(noise, "33") is None
    assert said("GPUFLEET-LAUNCH 22 damaged x y", "22") is None


def test_checks_end_when_nobody_listens_any_more(prefix: Path, room: Path, small: Bundle) -> None:
    slow = "import os, sys, time\nprint(os.getpid(), file=sys.stderr, flush=True)\ntime.sleep(60)\n"
    made = Bundle({**small.files, "verify/onhost.py": slow.encode()})
    pushed(prefix, made)
    text = script("run", id=made.id, prefix=str(prefix), privileged=False, nonce=NONCE, limit_s=50)
    with subprocess.Popen(
        ["sh", "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as asked:
        assert asked.stdout is not None
        assert asked.stderr is not None
        pid = int(asked.stderr.readline())
        assert Path(f"/proc/{pid}").exists()
        asked.stdout.close()
        assert asked.wait(20) is not None
    assert not Path(f"/proc/{pid}").exists()
