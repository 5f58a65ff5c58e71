"""What the solver answers: tables of hardware, wishes and facts against stacks and refusals.

Rows marked "2.11" are the worked combinations of research/provisioning.md that Debian 12 has.
"""

from datetime import date
from typing import Any

import pytest

from deploy.catalog import load
from deploy.facts import (
    Foreign,
    InstalledModule,
    Modules,
    NodeFacts,
    Os,
    Package,
    PciDevice,
    PythonFacts,
)
from deploy.fleet.spec import NodeSpec
from deploy.solve import _shared, choose, place
from deploy.solving.offers import Available, Offer, Unavailable
from deploy.stack import Blocked, Solution, Stack
from tests import factory
from tests.factory import KERNEL, driven, facts

V100, T4, A100, H100, B200, PRO6000 = "1db5", "1eb8", "20b2", "2331", "2901", "2bb5"


def boards(*devices: str, **changes: Any) -> NodeFacts:
    """A bare host with these GPUs."""
    pci = tuple(
        PciDevice(
            slot=f"0000:{index:02x}:00.0",
            device=device,
            pci_class="030200",
            subsystem="10de:0000",
            revision="a1",
            driver="",
        )
        for index, device in enumerate(devices, start=1)
    )
    return facts("none", **{"pci": pci, **changes})


def answer(found: NodeFacts, **spec: Any) -> Solution:
    return factory.solve(NodeSpec(**spec), found)


def stack(found: NodeFacts, **spec: Any) -> Stack:
    solution = answer(found, **spec)
    assert solution.stack is not None, solution.blocked
    return solution.stack


def blocked(found: NodeFacts, **spec: Any) -> Blocked:
    solution = answer(found, **spec)
    assert solution.blocked is not None, solution.stack
    assert solution.blocked.unblock
    assert solution.blocked.source
    return solution.blocked


def told(found: Stack) -> dict[str, str]:
    parts = {
        "driver": found.driver and f"{found.driver.version} {found.driver.flavour}",
        "fabric": found.fabric and found.fabric.version,
        "cuda": found.cuda and found.cuda.version,
        "cudnn": found.cudnn and found.cudnn.version,
        "nccl": found.nccl and next(iter(found.nccl.packages.values())).version,
        "torch": found.environment and f"{found.environment.torch}+{found.environment.build}",
    }
    return {part: value for part, value in parts.items() if value}


NEWEST_OPEN = {
    "driver": "580.178.04 open",
    "cuda": "13.0",
    "cudnn": "9.26.0.51",
    "nccl": "2.30.7-1+cuda13.0",
    "torch": "2.15.0+cu132",
}
VOLTA = {
    "driver": "580.178.04 closed",
    "cuda": "12.9",
    "cudnn": "9.10.2.21",
    "nccl": "2.29.3-1+cuda12.9",
    "torch": "2.14.1+cu126",
}
FABRIC = {"fabric": "580.178.04"}


@pytest.mark.parametrize(
    ("found", "spec", "wanted"),
    [
        # the four profiles
        (facts("hgx-h100"), {}, NEWEST_OPEN | FABRIC),
        (facts("l40s"), {}, NEWEST_OPEN),
        (facts("v100"), {}, VOLTA),
        (facts("none"), {}, {"torch": "2.15.0+cpu"}),
        # 2.11: V100; A100 and H100 mixed; V100 and H100 in one host, said fully
        (boards(V100), {"policy": "lts"}, VOLTA),
        (boards(A100, H100), {}, NEWEST_OPEN),
        (boards(A100, H100), {"policy": "production"}, NEWEST_OPEN | {"driver": "595.91.07 open"}),
        (boards(A100, H100), {"torch": "2.14"}, NEWEST_OPEN
         | {"torch": "2.14.1+cu130", "cudnn": "9.24.0.43"}),
        (boards(V100, H100), {"driver_modules": "closed", "torch_build": "cu126"}, VOLTA),
        # 2.11: any of cu126 to cu132 on a T4
        (boards(T4), {"torch_build": "cu126"}, VOLTA | {"driver": "580.178.04 open"}),
        (boards(T4), {"torch_build": "cu130"}, NEWEST_OPEN
         | {"torch": "2.14.1+cu130", "cudnn": "9.24.0.43"}),
        (boards(T4), {"torch_build": "cu132"}, NEWEST_OPEN),
        # Blackwell without NVLink 5
        (boards(PRO6000), {}, NEWEST_OPEN),
        # newest that fits: 595 for Hopper, 580 still for Volta
        (boards(H100), {"policy": "newest"}, NEWEST_OPEN | {"driver": "595.91.07 open"}),
        (boards(V100), {"policy": "newest"}, VOLTA),
        # pins of any part
        (boards(H100), {"driver": "580.159.04"}, NEWEST_OPEN | {"driver": "580.159.04 open"}),
        (boards(H100), {"driver": "595"}, NEWEST_OPEN | {"driver": "595.91.07 open"}),
        (boards(H100), {"driver_modules": "closed"}, NEWEST_OPEN | {"driver": "580.178.04 closed"}),
        (boards(H100), {"cuda": "12.9"}, VOLTA | {"driver": "580.178.04 open"}),
        (boards(H100), {"cudnn": "9.24"}, NEWEST_OPEN | {"cudnn": "9.24.0.43"}),
        (boards(H100), {"nccl": "2.29.7"}, NEWEST_OPEN | {"nccl": "2.29.7-1+cuda13.0"}),
        (boards(H100), {"torch": "2.13.0"}, NEWEST_OPEN | {
            "torch": "2.13.0+cu130", "cudnn": "9.20.0.48", "nccl": "2.29.7-1+cuda13.0"}),
        # parts that are not managed
        (boards(H100), {"driver": "none"},
         {key: value for key, value in NEWEST_OPEN.items() if key != "driver"}),
        (boards(H100), {"cuda": "none", "cudnn": "none", "nccl": "none"},
         {"driver": "580.178.04 open", "torch": "2.15.0+cu132"}),
        (boards(H100), {"torch": "none"},
         {key: value for key, value in NEWEST_OPEN.items() if key != "torch"}),
        (facts("none"), {"torch": "none"}, {}),
        # a host without a GPU may build CUDA programs
        (facts("none"), {"cuda": "12.9"}, {"cuda": "12.9", "torch": "2.15.0+cpu"}),
        (facts("none"), {"torch": "2.13.0", "torch_build": "cpu"}, {"torch": "2.13.0+cpu"}),
        # a host without Python gets its distribution's
        (facts("none", python=PythonFacts(version="", venv=False, headers=False)), {},
         {"torch": "2.15.0+cpu"}),
        # Secure Boot is no matter where no module is built
        (facts("none", secure_boot="enabled"), {}, {"torch": "2.15.0+cpu"}),
        (boards(H100, secure_boot="no-efi"), {}, NEWEST_OPEN),
    ],
)  # fmt: skip
def test_stacks(found: NodeFacts, spec: dict[str, Any], wanted: dict[str, str]) -> None:
    assert told(stack(found, **spec)) == wanted


@pytest.mark.parametrize(
    ("found", "spec", "rule", "words", "unblock"),
    [
        # V100 with what left it behind
        (boards(V100), {"cuda": "13.0"}, "cuda-hardware",
         "CUDA 13.0 does not support Tesla V100", 'cuda = "12.9"'),
        (boards(V100), {"torch_build": "cu130"}, "torch-hardware",
         "holds no code for Tesla V100 SXM2 32GB (compute capability 7.0)",
         'torch_build = "cu126"'),
        (boards(V100), {"torch": "2.15.0"}, "torch-hardware", "2.15.0+cu132 holds no code",
         'torch = "2.14.1"'),
        (boards(V100), {"driver": "595"}, "driver-hardware", "supported up to branch 580",
         'driver = "580.178.04"'),
        (boards(V100), {"driver": "590"}, "driver-hardware", "supported up to branch 580",
         'driver = "580.178.04"'),
        (boards(V100), {"policy": "production"}, "driver-hardware", "up to branch 580",
         'policy = "keep"'),
        (boards(V100), {"driver_modules": "open"}, "modules", "open modules do not work",
         'driver_modules = "closed"'),
        (boards(V100), {"cudnn": "9.20.0.48"}, "cudnn-hardware", "from 9.11 on",
         'cudnn = "9.10.2.21"'),
        # 2.11: V100 and H100 in one host
        (boards(V100, H100), {}, "mixed-hardware", "1 x Tesla V100 SXM2 32GB and 1 x H100 PCIe",
         'driver_modules = "closed" and torch_build = "cu126"'),
        (boards(V100, H100), {"driver_modules": "closed"}, "mixed-hardware", "in one host",
         'driver_modules = "closed" and torch_build = "cu126"'),
        (boards(V100, H100), {"driver_modules": "closed", "torch_build": "cu130"},
         "torch-hardware", "Tesla V100", 'torch_build = "cu126"'),
        # 2.11: V100 and B200 in one host: always
        (boards(V100, B200), {"driver_modules": "closed", "torch_build": "cu126"},
         "no-common-driver", "volta: closed and blackwell: open", "separate hosts"),
        # 2.11: Blackwell
        (boards(PRO6000), {"torch_build": "cu126"}, "torch-hardware", "compute capability 12.0",
         'torch_build = "cu132"'),
        (boards(PRO6000), {"driver_modules": "closed"}, "modules", "closed modules do not work",
         'driver_modules = "open"'),
        (boards(PRO6000), {"cuda": "12.6"}, "cuda-hardware", "first release for it is 12.8",
         'cuda = "13.0"'),
        # 2.11: A100 and H100 with an old driver and a new wheel
        (boards(A100, H100), {"driver": "535", "torch_build": "cu130"}, "repository-lacks",
         "no driver 535", 'driver = "580.178.04"'),
        # what the repository lacks
        (boards(H100), {"driver": "580.82.07"}, "repository-lacks",
         "it has 595.91.07, 595.71.05, 580.178.04, 580.159.04", 'driver = "580.178.04"'),
        (boards(H100), {"cuda": "13.2"}, "repository-lacks", "no cuda-toolkit-13-2",
         'cuda = "13.0"'),
        (boards(H100), {"nccl": "2.28.9"}, "repository-lacks", "no libnccl2 2.28.9 (it has",
         'nccl = "2.30.7"'),
        (boards(H100), {"cudnn": "9.19"}, "repository-lacks", "no libcudnn9-cuda-13 9.19",
         'cudnn = "9.26.0.51"'),
        # what the catalogue lacks
        (boards(H100), {"torch": "2.3.1"}, "torch", "the catalogue has no torch 2.3.1",
         'torch = "2.15.0"'),
        (boards(H100), {"cuda": "12.7"}, "cuda", "the catalogue has no CUDA 12.7",
         'cuda = "13.0"'),
        (boards(H100), {"torch": "2.13.0", "torch_build": "cu128"}, "torch",
         "no torch 2.13.0 as build cu128", "torch"),
        # no GPU
        (facts("none"), {"driver": "580"}, "no-gpu", "the PCI bus shows no GPU", "driver"),
        (facts("none"), {"torch_build": "cu130"}, "no-gpu", "no GPU", 'torch_build = "cpu"'),
        (facts("none"), {"gpus": 8}, "gpus", "8 GPUs are wished, the PCI bus shows none", "lspci"),
        (facts("none"), {"cudnn": "9"}, "cuda-release", "without a CUDA release", "cuda ="),
        # Secure Boot
        (boards(H100, secure_boot="enabled"), {}, "secure-boot", "Secure Boot is enabled",
         "disable Secure Boot"),
        (boards(H100, secure_boot=None, unknown={"secure_boot": "mokutil timed out"}), {},
         "unknown-facts", "mokutil timed out", "facts"),
        # not a host for this catalogue
        (boards("2330", "ffff"), {}, "unknown-gpu", "10de:ffff at 0000:02:00.0", "gpus.toml"),
    ],
)  # fmt: skip
def test_refusals(
    found: NodeFacts, spec: dict[str, Any], rule: str, words: str, unblock: str
) -> None:
    refused = blocked(found, **spec)
    assert refused.rule == rule, refused
    assert words in refused.reason
    assert any(unblock in way for way in refused.unblock), refused.unblock


SUGGESTED = [
    (boards(V100), {"cuda": "13.0"}),
    (boards(V100), {"torch_build": "cu130"}),
    (boards(V100), {"torch": "2.15.0"}),
    (boards(V100), {"driver": "595"}),
    (boards(H100), {"nccl": "2.28.9"}),
    (boards(PRO6000), {"torch_build": "cu126"}),
]


@pytest.mark.parametrize(("found", "spec"), SUGGESTED)
def test_a_suggestion_solves_when_it_is_written_down(
    found: NodeFacts, spec: dict[str, Any]
) -> None:
    for way in blocked(found, **spec).unblock:
        key, _, value = way.partition(" = ")
        assert stack(found, **{**spec, key: value.strip('"')})


# ---- facts that make a host not ours, or not known


@pytest.mark.parametrize("part", ["os", "pci", "foreign", "modules", "packages"])
def test_a_needed_fact_that_is_unknown_blocks(part: str) -> None:
    refused = blocked(facts("l40s", **{part: None}, unknown={part: "took too long"}))
    assert refused.rule == "unknown-facts"
    assert f"{part} (took too long)" in refused.reason


def test_an_unknown_python_blocks_only_who_wants_an_environment() -> None:
    found = facts("l40s", python=None, unknown={"python": "no answer"})
    assert "python (no answer)" in blocked(found).reason
    assert stack(found, torch="none").environment is None


@pytest.mark.parametrize("part", ["modules", "packages", "secure_boot"])
def test_a_host_without_gpus_needs_less_to_be_known(part: str) -> None:
    assert stack(facts("none", **{part: None}))


@pytest.mark.parametrize(
    ("owner", "words"),
    [
        ("runfile", ".run installer"),
        ("dgx-os", "DGX OS"),
        ("driver-container", "driver container"),
        ("vgpu", "GRID"),
        ("vfio", "vfio-pci"),
    ],
)
def test_what_somebody_else_manages_is_blocked_with_its_owner(owner: Any, words: str) -> None:
    found = facts("l40s", foreign=(Foreign(owner=owner, evidence="/usr/bin/x"),))
    refused = blocked(found)
    assert refused.rule == f"foreign-{owner}"
    assert words in refused.reason
    assert "/usr/bin/x" in refused.reason
    assert any('driver = "none"' in way for way in refused.unblock)


def test_a_foreign_driver_is_left_alone_and_the_rest_built_on_it() -> None:
    owner = Foreign(owner="runfile", evidence="/usr/bin/nvidia-uninstall")
    found = driven("l40s", "535.183.01", "closed", foreign=(owner,))
    assert told(stack(found, driver="none")) == {
        "cuda": "12.9",
        "cudnn": "9.10.2.21",
        "nccl": "2.29.3-1+cuda12.9",
        "torch": "2.14.1+cu126",
    }


@pytest.mark.parametrize(
    ("changes", "rule", "words"),
    [
        ({"id": "fedora", "version_id": "44", "pretty_name": "Fedora 44"}, "unsupported-os",
         "Fedora 44 is not supported; supported: "),
        ({"version_id": "11", "pretty_name": "Debian 11"}, "unsupported-os", "Debian 11"),
        ({"arch": "riscv64"}, "unsupported-arch", "on riscv64 is not supported"),
    ],
)  # fmt: skip
def test_systems_that_are_not_supported(changes: dict[str, str], rule: str, words: str) -> None:
    bare = facts("none").os
    assert isinstance(bare, Os)
    refused = blocked(facts("l40s", os=bare.model_copy(update=changes)))
    assert refused.rule == rule
    assert words in refused.reason


def test_a_gpu_that_has_fallen_off_the_bus() -> None:
    pci = factory.pci("l40s")
    lost = (pci[0], pci[1].model_copy(update={"revision": "ff"}))
    refused = blocked(facts("l40s", pci=lost))
    assert refused.rule == "fallen-off-bus"
    assert pci[1].slot in refused.reason


# ---- a driver that stands

VENDOR = {
    name: "580.159.04-1"
    for name in (
        "libcuda1",
        "libnvidia-ml1",
        "nvidia-driver-cuda",
        "nvidia-kernel-open-dkms",
        "nvidia-persistenced",
        "nvidia-smi",
    )
}
DEBIAN = {
    name: "535.247.01-1~deb12u1"
    for name in ("libcuda1", "nvidia-driver", "nvidia-kernel-dkms", "nvidia-smi")
}


def test_a_working_driver_stays_as_it_is() -> None:
    found = stack(driven("l40s", "580.159.04", "open", VENDOR))
    assert found.driver is not None
    assert {name: pin.version for name, pin in found.driver.packages.items()} == VENDOR
    assert found.driver.pinning == {}
    assert told(found) == NEWEST_OPEN | {"driver": "580.159.04 open"}


def test_its_pinning_package_stays_with_it() -> None:
    packages = VENDOR | {"nvidia-driver-pinning-580": "580-1"}
    found = stack(driven("l40s", "580.159.04", "open", packages))
    assert found.driver is not None
    assert {name: pin.version for name, pin in found.driver.pinning.items()} == {
        "nvidia-driver-pinning-580": "580-1"
    }


def test_what_was_solved_and_installed_is_what_is_kept() -> None:
    fresh = stack(facts("hgx-h100"))
    assert fresh.driver is not None
    assert fresh.fabric is not None
    parts = (fresh.driver.pinning, fresh.driver.packages, fresh.fabric.packages)
    installed = {name: pin.version for part in parts for name, pin in part.items()}
    kept = stack(driven("hgx-h100", "580.178.04", "open", installed))
    assert kept.driver == fresh.driver
    assert kept == fresh


def test_debians_own_driver_stays_and_decides_the_rest() -> None:
    solution = answer(driven("l40s", "535.247.01", "closed", DEBIAN))
    assert solution.stack is not None
    assert solution.stack.driver is not None
    kept = {name: pin.version for name, pin in solution.stack.driver.packages.items()}
    assert kept == DEBIAN
    assert told(solution.stack) == VOLTA | {"driver": "535.247.01 closed"}
    for words in ("end of life in 2026-06", "another origin", "minor-version compatibility"):
        assert any(words in warning for warning in solution.warnings), solution.warnings


def test_user_space_of_another_version_is_told() -> None:
    found = driven("l40s", "580.159.04", "open", VENDOR | {"libcuda1": "580.178.04-1"})
    warnings = answer(found).warnings
    assert any("libcuda1 580.178.04 beside driver 580.159.04" in text for text in warnings)


def test_replacing_a_driver_of_another_origin_is_told() -> None:
    debian = driven("l40s", "535.247.01", "closed", DEBIAN)
    words = "driver 535.247.01 of another origin is replaced by the vendor's 580.178.04"
    assert words in answer(debian, policy="lts").warnings
    vendors = driven("l40s", "580.159.04", "open", VENDOR)
    assert not any("another origin" in text for text in answer(vendors, policy="lts").warnings)


def test_a_kept_driver_below_the_floor_of_a_wish() -> None:
    refused = blocked(driven("l40s", "535.247.01", "closed", DEBIAN), torch_build="cu130")
    assert refused.rule == "driver-floor"
    assert "needs driver 580 or newer, the driver is 535.247.01" in refused.reason
    assert 'torch_build = "cu126"' in refused.unblock


@pytest.mark.parametrize(
    ("spec", "version"),
    [
        ({"driver": "580"}, "580.159.04"),
        ({"driver": "580.178.04"}, "580.178.04"),
        ({"driver": "595"}, "595.91.07"),
        ({"policy": "lts"}, "580.178.04"),
        ({"policy": "production"}, "595.91.07"),
        ({"driver_modules": "closed"}, "580.178.04"),
    ],
)
def test_a_wish_against_the_standing_driver_moves_it(spec: dict[str, str], version: str) -> None:
    found = stack(driven("l40s", "580.159.04", "open", VENDOR), **spec)
    assert found.driver is not None
    assert found.driver.version == version


def test_packages_that_moved_on_under_a_loaded_driver_count() -> None:
    newer = {name: "580.178.04-1" for name in VENDOR}
    found = driven("l40s", "580.159.04", "open", newer)
    assert told(stack(found))["driver"] == "580.178.04 open"


def test_a_driver_that_waits_for_its_first_boot_stays() -> None:
    modules = Modules(
        loaded_version="",
        loaded_flavour=None,
        installed=(InstalledModule(kernel=KERNEL, version="595.91.07", flavour="open"),),
        nouveau_loaded=True,
        nouveau_blacklisted=True,
        refcount=None,
    )
    packages = {
        name: Package(version="595.91.07-1", state="ii", held=False)
        for name in ("nvidia-driver-cuda", "nvidia-kernel-open-dkms")
    }
    found = facts("l40s", modules=modules, packages=packages)
    assert told(stack(found))["driver"] == "595.91.07 open"
    # On a V100 it could never work, so it is no driver that stands.
    assert told(stack(facts("v100", modules=modules, packages=packages)))["driver"] == (
        "580.178.04 closed"
    )


def test_packages_that_were_removed_do_not_stand() -> None:
    packages = {
        name: Package(version=version, state="rc", held=False) for name, version in VENDOR.items()
    }
    assert told(stack(facts("l40s", packages=packages)))["driver"] == "580.178.04 open"


def test_a_kept_driver_with_switches_needs_its_own_fabric_manager() -> None:
    found = driven("hgx-h100", "580.159.04", "open", VENDOR)
    assert told(stack(found))["fabric"] == "580.159.04"
    wrong = driven("hgx-h100", "580.159.04", "open", VENDOR | {"nvidia-fabricmanager": "595.1-1"})
    assert told(stack(wrong))["fabric"] == "580.159.04"
    refused = blocked(driven("hgx-h100", "535.247.01", "closed", DEBIAN))
    assert refused.rule == "fabric"
    assert 'driver = "580.178.04"' in refused.unblock


def test_secure_boot_is_no_matter_for_a_driver_that_works() -> None:
    found = driven("l40s", "580.159.04", "open", VENDOR, secure_boot="enabled")
    assert told(stack(found))["driver"] == "580.159.04 open"
    assert blocked(found, driver="580.178.04").rule == "secure-boot"


def test_an_unreadable_flavour_or_version_blocks() -> None:
    unknown = driven("l40s", "580.159.04", "open").modules
    assert unknown is not None
    bare = {"loaded_flavour": None, "installed": ()}
    refused = blocked(facts("l40s", modules=unknown.model_copy(update=bare)))
    assert "open or closed" in refused.reason
    odd = unknown.model_copy(update={"loaded_version": "garbage $(id)", "installed": ()})
    assert blocked(facts("l40s", modules=odd)).rule == "unknown-facts"


# ---- the parts agree


def test_the_whole_driver_family_has_one_version() -> None:
    for hardware in ("hgx-h100", "l40s", "v100"):
        found = stack(facts(hardware), driver="580.159.04")
        assert found.driver is not None
        pins = {**found.driver.packages, **(found.fabric.packages if found.fabric else {})}
        assert {pin.version for pin in pins.values()} == {"580.159.04-1"}
        assert set(found.driver.pinning) == {"nvidia-driver-pinning-580"}
        assert "nvidia-persistenced" in found.driver.packages


def test_the_cpu_build_keeps_what_the_hardware_would_have_chosen() -> None:
    found = stack(facts("v100"), torch_build="cpu", torch="2.13.0")
    assert found.environment is not None
    assert (found.environment.build, found.environment.hardware_build) == ("cpu", "cu126")
    assert told(found) == VOLTA | {"torch": "2.13.0+cpu"}


def test_a_toolkit_of_another_major_is_said() -> None:
    solution = answer(boards(H100), cuda="12.9", torch="2.15.0")
    assert solution.stack is not None
    assert told(solution.stack)["torch"] == "2.15.0+cu132"
    assert any("different CUDA majors" in warning for warning in solution.warnings)


def offering(*extra: Offer, without: str = "") -> Available:
    kept = [offer for offer in factory.offers() if not without or without not in offer.name]
    return Available(factory.repository(), [*kept, *extra])


def chosen(available: Available | Unavailable, found: NodeFacts, **spec: Any) -> Solution:
    return choose(NodeSpec(**spec), found, load(), available, factory.TODAY).solution


def test_a_toolkit_newer_than_the_driver_is_not_the_default() -> None:
    newer = offering(Offer("cuda-toolkit-13-2", "13.2.2-1"))
    solution = chosen(newer, boards(H100))
    assert solution.stack is not None
    assert told(solution.stack)["cuda"] == "13.0"
    wished = chosen(newer, boards(H100), cuda="13.2")
    assert wished.stack is not None
    assert told(wished.stack)["cuda"] == "13.2"
    assert any("full function from driver 595.71.05" in warning for warning in wished.warnings)
    production = chosen(newer, boards(H100), policy="production")
    assert production.stack is not None
    assert told(production.stack)["cuda"] == "13.2"


def test_nccl_is_packaged_for_the_toolkit_or_the_nearest_release() -> None:
    available = offering(
        *(Offer(name, f"2.30.7-1+cuda{release}") for release in ("13.1", "13.3", "12.4")
          for name in ("libnccl2", "libnccl-dev")),
    )  # fmt: skip
    solution = chosen(available, boards(H100))
    assert solution.stack is not None
    assert told(solution.stack)["nccl"] == "2.30.7-1+cuda13.0"
    only = Available(
        factory.repository(),
        [offer for offer in factory.offers() if "nccl" not in offer.name]
        + [Offer(name, f"2.30.7-1+cuda{release}") for release in ("13.3", "13.1", "12.9")
           for name in ("libnccl2", "libnccl-dev")],
    )  # fmt: skip
    solution = chosen(only, boards(H100))
    assert solution.stack is not None
    assert told(solution.stack)["nccl"] == "2.30.7-1+cuda13.1"


def test_a_torch_whose_pins_are_not_offered_gives_way_to_the_next() -> None:
    older = Available(
        factory.repository(),
        [offer for offer in factory.offers() if not offer.version.startswith("9.26")],
    )
    solution = chosen(older, boards(H100))
    assert solution.stack is not None
    assert told(solution.stack)["cudnn"] == "9.24.0.43"


def test_a_branch_without_pinning_package_is_said() -> None:
    solution = chosen(offering(without="pinning"), boards(H100))
    assert solution.stack is not None
    assert solution.stack.driver is not None
    assert solution.stack.driver.pinning == {}
    assert any("nvidia-driver-pinning-580" in warning for warning in solution.warnings)


def test_nvlink_5_needs_its_subnet_manager() -> None:
    solution = chosen(offering(), boards(B200))
    assert solution.stack is not None
    assert solution.stack.fabric is not None
    assert set(solution.stack.fabric.packages) >= {"nvidia-fabricmanager", "nvlsm"}
    refused = chosen(offering(without="nvlsm"), boards(B200)).blocked
    assert refused is not None
    assert refused.rule == "fabric"
    assert "has no nvlsm" in refused.reason


def test_closed_modules_end_with_their_last_branch() -> None:
    late = offering(*(
        Offer(name, "615.71.09-1", provides="nvidia-kernel (= 615.71.09-1)")
        for name in ("nvidia-kernel-dkms", "nvidia-driver-cuda", "nvidia-persistenced")
    ))  # fmt: skip
    refused = chosen(late, boards(T4), driver="615", driver_modules="closed").blocked
    assert refused is not None
    assert "branch 615 has no closed modules" in refused.reason


# ---- reasons, warnings, repositories


def test_every_choice_has_a_reason_with_a_source() -> None:
    solution = answer(facts("hgx-h100"))
    parts = {reason.part for reason in solution.reasons}
    assert parts == {
        "driver", "origin", "modules", "fabric", "cuda", "cudnn", "nccl", "torch", "python",
        "repository",
    }  # fmt: skip
    assert all(reason.because and reason.source for reason in solution.reasons)


@pytest.mark.parametrize(
    ("version", "today", "words"),
    [
        ("535.309.01", date(2026, 6, 30), ""),
        ("535.309.01", date(2026, 7, 1), "reached its end of life in 2026-06"),
        ("610.57.04", date(2026, 11, 22), "reached its end of life in 2026-08"),
        ("580.178.04", date(2026, 11, 22), ""),
        ("595.91.07", date(2027, 4, 1), "reached its end of life in 2027-03"),
        ("570.172.08", date(2026, 11, 22), "has reached its end of life"),
        ("620.70.06", date(2026, 11, 22), "its end of life is not known"),
        ("700.10.01", date(2026, 11, 22), "not in the catalogue"),
    ],
)
def test_end_of_life_is_told_by_the_day_that_is_passed_in(
    version: str, today: date, words: str
) -> None:
    found = driven("l40s", version, "open", {"nvidia-kernel-open-dkms": f"{version}-1"})
    spec = NodeSpec(cuda="none", cudnn="none", nccl="none", torch_build="cpu")
    solution = choose(spec, found, load(), factory.available(), today).solution
    assert solution.stack is not None, solution.blocked
    said = [warning for warning in solution.warnings if "end of life" in warning]
    assert any(words in warning for warning in said) if words else not said


def test_fewer_gpus_than_wished_are_told() -> None:
    solution = answer(facts("l40s"), gpus=8)
    assert any("8 GPUs are wished, the PCI bus shows 2" in text for text in solution.warnings)


def test_a_repository_that_nobody_could_ask_blocks_who_needs_it() -> None:
    nobody = Unavailable("it cannot be reached")
    refused = chosen(nobody, boards(H100)).blocked
    assert refused is not None
    assert refused.rule == "repository"
    assert "it cannot be reached" in refused.reason
    kept = driven("l40s", "580.159.04", "open", VENDOR)
    parts = {"cuda": "none", "cudnn": "none", "nccl": "none"}
    assert chosen(nobody, kept, **parts).stack
    assert chosen(nobody, facts("none")).stack


@pytest.mark.parametrize(
    ("found", "spec", "needed"),
    [
        (facts("l40s"), {}, True),
        (facts("none"), {}, False),
        (facts("none"), {"cuda": "12.9"}, True),
        (facts("l40s"), {"driver": "none", "cuda": "none", "cudnn": "none", "nccl": "none"}, False),
        (facts("l40s", pci=None), {}, False),
    ],
)
def test_who_needs_the_repository(found: NodeFacts, spec: dict[str, str], needed: bool) -> None:
    assert bool(place(NodeSpec(**spec), found, load())) is needed


def test_the_repository_is_the_vendors_or_the_inventorys() -> None:
    vendors = place(NodeSpec(), facts("l40s"), load())
    assert vendors is not None
    assert vendors.url == (
        "https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64"
    )
    assert vendors.key_url == f"{vendors.url}/3bf863cc.pub"
    spec = NodeSpec(
        vendor_repository="http://mirror/cuda",
        vendor_key_fingerprint="A" * 40,
        proxy="http://proxy:3128",
        ca_bundle="/etc/ssl/site.pem",
    )
    mirror = place(spec, facts("l40s"), load())
    assert mirror is not None
    assert (mirror.url, mirror.key_fingerprint) == ("http://mirror/cuda", "A" * 40)
    assert (mirror.proxy, mirror.ca_bundle) == ("http://proxy:3128", "/etc/ssl/site.pem")


def test_equal_hosts_are_solved_once() -> None:
    hosts = [
        facts(hardware, host=f"gpu{index}")
        for index, hardware in enumerate(["hgx-h100", "l40s", "v100", "none"] * 50)
    ]
    spec = NodeSpec(torch_build="cpu", extras=("einops",))
    before = _shared.cache_info().misses
    answers = [choose(spec, host, load(), factory.available(), factory.TODAY) for host in hosts]
    assert len({answer.solution.stack.id for answer in answers if answer.solution.stack}) == 4
    assert [answer.solution.host for answer in answers] == [host.host for host in hosts]
    assert _shared.cache_info().misses == before + 4
