"""Evidence: read as hostile data, without what it must not carry, in an archive with a manifest."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from deploy.cli import main
from deploy.fleet.redact import Redactor
from tests import verified
from tests.verified import healthy, recorded, remap_pending
from verify import evidence
from verify.commands import evidence as command
from verify.evidence import BadEvidence, Source, archive, clean, pieces, read, rows, table
from verify.runner import Answer

Captured = pytest.CaptureFixture[str]
SECRETS = Redactor(["inv3ntory-s3cret"])
CANARIES = {
    "inventory": ("sudo -S with inv3ntory-s3cret", "inv3ntory-s3cret"),
    "password": ("mount -o password=c4nary-1,rw", "c4nary-1"),
    "option": ("app --api-key c4nary-2 --lr 3", "c4nary-2"),
    "json": ('"auth_token": "c4nary-3"', "c4nary-3"),
    "variable": ("WANDB_WHATEVER=c4nary-4", "c4nary-4"),
    "export": ("export MY_SETTING=c4nary-5", "c4nary-5"),
    "url": ("proxy http://bob:c4nary-6@proxy:3128", "c4nary-6"),
    "bearer": ("Authorization: Bearer c4nary7abcdef", "c4nary7abcdef"),
    "aws": ("AKIAABCDEFGHIJKLMNOP", "AKIAABCDEFGHIJKLMNOP"),
    "hugging": ("hf_abcdefghijklmnopqrst", "hf_abcdefghijklmnopqrst"),
    "jwt": ("eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2lnbmF0dXJl", "eyJzdWIiOiIxMjM0"),
    "key": ("ssh-ed25519 AAAAC3NzaC1lZDI1 alice@laptop", "AAAAC3NzaC1lZDI1"),
    "pem": ("-----BEGIN EC PRIVATE KEY-----\nc4nary8\n-----END EC PRIVATE KEY-----", "c4nary8"),
    "cut-pem": ("-----BEGIN RSA PRIVATE KEY-----\nc4nary9", "c4nary9"),
    "e-mail": ("report to alice.b@example.com", "alice.b@example.com"),
    "address": ("link to 10.20.30.40 up", "10.20.30.40"),
    "six": ("link to fe80::1ff:fe23:4567:890a up", "fe80::1ff:fe23:4567:890a"),
    "mac": ("eth0 02:42:ac:11:00:02", "02:42:ac:11:00:02"),
    "home": ("python in /home/alice/run.py", "alice"),
    "ps-aux": ("alice 4711 99.0 1.2 1 2 ? Sl 12:00 1:02 python train.py --run c4naryA", "c4naryA"),
    "ps-ef": ("alice 4711 1 9 12:00 ? 00:01:02 python train.py --run c4naryB", "c4naryB"),
    "process": ("        Name                  : /data/secretproject/train", "secretproject"),
    "cmdline": ("cmdline: python c4naryC", "c4naryC"),
}  # fmt: skip
KEPT = (
    "2026-11-22T12:00:01+0000 h1 kernel: NVRM: Xid (PCI:0000:19:00): 79, pid=123, GPU has fallen",
    "Nov 22 12:00:00 h1 kernel: NVRM: Xid (PCI:0000:19:00): 48, DBE",
    "   1 | 03/20/2021 | 00:58:40 | Memory #0x60 | Uncorrectable ECC | Asserted",
    "    VBIOS Version                 : 96.00.74.00.01",
    "    Serial Number                 : 1650923012345",
    "    GPU UUID                      : GPU-8f7f0c3e-0000-4000-8000-000000000001",
    "    Product Name                  : NVIDIA H100 80GB HBM3",
    "00000000:19:00.0 3D controller [0302]: NVIDIA Corporation GH100 [10de:2330] (rev a1)",
    "Driver Version                    : 580.95.05",
    "product_serial: ABC1234",
)


# ---- redaction


@pytest.mark.parametrize("name", CANARIES)
def test_a_canary_leaves_no_text(name: str) -> None:
    text, secret = CANARIES[name]
    for around in (text, f"before\n{text}\nafter", f"  {text}" if name[:2] != "ps" else text):
        assert secret not in clean(around, SECRETS), clean(around, SECRETS)


@pytest.mark.parametrize("line", KEPT)
def test_what_an_rma_needs_stays(line: str) -> None:
    assert clean(line, SECRETS) == line


def sent(file: str, text: str, **more: Any) -> dict[str, Any]:
    values = {
        "file": file, "command": file, "exit": 0, "seconds": 0.5, "hung": False,
        "truncated": False, "missing": "", "text": text,
    }  # fmt: skip
    return {**values, **more}


def test_no_source_brings_a_canary_into_the_archive() -> None:
    everything = "\n".join(text for text, _ in CANARIES.values())
    sources = [Source(**sent(file, everything)) for file in sorted(evidence.FILES)]
    packed = archive("top", {"host": "gpu1"}, pieces(sources, SECRETS))
    found = unpacked(packed)
    assert len(found) == len(evidence.FILES) + 1
    for name, text in found.items():
        for canary, (_, secret) in CANARIES.items():
            if name == "top/versions.txt" and canary in ("address", "six"):
                continue  # versions of four parts look like addresses; the file has no others
            assert secret not in text, (name, canary)


# ---- the host's answer


def line(*sources: dict[str, Any]) -> str:
    packed = base64.b64encode(gzip.compress(json.dumps({"sources": sources}).encode())).decode()
    return f"banner\nGPUFLEET {json.dumps({'schema': 1, 'packed': packed})}\n"


def unpacked(data: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
        assert all(one.isfile() and one.name.startswith("top/") for one in members)
        return {one.name: tar.extractfile(one).read().decode() for one in members}  # type: ignore[union-attr]


BOMB = base64.b64encode(gzip.compress(b"0" * 90_000_000)).decode()


@pytest.mark.parametrize(
    "out",
    [
        "",
        line(sent("sel.txt", "x")) * 2,
        line(sent("../../etc/passwd", "x")),
        line(sent("sel.txt", "x"), sent("sel.txt", "y")),
        line(sent("sel.txt", "x", seconds=-1)),
        line(sent("sel.txt", "x", more=1)),
        line(sent("sel.txt", "x"))[:-40],
        'GPUFLEET {"schema": 2, "packed": ""}',
        'GPUFLEET {"schema": 1, "packed": "no base64!"}',
        f'GPUFLEET {{"schema": 1, "packed": "{BOMB}"}}',
        line(sent("sel.txt", "x")).replace("H4s", "AAA"),
    ],
)
def test_an_answer_that_cannot_be_used_is_said_and_nothing_else(out: str) -> None:
    with pytest.raises(BadEvidence):
        read(out)


def test_the_manifest_tells_of_every_file_and_of_what_is_missing() -> None:
    sources = read(
        line(
            sent("kernel.txt", "a\x1b[31mb\nh1 kernel: NVRM: Xid (PCI:0000:19:00): 79, x\n"),
            sent("sel.txt", "", missing="ipmitool nor ipmi-sel: not installed", exit=None),
            sent("nvidia-bug-report.log", "half", hung=True, exit=None, missing="it did not end"),
        )
    )
    found = unpacked(archive("top", {"host": "gpu1"}, pieces(sources, SECRETS)))
    assert set(found) == {
        "top/manifest.json", "top/kernel.txt", "top/nvidia-bug-report.log", "top/xid.txt",
    }  # fmt: skip
    assert "\x1b" not in found["top/kernel.txt"]
    assert found["top/xid.txt"].count("Xid") == 1
    manifest = json.loads(found["top/manifest.json"])
    rows_ = {one["source"]: one for one in manifest["files"]}
    assert rows_["sel.txt"] | {"file": None, "bytes": 0, "sha256": None} == rows_["sel.txt"]
    assert "not installed" in rows_["sel.txt"]["missing"]
    half = rows_["nvidia-bug-report.log"]
    assert (half["hung"], half["bytes"]) == (True, 5)
    for one in manifest["files"]:
        if one["file"]:
            data = found[f"top/{one['file']}"].encode()
            assert one["sha256"] == hashlib.sha256(data).hexdigest()


# ---- the command


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an inventory of two hosts and a run of them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.py").write_text(
        "gpus = [('gpu1', {'ssh_password': 'inv3ntory-s3cret'}), 'gpu2']\n"
    )
    busy = ["python (pid 4711) of alice on GPU 0"]
    recorded(tmp_path / "runs", [healthy("gpu1", busy=busy), remap_pending("gpu2")])
    return tmp_path


def answering(monkeypatch: pytest.MonkeyPatch, out: str | Answer) -> None:
    monkeypatch.setattr(command.deep, "output", lambda *words, **more: out)


def only(lab: Path) -> dict[str, str]:
    (place,) = lab.glob("*.tar.gz")
    assert place.stat().st_mode & 0o777 == 0o600
    with tarfile.open(place) as tar:
        return {
            one.name.partition("/")[2]: tar.extractfile(one).read().decode()  # type: ignore[union-attr]
            for one in tar.getmembers()
        }


def test_an_archive_of_a_host(lab: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    answering(monkeypatch, line(sent("lspci.txt", "10de:2330 inv3ntory-s3cret")))
    assert main(["evidence", "gpu2"]) == 0
    found = only(lab)
    assert "gpu.remap-pending" in found["findings.txt"]
    assert json.loads(found["findings.json"])["host"] == "gpu2"
    assert found["lspci.txt"] == "10de:2330 [redacted]\n"
    manifest = json.loads(found["manifest.json"])
    assert (manifest["host"], manifest["trouble"]) == ("gpu2", None)
    assert "evidence-gpu2-" in capsys.readouterr().out


def test_who_used_the_gpus_does_not_go_along(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, line())
    assert main(["evidence", "gpu1"]) == 0
    assert not any("alice" in text for text in only(lab).values())


def test_an_unreachable_host_has_an_archive_of_what_is_known(
    lab: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    answering(monkeypatch, Answer("gpu2", silence="unreachable", message="gpu2: no answer"))
    assert main(["evidence", "gpu2", "--output", "mine.tar.gz"]) == 4
    found = only(lab)
    assert "gpu.remap-pending" in found["findings.txt"]
    assert json.loads(found["manifest.json"])["trouble"] == "gpu2: no answer"
    assert "what this controller knows" in capsys.readouterr().out


def test_a_part_that_hung_is_said(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = sent("nvidia-smi.txt", "", hung=True, exit=None, missing="it did not end in time")
    answering(monkeypatch, line(smi))
    assert main(["evidence", "gpu1"]) == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "give one of them"),
        (["gpu9"], "no verify run"),
        (["gpu9", "--inventory", "lab.py"], "is no host of"),
        (["gpu1", "nope"], "is no run directory"),
        (["--csv", "x.csv"], "needs --inventory"),
        (["gpu1", "--output", "no/such/x.tar.gz"], "does not exist"),
    ],
)
def test_wrong_input(lab: Path, words: list[str], says: str, capsys: Captured) -> None:
    assert main(["evidence", *words]) == 2
    assert says in capsys.readouterr().err


# ---- CSV


def test_the_inventory_of_serials_has_a_row_per_gpu(lab: Path, capsys: Captured) -> None:
    assert main(["evidence", "--csv", "gpus.csv", "--inventory", "lab.py"]) == 0
    lines = (lab / "gpus.csv").read_text().splitlines()
    assert lines[0].startswith("host,gpu,name,serial,uuid,slot,vbios")
    assert len(lines) == 17
    assert verified.gpu(3, "gpu2")["serial"] in lines[12]
    (lab / "lab.py").write_text("gpus = ['gpu1', 'gpu2', 'gpu3']\n")
    assert main(["evidence", "--csv", "gpus.csv", "--inventory", str(lab / "lab.py")]) == 4
    assert "gpu3" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "  =1", "\t=1"])
def test_no_cell_is_a_formula(text: str) -> None:
    one = healthy("gpu1")
    assert one.result is not None
    gpu = one.result.gpus[0].model_copy(update={"name": text, "board": {"vbios": text}})
    one = one.model_copy(update={"result": one.result.model_copy(update={"gpus": (gpu,)})})
    row = table(rows([("gpu1", one, "r")])).splitlines()[1]
    assert row.count("'") == 2
