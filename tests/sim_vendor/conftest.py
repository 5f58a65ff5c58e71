"""The repository built once, served on loopback; an apt of its own; a simulated host as files."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim import paths
from tests.sim.profiles import HARDWARE, describe
from tests.sim.vendor import VendorRepo, build
from tests.sim.vendor.serve import server

TOOLS = (
    *("apt-get", "apt-cache", "apt-ftparchive", "dpkg-deb", "gcc", "gpgv", "make"),
    *("rpm", "rpmbuild", "rpmsign", "createrepo_c", "gpg", "gpg-agent"),
)
KERNEL = platform.release()
INSTALLED = ("kmod", "gcc", "make", "build-essential")


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> VendorRepo:
    """The build that this machine's fleets use; where their cache is not ours, one of our own."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"missing {', '.join(missing)}; `make setup` installs what the tests need")
    try:
        return build(paths.cache(), KERNEL)
    except PermissionError:  # root made the cache
        return build(tmp_path_factory.mktemp("vendor"), KERNEL)


@pytest.fixture(scope="session")
def serve() -> Iterator[object]:
    """A function that serves a directory on loopback until the session ends; returns the URL."""
    running = []

    def start(root: Path) -> str:
        made = server(root, "127.0.0.1", 0)
        threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
        running.append(made)
        return f"http://127.0.0.1:{made.server_address[1]}"

    yield start
    for made in running:
        made.shutdown()
        made.server_close()


@pytest.fixture(scope="session")
def url(repository: VendorRepo, serve) -> str:
    """The repository's address."""
    return serve(repository.root)


class Apt:
    """apt with every directory its own: reads nothing of this machine and changes nothing on it.

    `installed` are names that it takes for installed already.
    """

    def __init__(self, home: Path, sources: list[str], installed: tuple[str, ...]) -> None:
        self.etc = home / "etc"
        for name in ("etc/preferences.d", "etc/apt.conf.d", "lists/partial", "cache/archives"):
            (home / name).mkdir(parents=True)
        (self.etc / "sources.list").write_text("".join(f"{line}\n" for line in sources))
        stanza = (
            "Package: {}\nStatus: install ok installed\nVersion: 99\nArchitecture: amd64\n"
            "Maintainer: none\nDescription: none\n\n"
        )
        (home / "status").write_text("".join(stanza.format(name) for name in installed))
        config = home / "apt.conf"
        config.write_text(
            f'Dir::State "{home}"; Dir::State::lists "{home}/lists";\n'
            f'Dir::State::status "{home}/status"; Dir::State::extended_states "{home}/auto";\n'
            f'Dir::Cache "{home}/cache"; Dir::Etc "{self.etc}"; Dir::Etc::parts "apt.conf.d";\n'
            f'Dir::Etc::trusted "{home}/none"; Dir::Etc::trustedparts "{home}/none";\n'
            'Dir::Log "/dev/null"; Debug::NoLocking "true"; APT::Architecture "amd64";\n'
            'APT::Sandbox::User ""; Acquire::Languages "none"; Acquire::Retries "0";\n'
            'Acquire::http::Proxy "DIRECT";\n'
        )
        self.environment = {**os.environ, "APT_CONFIG": str(config), "LC_ALL": "C"}

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run an apt command."""
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )

    def install(self, *packages: str) -> dict[str, str]:
        """What `apt-get install` would install, package to version; a refusal fails the test."""
        done = self.run("apt-get", "install", "-s", "--no-install-recommends", *packages)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = [line.split() for line in done.stdout.splitlines() if line.startswith("Inst ")]
        return {words[1]: words[2].lstrip("([") for words in lines}


@pytest.fixture
def new_apt(tmp_path: Path):
    """Make an Apt with these source lines."""

    def make(*sources: str, installed: tuple[str, ...] = INSTALLED) -> Apt:
        return Apt(tmp_path / f"apt{len(list(tmp_path.iterdir()))}", list(sources), installed)

    return make


@pytest.fixture(scope="session")
def sources(repository: VendorRepo, url: str) -> tuple[str, str]:
    """Source lines of the vendor's and the extra repository."""
    trust = f"[signed-by={repository.key_file}]"
    return (f"deb {trust} {url}/{repository.cuda} /", f"deb {trust} {url}/{repository.extra} /")


@pytest.fixture(scope="session")
def lists(sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lists of an apt that has fetched and verified both repositories."""
    made = Apt(tmp_path_factory.mktemp("lists") / "apt", list(sources), ())
    done = made.run("apt-get", "update")
    assert done.returncode == 0, done.stderr
    assert "W:" not in done.stderr
    return made.etc.parent / "lists"


@pytest.fixture
def apt(new_apt, sources, lists: Path) -> Apt:
    """An apt of this test alone that knows both repositories."""
    made = new_apt(*sources)
    shutil.copytree(lists, made.etc.parent / "lists", dirs_exist_ok=True)
    return made


@pytest.fixture
def unpack(repository: VendorRepo, tmp_path: Path):
    """Unpack packages of the vendor's repository into one directory; returns it."""

    def into(*packages: str, version: str = "580.178.04-1", repo: str = "") -> Path:
        target = tmp_path / "unpacked" / version
        target.mkdir(parents=True, exist_ok=True)
        for name in packages:
            (found,) = (repository.root / (repo or repository.cuda)).glob(f"{name}_{version}_*.deb")
            subprocess.run(["dpkg-deb", "-x", str(found), str(target)], check=True)
        return target

    return into


class Host:
    """A simulated host as files below `root`, for programs that honour SIM_ROOT."""

    def __init__(self, root: Path, hardware: str) -> None:
        self.root = root
        self.gpus = HARDWARE[hardware].gpus
        described = describe("host", hardware)
        for index, gpu in enumerate(described["gpus"]):
            major, minor = gpu["compute"]
            values = {key: gpu[key] for key in ("name", "uuid", "serial", "memory_mib")}
            values |= {"pci_bus_id": gpu["slot"], "cc_major": major, "cc_minor": minor}
            values |= {"pcie_gen": gpu["pcie_gen"], "pcie_gen_max": gpu["pcie_gen"]}
            for name, value in values.items():
                self.gpu(index, name, value)
        for function in described["pci"]:
            for name in ("vendor", "device", "class"):
                self.write(f"sys/bus/pci/devices/{function['slot']}/{name}", function[name])
            if function["vendor"] == "0x10de" and function["class"] != "0x040300":
                self.bind(function["slot"], "nvidia")

    def write(self, path: str, value: object) -> None:
        """One value in one file."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")

    def read(self, path: str) -> str:
        """One value of one file."""
        return (self.root / path).read_text().strip()

    def gpu(self, index: int, name: str, value: object) -> None:
        """What one GPU reports."""
        self.write(f"run/sim/nvml/{index}/{name}", value)

    def bind(self, slot: str, driver: str) -> None:
        """Bind a PCI function to a driver."""
        link = self.root / f"sys/bus/pci/devices/{slot}/driver"
        link.unlink(missing_ok=True)
        link.symlink_to(f"../../../../bus/pci/drivers/{driver}")

    def load(self, version: str = "580.178.04") -> Host:
        """Load the driver: its version and device files appear."""
        self.write("sys/module/nvidia/version", version)
        for device in ("ctl", *range(self.gpus), *(f"-nvswitch{i}" for i in range(4))):
            self.write(f"dev/nvidia{device}", "")
        return self

    def run(self, *command: object, **more: object) -> subprocess.CompletedProcess[str]:
        """Run a program on this host, at most ten seconds."""
        given = {"capture_output": True, "text": True, "check": False, "timeout": 10, **more}
        environment = {**os.environ, "SIM_ROOT": str(self.root), **given.pop("env", {})}
        return subprocess.run([str(word) for word in command], env=environment, **given)


@pytest.fixture
def new_host(tmp_path: Path):
    """Make a Host of a hardware profile."""
    return lambda hardware: Host(tmp_path / f"host-{hardware}", hardware)
