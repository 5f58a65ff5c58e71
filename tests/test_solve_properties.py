"""Whatever is asked of whatever hardware: a stack satisfies the catalogue, read row by row.

The checks below read the catalogue and the offers themselves and call nothing of the solver.
"""

from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.catalog import load
from deploy.catalog.models import Gpu, numbers
from deploy.facts import NodeFacts, PciDevice
from deploy.fleet.spec import NodeSpec
from deploy.solve import _shared, choose
from deploy.solving.offers import Offer
from deploy.stack import Solution, Stack
from tests import factory
from tests.factory import driven, facts

CATALOGUE = load()
OFFERS = {(offer.name, offer.version): offer for offer in factory.offers()}
NAMES = {given.name for offer in OFFERS.values() for given in offer.given}
COMMON = [CATALOGUE.gpu[device] for device in ("1db5", "1eb8", "20b2", "26b9", "2330", "2bb5")]

gpus = st.lists(st.sampled_from(COMMON) | st.sampled_from(CATALOGUE.gpus), max_size=3)
WISHES: dict[str, list[Any]] = {
    "policy": ["keep", "lts", "production", "newest"],
    "driver": ["none", "580", "580.159.04", "595", "570"],
    "driver_modules": ["open", "closed"],
    "cuda": ["none", "12.9", "13.0", "13.2", "12.6"],
    "cudnn": ["none", "9", "9.20.0.48", "9.10.2.21"],
    "nccl": ["none", "2", "2.29.7", "2.28.9"],
    "torch": ["none", "2.15.0", "2.14", "2.13.0", "2.10.0"],
    "torch_build": ["auto", "cpu", "cu126", "cu130", "cu132"],
    "python": ["3.11", "3.12"],
    "gpus": [0, 1, 2],
}
wishes = st.sampled_from([(key, value) for key, values in WISHES.items() for value in values])
specs = st.lists(wishes, max_size=3).map(dict)
"""Few wishes at a time: with many, most hosts are blocked and little is proven of stacks."""
standing = st.none() | st.tuples(
    st.sampled_from(["535.247.01", "570.172.08", "580.159.04", "595.91.07"]),
    st.sampled_from(["open", "closed"]),
)


def host(boards: list[Gpu], switches: bool, driver: tuple[str, str] | None) -> NodeFacts:
    pci = [device(index, gpu.device, "030200") for index, gpu in enumerate(boards, start=1)]
    if boards and switches:
        pci.append(device(0xC1, "22a3", "068000"))
    if driver is None or not boards:
        return facts("none", pci=tuple(pci))
    version, flavour = driver
    module = "nvidia-kernel-open-dkms" if flavour == "open" else "nvidia-kernel-dkms"
    packages = {name: f"{version}-1" for name in (module, "nvidia-driver-cuda", "libcuda1")}
    return driven("none", version, flavour, packages, pci=tuple(pci))


def device(bus: int, name: str, pci_class: str) -> PciDevice:
    return PciDevice(
        slot=f"0000:{bus:02x}:00.0",
        device=name,
        pci_class=pci_class,
        subsystem="10de:0000",
        revision="a1",
        driver="",
    )


def ask(spec: dict[str, Any], found: NodeFacts) -> Solution:
    return choose(NodeSpec(**spec), found, CATALOGUE, factory.available(), factory.TODAY).solution


def matches(version: str, wish: str) -> bool:
    return (version + ".").startswith(wish + ".")


def broken(
    spec: dict[str, Any], boards: list[Gpu], found: NodeFacts, stack: Stack
) -> Iterator[str]:
    """Every constraint of catalogue, repository and wish that a stack breaks."""
    loaded = found.modules.loaded_version if found.modules else ""
    version = stack.driver.version if stack.driver else loaded
    kept = bool(stack.driver and stack.driver.version == loaded)
    yield from broken_driver(boards, stack, kept)
    switches = any(device.pci_class.startswith("0680") for device in found.pci or ())
    if bool(stack.fabric) != bool(stack.driver and (switches or any(gpu.fabric for gpu in boards))):
        yield "fabric manager where no switch is, or none where one is"
    if stack.fabric and stack.fabric.version != version:
        yield f"fabric manager {stack.fabric.version} for driver {version}"
    yield from broken_software(boards, stack, version)
    yield from broken_packages(stack, kept)
    wishes = {
        "driver": stack.driver.version if stack.driver else "none",
        "driver_modules": stack.driver.flavour if stack.driver else spec.get("driver_modules"),
        "cuda": stack.cuda.version if stack.cuda else "none",
        "cudnn": stack.cudnn.version if stack.cudnn else "none",
        "nccl": stack.nccl.version if stack.nccl else "none",
    }
    for key, got in wishes.items():
        if key in spec and not matches(str(got), str(spec[key])):
            yield f"{key}: wished {spec[key]}, got {got}"


def broken_driver(boards: list[Gpu], stack: Stack, kept: bool) -> Iterator[str]:
    if stack.driver is None:
        return
    branch = int(stack.driver.version.split(".")[0])
    for name in () if kept else {gpu.architecture for gpu in boards}:
        kind = CATALOGUE.architecture[name]
        if not kind.driver_min <= branch <= (kind.driver_max or branch):
            yield f"branch {branch} for {name}"
        if stack.driver.flavour not in kind.modules:
            yield f"{stack.driver.flavour} modules for {name}"
    if not kept and stack.driver.flavour == "closed" and branch > CATALOGUE.closed_last.branch:
        yield "closed modules after their last branch"
    for name, pin in stack.driver.packages.items():
        if not pin.version.startswith(stack.driver.version + "-"):
            yield f"{name} {pin.version} beside driver {stack.driver.version}"


def broken_software(boards: list[Gpu], stack: Stack, driver: str) -> Iterator[str]:
    old = [gpu for gpu in boards if numbers(gpu.compute) < (7, 5)]
    if stack.cudnn and numbers(stack.cudnn.version) >= (9, 11) and old:
        yield f"cuDNN {stack.cudnn.version} on {old}"
    if stack.cuda is None:
        return
    release = numbers(stack.cuda.version)
    for gpu in boards:
        kind = CATALOGUE.architecture[gpu.architecture]
        last = numbers(kind.cuda_last) if kind.cuda_last else release
        if not numbers(kind.cuda_min) <= release <= last:
            yield f"CUDA {stack.cuda.version} on {gpu.name}"
    floor = CATALOGUE.cuda_major[release[0]].driver
    if driver and numbers(driver) < numbers(floor):
        yield f"CUDA {stack.cuda.version} on driver {driver}"
    if f"cuda-toolkit-{release[0]}-{release[1]}" not in stack.cuda.packages:
        yield "the toolkit's packages lack the toolkit"
    if stack.nccl and f"+cuda{release[0]}." not in stack.nccl.packages["libnccl2"].version:
        yield "NCCL of another CUDA major than the toolkit"
    if stack.cudnn and f"libcudnn9-cuda-{release[0]}" not in stack.cudnn.packages:
        yield "cuDNN of another CUDA major than the toolkit"


def broken_packages(stack: Stack, kept: bool) -> Iterator[str]:
    parts = [stack.fabric, stack.cuda, stack.cudnn, stack.nccl]
    pins = {name: pin for part in parts if part for name, pin in part.packages.items()}
    if stack.driver and not kept:
        pins |= {**stack.driver.pinning, **stack.driver.packages}
    chosen: list[Offer] = []
    for name, pin in pins.items():
        offer = OFFERS.get((name, pin.version))
        if offer is None:
            yield f"{name} {pin.version} is not offered"
        else:
            chosen.append(offer)
    for offer in chosen:
        for group in offer.needs:
            known = any(wanted.name in NAMES for wanted in group)
            if known and not any(one.satisfies(wanted) for one in chosen for wanted in group):
                yield f"{offer.name} lacks {group}"
        for excluded in offer.excludes:
            if any(other.name != offer.name and other.satisfies(excluded) for other in chosen):
                yield f"{offer.name} conflicts with another chosen package"


@settings(max_examples=150, deadline=None)
@given(spec=specs, boards=gpus, switches=st.booleans(), driver=standing)
def test_a_stack_satisfies_every_constraint_and_a_refusal_says_why(
    spec: dict[str, Any], boards: list[Gpu], switches: bool, driver: tuple[str, str] | None
) -> None:
    found = host(boards, switches, driver)
    solution = ask(spec, found)
    if solution.stack is None:
        assert solution.blocked is not None
        assert solution.blocked.reason
        assert solution.blocked.rule
        assert solution.blocked.source
        assert solution.blocked.unblock
        return
    assert list(broken(spec, boards, found, solution.stack)) == []
    assert solution.blocked is None


@settings(max_examples=150, deadline=None)
@given(spec=specs, boards=gpus, driver=standing)
def test_the_torch_that_is_chosen_runs_there(
    spec: dict[str, Any], boards: list[Gpu], driver: tuple[str, str] | None
) -> None:
    found = host(boards, False, driver)
    answer = choose(NodeSpec(**spec), found, CATALOGUE, factory.available(), factory.TODAY)
    wish = answer.environment
    if wish is None:
        return
    release = next(row for row in CATALOGUE.torch if row.version == wish.torch)
    asked = spec.get("torch_build", "auto")
    assert wish.python in release.pythons
    assert matches(wish.torch, str(spec.get("torch", wish.torch)))
    assert asked in ("auto", wish.build)
    if not boards:
        assert (wish.build, wish.hardware_build) == ("cpu", "")
        return
    build = next(row for row in release.builds if row.build == wish.hardware_build)
    assert wish.build in ("cpu", build.build)
    for gpu in boards:
        major, minor = numbers(gpu.compute)
        have = [numbers(one) for one in build.capabilities]
        assert any(one[0] == major and one[1] <= minor for one in have)
    stack = answer.solution.stack
    assert stack is not None
    loaded = found.modules.loaded_version if found.modules else ""
    runs = stack.driver.version if stack.driver else loaded
    floor = CATALOGUE.cuda_major[numbers(build.cuda)[0]].driver
    assert not runs or numbers(runs) >= numbers(floor)


fleets = st.lists(st.tuples(specs, gpus, st.booleans(), standing), min_size=2, max_size=5)


@settings(max_examples=40, deadline=None)
@given(fleet=fleets, order=st.randoms(use_true_random=False))
def test_a_hosts_answer_depends_on_no_other_host_and_on_no_order(fleet: Any, order: Any) -> None:
    hosts = [(spec, host(boards, switches, driver)) for spec, boards, switches, driver in fleet]
    alone = []
    for spec, found in hosts:
        _shared.cache_clear()
        alone.append(ask(spec, found))
    _shared.cache_clear()
    shuffled = list(range(len(hosts)))
    order.shuffle(shuffled)
    together = {index: ask(*hosts[index]) for index in shuffled}
    assert [together[index] for index in range(len(hosts))] == alone
