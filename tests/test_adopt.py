"""A living fleet becomes a lock: what is installed and works, and nothing else."""

from typing import Any

import pytest

from deploy.adopting import adopt
from deploy.catalog import load
from deploy.described import bare_host, catalogue_repository
from deploy.facts import (
    Cuda,
    Environment,
    Foreign,
    InstalledModule,
    Modules,
    NodeFacts,
    Package,
)
from deploy.fleet.spec import NodeSpec
from deploy.lock import HostLock, Lock, spec_digest
from deploy.packages import locked
from deploy.solve import choose
from deploy.stack import Blocked, Packages, Stack
from tests import factory
from tests.factory import driven, facts, solved

DRIVER = {
    name: "580.159.04-1"
    for name in ("libcuda1", "nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-persistenced")
}
CUDA = {
    "cuda-toolkit-12-9": "12.9.1-1",
    "cuda-nvcc-12-9": "12.9.86-1",
    "cuda-toolkit-13-0": "13.0.2-1",
    "cuda-nvcc-13-0": "13.0.88-1",
    "cuda-toolkit-config-common": "13.0.96-1",
    "libcudnn9-cuda-12": "9.10.2.21-1",
    "libcudnn9-cuda-13": "9.20.0.48-1",
    "libcudnn9-dev-cuda-13": "9.20.0.48-1",
    "libnccl2": "2.29.7-1+cuda13.0",
}


def living(packages: dict[str, str] | None = None, **changes: Any) -> NodeFacts:
    """An L40S host that works with driver 580.159.04."""
    pci = tuple(device.model_copy(update={"driver": "nvidia"}) for device in factory.pci("l40s"))
    everything = {**DRIVER, **(packages or {})}
    return driven("l40s", "580.159.04", "open", everything, **{"pci": pci, **changes})


def adopted(found: NodeFacts, old: Lock | None = None, **spec: Any) -> Stack:
    solution = adopt(NodeSpec(**spec), found, load(), old)
    assert solution.stack is not None, solution.blocked
    return solution.stack


def refused(found: NodeFacts, **spec: Any) -> Blocked:
    solution = adopt(NodeSpec(**spec), found, load(), None)
    assert solution.blocked is not None
    assert solution.blocked.unblock
    return solution.blocked


def test_what_is_installed_is_adopted_without_a_repository() -> None:
    stack = adopted(living(CUDA, cuda=Cuda(link="/usr/local/cuda-13.0", toolkits=("13.0",))))
    assert stack.repository is None
    assert stack.driver is not None
    assert {name: pin.version for name, pin in stack.driver.packages.items()} == DRIVER
    assert stack.driver.pinning == {}
    assert stack.cuda is not None
    assert stack.cuda.version == "13.0"
    assert set(stack.cuda.packages) == {"cuda-toolkit-13-0", "cuda-nvcc-13-0"}
    assert stack.cudnn is not None
    assert stack.cudnn.version == "9.20.0.48"
    assert stack.nccl is not None
    assert stack.nccl.packages["libnccl2"].version == "2.29.7-1+cuda13.0"
    assert stack.environment is None


def test_the_linked_toolkit_counts_and_its_major_decides_the_libraries() -> None:
    stack = adopted(living(CUDA, cuda=Cuda(link="/usr/local/cuda-12.9", toolkits=("12.9",))))
    assert stack.cuda is not None
    assert stack.cudnn is not None
    assert (stack.cuda.version, stack.cudnn.version) == ("12.9", "9.10.2.21")


def test_a_host_with_nothing_but_a_driver() -> None:
    stack = adopted(living())
    assert (stack.cuda, stack.cudnn, stack.nccl, stack.environment) == (None,) * 4


def test_a_host_without_gpus() -> None:
    assert adopted(facts("none")).driver is None


def test_a_driver_of_another_origin_is_adopted_as_well() -> None:
    debian = {name: "535.247.01-1~deb12u1" for name in ("libcuda1", "nvidia-kernel-dkms")}
    pci = living().pci
    stack = adopted(driven("l40s", "535.247.01", "closed", debian, pci=pci))
    assert stack.driver is not None
    assert stack.driver.version == "535.247.01"


def test_parts_that_are_not_managed_stay_out() -> None:
    stack = adopted(living(CUDA), driver="none", cuda="none", cudnn="none", nccl="none")
    assert (stack.driver, stack.cuda, stack.cudnn, stack.nccl) == (None,) * 4


def modules(**changes: Any) -> Modules:
    found = living().modules
    assert found is not None
    return found.model_copy(update=changes)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (facts("l40s"), "no driver stands: no nvidia module is loaded"),
        (living(modules=modules(loaded_version="", loaded_flavour=None)), "is installed, but no"),
        (living(modules=modules(loaded_version="580.178.04")),
         "driver 580.178.04 is loaded, 580.159.04 is installed"),
        (living(pci=factory.pci("l40s")), "serves not all GPUs: 0000:1a:00.0 and 0000:2a:00.0"),
        (driven("l40s", "580.159.04", "open", {}, pci=living().pci), "no installed package"),
        (living({"libnvidia-ml1": "580.178.04-1"}), "libnvidia-ml1 580.178.04 is installed beside"),
    ],
)  # fmt: skip
def test_a_driver_that_does_not_work_is_refused(found: NodeFacts, words: str) -> None:
    blocked = refused(found)
    assert blocked.rule == "driver-not-working"
    assert words in blocked.reason


def test_switches_without_the_drivers_own_fabric_manager_are_refused() -> None:
    pci = tuple(
        device.model_copy(update={"driver": "nvidia"}) for device in factory.pci("hgx-h100")
    )
    for packages, words in (
        (DRIVER, "nvidia-fabricmanager is not installed"),
        (DRIVER | {"nvidia-fabricmanager": "580.178.04-1"}, "is 580.178.04, the driver 580.159.04"),
    ):
        found = driven("hgx-h100", "580.159.04", "open", packages, pci=pci)
        assert words in refused(found).reason
    whole = DRIVER | {"nvidia-fabricmanager": "580.159.04-1"}
    stack = adopted(driven("hgx-h100", "580.159.04", "open", whole, pci=pci))
    assert stack.fabric is not None
    assert stack.driver is not None
    assert set(stack.fabric.packages) == {"nvidia-fabricmanager"}
    assert "nvidia-fabricmanager" not in stack.driver.packages


def test_what_somebody_else_manages_is_not_adopted() -> None:
    owner = Foreign(owner="runfile", evidence="/usr/bin/nvidia-uninstall")
    assert refused(living(foreign=(owner,))).rule == "foreign-runfile"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"driver": "595"}, "driver 595 is wished, 580.159.04 is installed"),
        ({"driver_modules": "closed"}, "closed modules are wished, open ones are installed"),
        ({"cuda": "12.6"}, "cuda 12.6 is wished, 13.0 is installed"),
        ({"cudnn": "9.26"}, "cudnn 9.26 is wished, 9.20.0.48 is installed"),
        ({"nccl": "2.30.7"}, "nccl 2.30.7 is wished, 2.29.7 is installed"),
        ({"torch": "2.13.0"}, "torch 2.13.0 is wished, none is installed"),
    ],
)
def test_a_wish_that_differs_from_what_is_installed_is_refused(
    spec: dict[str, str], words: str
) -> None:
    blocked = refused(living(CUDA), **spec)
    assert blocked.rule == "wish-differs"
    assert words in blocked.reason


def test_wishes_that_agree_are_no_hindrance() -> None:
    spec = {"driver": "580", "cuda": "12.9", "cudnn": "9", "nccl": "2.29.7"}
    stack = adopted(living(CUDA), **spec)
    assert stack.cuda is not None
    assert stack.cuda.version == "12.9"


def test_our_own_environment_is_known_from_the_lock() -> None:
    known = solved("l40s")
    assert known.environment is not None
    old = Lock(
        stacks={known.id: known},
        hosts={"h1": HostLock(stack=known.id, spec=spec_digest(NodeSpec()))},
    )
    current = Environment(
        id=known.environment.id,
        current=True,
        complete=True,
        manifest="",
        found="",
        in_use=False,
        wheels={},
    )
    assert adopted(living(environments=(current,)), old).environment == known.environment
    assert adopted(living(environments=(current,))).environment is None


# ---- every system


def applied(stack: Stack, found: NodeFacts) -> NodeFacts:
    """A described host after its stack was applied: driver loaded, every package there."""
    driver = stack.driver
    assert driver is not None
    assert found.kernel is not None
    kernel = found.kernel.running
    return found.model_copy(
        update={
            "pci": tuple(
                device.model_copy(update={"driver": "nvidia"})
                if device.pci_class == "030200"
                else device
                for device in found.pci or ()
            ),
            "packages": {
                name: Package(version=pin.version, state="ii", held=False)
                for name, pin in locked(stack).items()
            },
            "streams": {"nvidia-driver": driver.stream.partition(":")[2]} if driver.stream else {},
            "modules": Modules(
                loaded_version=driver.version,
                loaded_flavour=driver.flavour,
                installed=(
                    InstalledModule(kernel=kernel, version=driver.version, flavour=driver.flavour),
                ),
                nouveau_loaded=False,
                nouveau_blacklisted=True,
                refcount=0,
            ),
            "cuda": Cuda(link="", toolkits=()),
            "environments": (),
        }
    )


@pytest.mark.parametrize("system", ["debian12", "ubuntu2404", "rhel8", "rhel9"])
def test_adopting_what_was_solved_gives_the_same_stack(system: str) -> None:
    catalogue = load()
    bare = bare_host(catalogue, system, "x86_64", ("2330", "22a3"))
    spec = NodeSpec(torch="none", dcgm="latest", container_toolkit="latest", policy="lts")
    available = catalogue_repository(catalogue, system, "x86_64")
    solution = choose(spec, bare, catalogue, available, factory.TODAY).solution
    assert solution.stack is not None, solution.blocked
    wanted = solution.stack
    found = adopt(spec, applied(wanted, bare), catalogue, None).stack
    assert found is not None
    assert found.packaging == wanted.packaging
    assert found.driver is not None
    assert wanted.driver is not None
    for field in ("branch", "version", "flavour", "origin", "stream", "prebuilt"):
        assert getattr(found.driver, field) == getattr(wanted.driver, field), field
    assert versions(found.driver.pinning) == versions(wanted.driver.pinning)
    assert set(versions(found.driver.packages).items()) <= set(
        versions(wanted.driver.packages).items()
    )
    assert [name for name, _ in found.components] == [name for name, _ in wanted.components]
    for name, part in wanted.components:
        mine = getattr(found, name)
        assert (mine.version, mine.origin) == (part.version, part.origin), name
        assert set(versions(mine.packages).items()) <= set(versions(part.packages).items()), name


def versions(packages: Packages) -> dict[str, str]:
    return {name: pin.version for name, pin in packages.items()}


def test_optional_parts_are_adopted_only_where_they_are_wished() -> None:
    toolkit = {
        name: "1.18.2-1"
        for name in (
            "nvidia-container-toolkit",
            "nvidia-container-toolkit-base",
            "libnvidia-container-tools",
            "libnvidia-container1",
        )
    }
    assert adopted(living(toolkit)).container_toolkit is None
    found = adopted(living(toolkit), container_toolkit="latest").container_toolkit
    assert found is not None
    assert versions(found.packages) == toolkit
    assert found.version == "1.18.2"
    blocked = refused(living(), dcgm="latest")
    assert "dcgm latest is wished, none is installed" in blocked.reason


def test_an_origin_that_differs_is_refused() -> None:
    blocked = refused(living(), origin="distribution")
    assert "the distribution's driver is wished, the vendor's is installed" in blocked.reason
