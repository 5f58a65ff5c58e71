"""What a repository offers, asked through this machine's real apt by a user without rights.

The repository is the simulated vendor's real one, and small ones that are signed, expired,
tampered with and unsigned on purpose.
"""

import base64
import dataclasses
import gzip
import hashlib
import ipaddress
import os
import shutil
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pysequoia import Profile, SignatureMode, Tsk, sign

from deploy import available
from deploy.available import NoAnswer, ask, ask_in_turn, read_answer
from deploy.fleet.conversation import Result
from deploy.keys import WrongKey, one_key
from deploy.solve import Place
from deploy.solving.offers import Available, Unavailable
from tests.sim.vendor import VendorRepo
from tests.sim.vendor.serve import server
from tests.sim_vendor.conftest import repository, serve, url

__all__ = ["repository", "serve", "url"]  # fixtures

pytestmark = pytest.mark.skipif(
    shutil.which("apt-get") is None, reason="the script asks apt, and there is none here"
)

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
"""As root the script runs as nobody: it must need no rights."""


class Here:
    """This machine as a host."""

    def __init__(self, temporary: Path) -> None:
        self.host = "here"
        self.temporary = temporary
        self.asked = 0

    def run(self, command: str, *, stdin: str, timeout_s: float, limit: int) -> Result:
        self.asked += 1
        become = NOBODY if os.geteuid() == 0 else ()
        done = subprocess.run(
            [*become, "sh", "-c", command],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/",
            env={**os.environ, "TMPDIR": str(self.temporary)},
        )
        assert done.stderr == ""
        return Result(done.returncode, done.stdout[:limit], done.stderr, 0.1, "")


@pytest.fixture
def here() -> Iterator[Here]:
    """A host whose temporary directory must be empty again at the end."""
    with tempfile.TemporaryDirectory(prefix="gpufleet-test-") as folder:
        Path(folder).chmod(0o777)
        yield Here(Path(folder))
        assert list(Path(folder).iterdir()) == []


def at(address: str, fingerprint: str) -> Place:
    return Place(
        distribution="debian12",
        machine="x86_64",
        url=address,
        key_url=f"{address}/3bf863cc.pub",
        key_fingerprint=fingerprint,
    )


@pytest.fixture
def vendor(repository: VendorRepo, url: str) -> Place:
    return at(f"{url}/{repository.cuda.rstrip('/')}", repository.key_fingerprint)


def test_the_simulated_vendors_repository_answers(vendor: Place, here: Here) -> None:
    found = ask(vendor, here)
    assert found.versions("nvidia-driver-cuda") == [
        "595.91.07-1",
        "595.71.05-1",
        "580.178.04-1",
        "580.159.04-1",
    ]
    closure = found.closure({"nvidia-kernel-open-dkms": "580.178.04-1"}, "580.178.04")
    assert "nvidia-modprobe" in closure
    assert closure["nvidia-modprobe"].size > 0
    assert found.repository.url == vendor.url
    assert one_key(found.repository.key.encode(), vendor.key_fingerprint)


def test_one_answer_is_enough_and_three_without_one_are_enough_too(
    vendor: Place, here: Here
) -> None:
    assert isinstance(ask_in_turn(vendor, [here, here]), Available)
    assert here.asked == 1
    nothing = at(vendor.url + "-none", vendor.key_fingerprint)
    answer = ask_in_turn(nothing, [here] * 9)
    assert isinstance(answer, Unavailable)
    assert here.asked == 4
    assert "(asked on here" in answer.reason
    assert isinstance(ask_in_turn(vendor, []), Unavailable)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key_fingerprint": "A" * 40}, f"wanted {'A' * 40}"),
        ({"url": "URL-none"}, "there is nothing at this address; apt says: 404  Not Found"),
        ({"key_url": "URL/none.pub"}, "its key could not be fetched; there is nothing at"),
        ({"url": "http://127.0.0.1:9/x", "key_url": "URL/3bf863cc.pub"}, "it cannot be reached"),
        ({"proxy": "http://127.0.0.1:9"}, "it cannot be reached"),
    ],
)
def test_a_repository_that_does_not_answer(
    vendor: Place, here: Here, change: dict[str, str], said: str
) -> None:
    values = {key: value.replace("URL", vendor.url) for key, value in change.items()}
    with pytest.raises(NoAnswer) as reason:
        ask(dataclasses.replace(vendor, **values), here)
    assert said in str(reason.value)


# ---- small repositories, signed as we like


class Small:
    """A flat repository of one package."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = Tsk.generate("Signer <signer@example.org>", profile=Profile.RFC4880)
        self.certificate = self.key.extract_certificate()
        self.fingerprint = str(self.certificate.fingerprint).upper()
        self.packages = b"Package: aa\nVersion: 1-1\nArchitecture: all\nSize: 10\n\n"
        self.key_file: bytes = str(self.certificate).encode()
        self.until = timedelta(days=1)
        self.signer = self.key

    def write(self) -> None:
        now = datetime.now(UTC)
        release = (
            f"Date: {format_datetime(now - timedelta(days=2))}\n"
            f"Valid-Until: {format_datetime(now + self.until)}\n"
            f"Architectures: all\nSHA256:\n {hashlib.sha256(self.packages).hexdigest()} "
            f"{len(self.packages)} Packages\n"
        ).encode()
        self.folder.joinpath("Packages").write_bytes(self.packages)
        self.folder.joinpath("Release").write_bytes(release)
        self.folder.joinpath("InRelease").write_bytes(
            sign(self.signer.signer(), release, mode=SignatureMode.CLEAR)
        )
        self.folder.joinpath("3bf863cc.pub").write_bytes(self.key_file)


@pytest.fixture
def small(tmp_path: Path) -> Small:
    return Small(tmp_path)


def outcome(small: Small, serve: object, here: Here) -> str:
    """What is said of a small repository; "" when it answers."""
    assert callable(serve)
    try:
        ask(at(serve(small.folder), small.fingerprint), here)
    except NoAnswer as reason:
        return str(reason)
    return ""


def test_a_small_repository_answers(small: Small, serve: object, here: Here) -> None:
    small.write()
    assert outcome(small, serve, here) == ""


def test_a_binary_key_is_read_as_well(small: Small, serve: object, here: Here) -> None:
    small.key_file = bytes(small.certificate)
    small.write()
    assert outcome(small, serve, here) == ""


def test_a_list_of_packages_that_was_changed(small: Small, serve: object, here: Here) -> None:
    small.write()
    small.folder.joinpath("Packages").write_bytes(small.packages.replace(b"1-1", b"9-9"))
    assert "is not what its index signs" in outcome(small, serve, here)


def test_an_index_that_was_changed(small: Small, serve: object, here: Here) -> None:
    small.write()
    path = small.folder / "InRelease"
    path.write_bytes(path.read_bytes().replace(b"Architectures: all", b"Architectures: amd64 all"))
    assert "its signature does not fit its index" in outcome(small, serve, here)


def test_an_expired_index(small: Small, serve: object, here: Here) -> None:
    small.until = timedelta(hours=-1)
    small.write()
    assert "its signed index has expired" in outcome(small, serve, here)


def test_an_unsigned_index(small: Small, serve: object, here: Here) -> None:
    small.write()
    small.folder.joinpath("InRelease").unlink()
    assert "its index is not signed" in outcome(small, serve, here)


def test_an_index_signed_by_another_key_than_it_serves(
    small: Small, serve: object, here: Here
) -> None:
    small.signer = Tsk.generate("Other <other@example.org>", profile=Profile.RFC4880)
    small.write()
    assert "signed by another key than it serves" in outcome(small, serve, here)


@pytest.mark.parametrize("armoured", [True, False])
def test_a_keyring_with_a_second_certificate(
    small: Small, serve: object, here: Here, armoured: bool
) -> None:
    other = Tsk.generate("Other <other@example.org>", profile=Profile.RFC4880).extract_certificate()
    pair = [small.certificate, other]
    small.key_file = b"".join(str(one).encode() if armoured else bytes(one) for one in pair)
    small.write()
    assert "more than one certificate" in outcome(small, serve, here)


def test_a_key_file_that_is_none(small: Small, serve: object, here: Here) -> None:
    small.write()
    small.folder.joinpath("3bf863cc.pub").write_bytes(b"<html>sign in first</html>")
    assert "another key than it serves" in outcome(small, serve, here) or "no OpenPGP" in outcome(
        small, serve, here
    )
    small.folder.joinpath("3bf863cc.pub").write_bytes(b"x" * 70_000)
    assert "too large for one" in outcome(small, serve, here)


def test_the_hosts_own_sources_and_hooks_do_not_count(vendor: Place) -> None:
    script = available.script(dataclasses.replace(vendor, proxy="http://proxy:3128"))
    assert "proxy=http://proxy:3128\n" in script
    assert 'Dir::Etc::parts "/dev/null"' in script


def test_values_are_quoted(vendor: Place, here: Here) -> None:
    odd = dataclasses.replace(vendor, url="http://127.0.0.1:9/$(touch${IFS}owned)'\"", proxy="")
    with pytest.raises(NoAnswer):
        ask(odd, here)
    assert not list(here.temporary.iterdir())


def test_the_inventorys_proxy_is_used(small: Small, serve: object, here: Here) -> None:
    small.write()
    assert callable(serve)
    # The server answers for any name that a client asks it for, as a proxy does.
    far = at("http://repository.invalid", small.fingerprint)
    assert ask(dataclasses.replace(far, proxy=serve(small.folder)), here).names() == ["aa"]


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, secret = folder / "ca.pem", folder / "key.pem"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return public, secret


def test_a_sites_own_authority_is_trusted_where_the_inventory_names_it(
    small: Small, here: Here, tmp_path_factory: pytest.TempPathFactory
) -> None:
    small.write()
    public, secret = certificate(tmp_path_factory.mktemp("tls"))
    running = server(small.folder, "127.0.0.1", 0)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, secret)
    running.socket = context.wrap_socket(running.socket, server_side=True)
    threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
    bundle = here.temporary / "ca.pem"
    bundle.write_bytes(public.read_bytes())
    place = at(f"https://127.0.0.1:{running.server_address[1]}", small.fingerprint)
    try:
        with pytest.raises(NoAnswer, match="its TLS certificate is not trusted"):
            ask(place, here)
        assert ask(dataclasses.replace(place, ca_bundle=str(bundle)), here)
    finally:
        bundle.unlink()
        running.shutdown()
        running.server_close()


# ---- hostile answers


def answer(key: bytes, packages: bytes, *, last: str = available.LAST) -> str:
    return "\n".join(
        [
            available.FIRST,
            "part key",
            base64.b64encode(key).decode(),
            "part packages",
            base64.b64encode(gzip.compress(packages)).decode(),
            last,
        ]
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cut off"),
        ("motd only\n", "cut off"),
        (f"{available.FIRST}\nkey\nQUJD", "cut off"),
        (f"{available.FIRST}\n{available.LAST}", "not understood"),
        (f"{available.FIRST}\npart key\n!!!\npart packages\n!!!\n{available.LAST}", "damaged"),
        (
            f"{available.FIRST}\npart key\nQUJD\npart packages\nQUJD\n{available.LAST}",
            "no OpenPGP certificate",
        ),
        (f"{available.FIRST}\nfailed odd\n{available.LAST}", "it could not be asked"),
    ],
)
def test_answers_that_are_none(text: str, said: str) -> None:
    with pytest.raises(NoAnswer) as reason:
        read_answer(at("http://x", "A" * 40), text)
    assert said in str(reason.value)


def test_an_answer_that_unpacks_without_end(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(available, "UNPACKED", 10_000)
    text = answer(small.key_file, b"\n" * 20_000)
    with pytest.raises(NoAnswer) as reason:
        read_answer(at("http://x", small.fingerprint), text)
    assert "more than anyone would list" in str(reason.value)


def test_packages_outside_debians_grammar_are_left_out(small: Small) -> None:
    good = b"Package: aa\nVersion: 1-1\nSize: 1\n\n"
    odd = [
        b"Package: bb;reboot\nVersion: 1\n\n",
        b"Package: -o\nVersion: 1\n\n",
        b"Package: cc\nVersion: 1$(id)\n\n",
        b"Package: dd\nVersion: 1\nSize: x\n\n",
        b"Package: ee\nVersion: 1\nDepends: a`id`\n\n",
        b"nonsense\n\n",
    ]
    found = read_answer(
        at("http://x", small.fingerprint), answer(small.key_file, good + b"".join(odd))
    )
    assert found.names() == ["aa"]
    with pytest.raises(NoAnswer):
        read_answer(at("http://x", small.fingerprint), answer(small.key_file, b"".join(odd)))


def test_what_apt_says_is_shown_without_credentials() -> None:
    log = "E: Failed to fetch \x1b[31mhttp://user:hunter2@mirror/x  404  Not Found\x07"
    text = f"{available.FIRST}\nfailed update\n{log}\n{available.LAST}"
    with pytest.raises(NoAnswer) as reason:
        read_answer(at("http://mirror", "A" * 40), text)
    assert "hunter2" not in str(reason.value)
    assert "404" in str(reason.value)
    assert str(reason.value).isprintable()


def test_of_a_secret_key_only_the_public_part_is_handed_on(small: Small) -> None:
    handed = one_key(bytes(small.key), small.fingerprint)
    assert handed == str(small.certificate)
    assert "PUBLIC KEY BLOCK" in handed


def test_wrong_keys_are_named(small: Small) -> None:
    with pytest.raises(WrongKey, match=small.fingerprint):
        one_key(small.key_file, "A" * 40)
