"""Facts, offers and solved stacks for tests: bare Debian 12 hosts of the simulated fleet's kinds.

What is offered is the simulated vendor's own catalogue, so that unit tests and the fleet see the
same packages.
"""

from datetime import date
from functools import cache
from typing import Any

from pysequoia import Cert

from deploy.catalog import load
from deploy.facts import (
    AutoUpgrades,
    Cuda,
    Disk,
    Dpkg,
    InstalledModule,
    Kernel,
    Modules,
    NodeFacts,
    Os,
    Package,
    PciDevice,
    PythonFacts,
)
from deploy.fleet.spec import NodeSpec
from deploy.solve import choose, complete
from deploy.solving.offers import Available, Offer
from deploy.stack import Repository, Solution, Stack, TorchEnvironment
from tests.sim.profiles import HARDWARE, describe
from tests.sim.vendor.assemble import vendor_packages

TODAY = date(2026, 11, 22)
KERNEL = "6.1.0-40-amd64"

KEY = """-----BEGIN PGP PUBLIC KEY BLOCK-----
Comment: B2DB EFC5 F5FD 2985 8092  27CC DD53 C8A5 B678 AD4D
Comment: Simulated vendor for tests

xjMEawK6rhYJKwYBBAHaRw8BAQdAUQGN/skokKproWn21GyVS9jQNfDHOFy7dKSw
jGYwO8fCwBEEHxYKAIMFgmsCuq4FiQWfpgADCwkHCRDdU8iltnitTUcUAAAAAAAe
ACBzYWx0QG5vdGF0aW9ucy5zZXF1b2lhLXBncC5vcmfPGWirf8PBxi8180hHYxfr
nZvF8JtpH2vlJaPPnSNumAMVCggCmwECHgkWIQSy2+/F9f0phYCSJ8zdU8iltnit
TQAAJWsBAOP51qQ14AtbT3SptDsSLxm8M21gWrNB3JxRAqRHk/I3AP9o0yjJq+D+
bMCJyaZ04NpprZvbZ9l6YngLzEVKL+hQDM0aU2ltdWxhdGVkIHZlbmRvciBmb3Ig
dGVzdHPCwBQEExYKAIYFgmsCuq4FiQWfpgADCwkHCRDdU8iltnitTUcUAAAAAAAe
ACBzYWx0QG5vdGF0aW9ucy5zZXF1b2lhLXBncC5vcmdFK5wp9WvNcAN+dM2zXhnt
d2pRvDPzw1WsYToON4ZwkwMVCggCmQECmwECHgkWIQSy2+/F9f0phYCSJ8zdU8il
tnitTQAAPdABAINgBO6l187U/5Y9QIUF+S3/u2GfmYC5FY7WD0+fl5nVAQCGQXOc
hFblZuD0m+duraVCy6Q+bOEejzIErvcZrGwICc4zBGsCuq4WCSsGAQQB2kcPAQEH
QHEw0XiuZdqNmUL6DdWSQBsvcyAyIPwOZFb3MU00z7v3wsDFBBgWCgE3BYJrArqu
BYkFn6YACRDdU8iltnitTUcUAAAAAAAeACBzYWx0QG5vdGF0aW9ucy5zZXF1b2lh
LXBncC5vcmfRQvsOv8FO3W+j95coht7DDkyr+9bsi73R4O8YuCi2/wKbAr6gBBkW
CgBvBYJrArquCRAmCjPfvSJ41EcUAAAAAAAeACBzYWx0QG5vdGF0aW9ucy5zZXF1
b2lhLXBncC5vcmez6drXjk1SzdLx7f7+TK9YnqbKkepc2+nqeB6uiicrgBYhBE1u
JQo7lj90eGnLSSYKM9+9InjUAADEEQD+Oxtao4kXQtVR8t8eZ+mqo8av3Z2/UOej
WGryk/vaye8A/0Qw7InOVraZgOxHtsv6Wkno6XYs54CabBfnW9Utr4kBFiEEstvv
xfX9KYWAkifM3VPIpbZ4rU0AADSSAQCFdJ3hOQBEmC+G7wm2JvSgW5ZHBRM1PCUE
fU7vs5eEYQEA/FP6JQwuUWlZuNDvtCWud4Xhu+RXaIs1YyjrR8GyVwvOOARrArqu
EgorBgEEAZdVAQUBAQdA/RvOMRdt+qewpPsJwhbP4fuhFS9mABVwfBDcXNHJinkD
AQgHwsAGBBgWCgB4BYJrArquBYkFn6YACRDdU8iltnitTUcUAAAAAAAeACBzYWx0
QG5vdGF0aW9ucy5zZXF1b2lhLXBncC5vcmd1PK5bc4K00g7682kbBLioJwEPsjss
O8tAhRybFP3SJwKbDBYhBLLb78X1/SmFgJInzN1TyKW2eK1NAAA9tAEAqdI2RC3+
wkArssxpA3KJqMCJRXtrT1a26ChaIJo723wBAKCgzz399SZOlZBUAGuGLe7z+aKb
mGqozacy4GfQDqQD
=rIVQ
-----END PGP PUBLIC KEY BLOCK-----
"""
"""A public key made for tests; nobody holds its secret."""


@cache
def key_fingerprint() -> str:
    return str(Cert.from_bytes(KEY.encode()).fingerprint).upper()


@cache
def available() -> Available:
    """What the simulated vendor's repository offers."""
    return Available(repository(), offers())


def repository() -> Repository:
    return Repository(
        kind="apt",
        url="http://10.77.0.1:8000/cuda/debian12/x86_64",
        key_fingerprint=key_fingerprint(),
        key=KEY,
    )


def offers() -> list[Offer]:
    """Every package of the simulated vendor, 1000 bytes each."""
    return [
        Offer(
            name=package.name,
            version=package.version,
            size=1000,
            depends=", ".join(
                package.relations[key]
                for key in ("Pre-Depends", "Depends")
                if key in package.relations
            ),
            provides=package.relations.get("Provides", ""),
            conflicts=", ".join(
                package.relations[key]
                for key in ("Conflicts", "Breaks")
                if key in package.relations
            ),
        )
        for package in vendor_packages()
    ]


def pci(hardware: str) -> tuple[PciDevice, ...]:
    """The GPUs and NVSwitches of a simulated node of this kind, nothing bound."""
    return tuple(
        PciDevice(
            slot=device["slot"],
            device=device["device"][2:],
            pci_class=device["class"][2:],
            subsystem=f"{device['subsystem_vendor'][2:]}:{device['subsystem_device'][2:]}",
            revision=device["revision"][2:],
            driver="",
        )
        for device in describe("h", hardware)["pci"]
        if device["vendor"] == "0x10de" and device["class"][2:6] in ("0300", "0302", "0680")
    )


def facts(hardware: str = "none", **changes: Any) -> NodeFacts:
    """A bare Debian 12 host with this hardware (a key of tests.sim.profiles.HARDWARE)."""
    assert hardware in HARDWARE
    values: dict[str, Any] = {
        "host": "h1",
        "root": True,
        "unknown": {},
        "os": Os(
            id="debian",
            version_id="12",
            codename="bookworm",
            pretty_name="Debian GNU/Linux 12 (bookworm)",
            id_like=(),
            arch="x86_64",
        ),
        "kernel": Kernel(running=KERNEL, next=KERNEL, installed=(KERNEL,), headers=()),
        "boot_id": "0c5e1a4e-3c2c-4d63-a5d0-6f9a2ee6b5d1",
        "uptime_s": 1000,
        "container": "",
        "secure_boot": "disabled",
        "pci": pci(hardware),
        "modules": Modules(
            loaded_version="",
            loaded_flavour=None,
            installed=(),
            nouveau_loaded=False,
            nouveau_blacklisted=False,
            refcount=None,
        ),
        "mig": (),
        "packages": {},
        "candidates": {},
        "pins": (),
        "sources": (),
        "dpkg": Dpkg(broken=(), interrupted=False, lock_holder=""),
        "auto_upgrades": AutoUpgrades(enabled=False),
        "services": {},
        "environments": (),
        "pythons": (),
        "cuda": Cuda(link="", toolkits=()),
        "python": PythonFacts(version="3.11.2", venv=True, headers=False),
        "compiler": "12.2.0",
        "tools": ("curl", "flock", "gpgv", "setsid", "timeout"),
        "disks": {
            path: Disk(size=500 * 10**9, available=400 * 10**9, read_only=False)
            for path in ("/", "/boot", "/opt", "/tmp")
        },
        "gpu_users": (),
        "slurm_jobs": (),
        "foreign": (),
        "files": {},
        "state": {},
    }
    return NodeFacts(**{**values, **changes})


def driven(
    hardware: str,
    version: str,
    flavour: str,
    packages: dict[str, str] | None = None,
    **changes: Any,
) -> NodeFacts:
    """A host whose driver is installed and loaded; `packages` are installed (name, version)."""
    modules = Modules(
        loaded_version=version,
        loaded_flavour=flavour,
        installed=(InstalledModule(kernel=KERNEL, version=version, flavour=flavour),),
        nouveau_loaded=False,
        nouveau_blacklisted=True,
        refcount=0,
    )
    held = {
        name: Package(version=full, state="ii", held=False)
        for name, full in (packages or {}).items()
    }
    return facts(hardware, **{"modules": modules, "packages": held, **changes})


def environment(**changes: Any) -> TorchEnvironment:
    """A resolved environment: torch's CPU build and numpy, with made-up hashes."""
    values: dict[str, Any] = {
        "id": "0123456789ab",
        "python": "3.11",
        "torch": "2.13.0",
        "build": "cpu",
        "hardware_build": "cu130",
        "uv": "0.13.9",
        "uv_hashes": ("sha256:" + "a" * 64,),
        "index": "",
        "torch_index": "",
        "find_links": (),
        "requirements": (
            f"numpy==2.4.6 --hash=sha256:{'b' * 64}",
            f"torch==2.13.0+cpu --hash=sha256:{'c' * 64}",
        ),
    }
    return TorchEnvironment(**{**values, **changes})


def solve(spec: NodeSpec, found: NodeFacts) -> Solution:
    """The answer for one host with a made-up resolved environment."""
    answer = choose(spec, found, load(), available(), TODAY)
    wish = answer.environment
    if wish is None:
        return answer.solution
    return complete(
        answer,
        environment(
            python=wish.python,
            torch=wish.torch,
            build=wish.build,
            hardware_build=wish.hardware_build,
            find_links=wish.find_links,
            index=wish.index,
            torch_index=wish.torch_index,
            requirements=(
                f"numpy==2.4.6 --hash=sha256:{'b' * 64}",
                f"torch=={wish.torch}+{wish.build} --hash=sha256:{'c' * 64}",
            ),
        ),
    )


def solved(hardware: str = "hgx-h100", **spec: Any) -> Stack:
    """The stack of a bare host of this hardware and wish, which must have one."""
    solution = solve(NodeSpec(**spec), facts(hardware))
    assert solution.stack is not None, solution.blocked
    return solution.stack
