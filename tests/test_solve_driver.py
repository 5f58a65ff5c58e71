"""The driver on every distribution: names, origins, streams, kernels, boards without a row.

Repositories are the catalogue's own description of them, so what is asserted here is what the
catalogue and the rules say; `tests/test_available.py` reads real ones.
"""

from functools import cache
from typing import Any

import pytest

from deploy.catalog import load
from deploy.described import bare_host, catalogue_repository, example_kernel
from deploy.facts import InstalledModule, Kernel, Modules, NodeFacts, Package
from deploy.fleet.spec import NodeSpec
from deploy.plan import plan_host
from deploy.solve import choose, place
from deploy.solving.fits import check_fit
from deploy.solving.offers import Available, Offer
from deploy.solving.refusal import Refused
from deploy.solving.situation import situation
from deploy.stack import Blocked, Driver, Solution, Stack
from deploy.steps import Wanted
from tests.factory import TODAY

V100, T4, H100, B200, GB200, GH200 = "1db5", "1eb8", "2331", "2901", "2941", "2342"
HGX = ("2330", "22a3")
KEY = "0" * 40


@cache
def repository(distribution: str, machine: str = "x86_64") -> Available:
    return catalogue_repository(load(), distribution, machine)


def without(available: Available, *words: str) -> Available:
    """The same repository without packages whose name holds one of these words."""
    kept = [one for one in available._all if not any(word in one.name for word in words)]
    return Available(available.repository, kept, available.packaging)


def host(
    distribution: str, *devices: str, machine: str = "x86_64", secure: bool = False, **changes: Any
) -> NodeFacts:
    found = bare_host(load(), distribution, machine, devices, "enabled" if secure else "disabled")
    return found.model_copy(update=changes)


def standing(
    distribution: str,
    version: str,
    flavour: Any,
    packages: dict[str, str],
    *devices: str,
    **changes: Any,
) -> NodeFacts:
    """A host whose driver is installed and loaded."""
    found = host(distribution, *(devices or (H100,)))
    assert found.kernel
    modules = Modules(
        loaded_version=version,
        loaded_flavour=flavour,
        installed=(InstalledModule(kernel=found.kernel.running, version=version, flavour=flavour),),
        nouveau_loaded=False,
        nouveau_blacklisted=True,
        refcount=0,
    )
    held = {name: Package(version=full, state="ii", held=False) for name, full in packages.items()}
    return found.model_copy(update={"modules": modules, "packages": held, **changes})


def answer(found: NodeFacts, available: Available | None = None, **spec: Any) -> Solution:
    assert found.os
    row = load().distribution(found.os.id, found.os.version_id)
    offered = available or repository(row.name if row else "debian12", found.os.arch)
    return choose(NodeSpec(**spec), found, load(), offered, TODAY).solution


def stack(found: NodeFacts, available: Available | None = None, **spec: Any) -> Stack:
    solution = answer(found, available, **spec)
    assert solution.stack, solution.blocked
    return solution.stack


def driver(found: NodeFacts, available: Available | None = None, **spec: Any) -> Driver:
    chosen = stack(found, available, **spec).driver
    assert chosen
    return chosen


def blocked(found: NodeFacts, available: Available | None = None, **spec: Any) -> Blocked:
    solution = answer(found, available, **spec)
    assert solution.blocked, solution.stack
    assert solution.blocked.unblock
    return solution.blocked


# ---- names


@pytest.mark.parametrize(
    ("distribution", "spec", "names"),
    [
        ("debian12", {}, {"nvidia-kernel-open-dkms", "nvidia-driver-cuda", "libcuda1"}),
        ("ubuntu2404", {}, {"nvidia-dkms-580-open", "libnvidia-compute-580", "nvidia-utils-580"}),
        ("ubuntu2404", {"driver": "595"}, {"nvidia-dkms-open", "libnvidia-compute"}),
        ("ubuntu2404", {"driver": "595", "driver_modules": "closed"}, {"nvidia-dkms"}),
        ("ubuntu2204", {"origin": "distribution"},
         {"nvidia-headless-no-dkms-580-server-open", "nvidia-utils-580-server"}),
        ("rhel9", {}, {"kmod-nvidia-open-dkms", "nvidia-driver-cuda", "nvidia-persistenced"}),
        ("rhel8", {"driver_modules": "closed"}, {"kmod-nvidia-latest-dkms"}),
        ("rhel10", {"vendor_key_fingerprint": KEY}, {"kmod-nvidia-open-dkms"}),
        ("amzn2023", {}, {"kmod-nvidia-open-dkms"}),
        ("sles15", {}, {"nvidia-open-driver-G06", "nvidia-compute-utils-G06"}),
        ("sles15", {"driver": "595"}, {"nvidia-open-driver-G07", "nvidia-compute-utils-G07"}),
    ],
)  # fmt: skip
def test_packages_are_called_what_the_distribution_calls_them(
    distribution: str, spec: dict[str, Any], names: set[str]
) -> None:
    chosen = driver(host(distribution, H100), **spec)
    assert names <= set(chosen.packages)
    assert set(chosen.pinning) == (
        {f"nvidia-driver-pinning-{chosen.branch}"}
        if chosen.origin == "vendor" and distribution.startswith(("debian", "ubuntu"))
        else set()
    )


@pytest.mark.parametrize(
    ("distribution", "spec", "stream"),
    [
        ("rhel8", {}, "nvidia-driver:580-open"),
        ("rhel9", {"driver_modules": "closed"}, "nvidia-driver:580-dkms"),
        ("rhel9", {"driver": "595"}, "nvidia-driver:595-open"),
        ("amzn2023", {}, "nvidia-driver:580-open"),
        ("rhel10", {"vendor_key_fingerprint": KEY}, ""),
        ("debian12", {}, ""),
    ],
)
def test_a_branch_is_a_module_stream_where_there_are_streams(
    distribution: str, spec: dict[str, Any], stream: str
) -> None:
    assert driver(host(distribution, H100), **spec).stream == stream


def test_only_the_wished_stream_is_looked_into() -> None:
    whole = repository("rhel9")
    newer = Offer("kmod-nvidia-open-dkms", "3:580.999.01-1", stream="nvidia-driver:latest")
    mixed = Available(whole.repository, [*whole._all, newer], "dnf")
    assert driver(host("rhel9", H100), mixed).version == "580.178.04"
    assert newer.version in mixed.versions("kmod-nvidia-open-dkms")


def test_versions_of_rpm_hosts_carry_the_drivers_epoch_and_the_managers_none() -> None:
    found = stack(host("rhel9", *HGX))
    assert found.driver
    assert found.fabric
    assert {pin.version for pin in found.driver.packages.values()} == {"3:580.178.04-1"}
    assert found.fabric.packages["nvidia-fabricmanager"].version == "580.178.04-1"


@pytest.mark.parametrize("distribution", ["debian13", "ubuntu2604"])
def test_without_an_lts_driver_a_bare_host_gets_the_production_one(distribution: str) -> None:
    solution = answer(host(distribution, H100))
    assert solution.stack
    assert solution.stack.driver
    assert solution.stack.driver.version == "595.91.07"
    why = next(one.because for one in solution.reasons if one.part == "driver")
    assert "no LTS driver is to be had here" in why


def test_who_asks_for_lts_is_not_given_another() -> None:
    assert blocked(host("debian13", H100), policy="lts").rule == "repository-lacks"


@pytest.mark.parametrize("version", ["615", "620"])
def test_closed_modules_are_gone_from_615_on(version: str) -> None:
    refused = blocked(host("rhel9", T4), driver=version, driver_modules="closed")
    assert "closed modules" in refused.reason


# ---- origins


def test_secure_boot_takes_the_signed_modules_of_the_archive() -> None:
    solution = answer(host("ubuntu2404", H100, secure=True))
    assert solution.stack
    chosen = solution.stack.driver
    assert chosen
    assert chosen.origin == "distribution"
    assert chosen.prebuilt == "linux-modules-nvidia-580-server-open-{kernel}"
    assert chosen.pinning == {}
    parts = {(one.part, one.choice) for one in solution.reasons}
    assert ("origin", "distribution") in parts
    assert ("modules", chosen.prebuilt) in parts
    why = next(one for one in solution.reasons if one.part == "origin")
    assert "Secure Boot" in why.because
    assert solution.stack.cuda  # what stands on the driver is the vendor's


@pytest.mark.parametrize("distribution", ["debian12", "rhel9", "sles15"])
def test_secure_boot_without_signed_modules_is_blocked(distribution: str) -> None:
    assert blocked(host(distribution, H100, secure=True)).rule == "secure-boot"


def test_signed_modules_must_exist_for_the_hosts_kernels() -> None:
    kernel = Kernel(running="6.8.0-90-generic", next="6.8.0-91-generic", installed=(), headers=())
    refused = blocked(host("ubuntu2404", H100, secure=True, kernel=kernel))
    assert "no signed modules for kernel 6.8.0-91-generic" in refused.reason
    unread = host("ubuntu2404", H100, secure=True, kernel=None)
    assert "could not be read" in blocked(unread).reason


def test_an_unknown_secure_boot_takes_modules_that_are_signed_either_way() -> None:
    found = host("ubuntu2404", H100, secure_boot=None, unknown={"secure_boot": "timed out"})
    assert driver(found).prebuilt
    assert blocked(host("rhel9", H100, secure_boot=None)).rule == "unknown-facts"


def test_the_policy_may_leave_only_the_archive() -> None:
    chosen = driver(host("ubuntu2604", H100), policy="lts")
    assert (chosen.branch, chosen.origin) == ("580", "distribution")


def test_sources_that_were_not_asked_are_not_blamed() -> None:
    refused = blocked(host("ubuntu2404", V100), driver="620")
    assert "the distribution's own" not in refused.reason


def test_volta_on_ubuntu_2604_takes_the_archives_580() -> None:
    solution = answer(host("ubuntu2604", V100))
    assert solution.stack
    chosen = solution.stack.driver
    assert chosen
    assert (chosen.branch, chosen.flavour, chosen.origin) == ("580", "closed", "distribution")
    why = next(one for one in solution.reasons if one.part == "origin")
    assert "supported up to branch 580" in why.because
    refused = blocked(host("ubuntu2604", V100), origin="vendor")
    assert refused.rule == "driver-hardware"
    assert any(text.startswith("origin = ") for text in refused.unblock)


def test_where_no_origin_can_both_reasons_are_said() -> None:
    refused = blocked(host("ubuntu2604", V100), without(repository("ubuntu2604"), "headless"))
    assert "supported up to branch 580" in refused.reason
    assert "the distribution's own packages cannot either" in refused.reason


def test_a_distribution_without_own_packages_cannot_be_the_origin() -> None:
    assert blocked(host("rhel9", H100), origin="distribution").rule == "origin"


ARCHIVE = {
    name: "580.173.02-0ubuntu0.24.04.1"
    for name in (
        "libnvidia-compute-580-server",
        "nvidia-headless-no-dkms-580-server-open",
        "nvidia-utils-580-server",
    )
} | {"linux-modules-nvidia-580-server-open-6.8.0-90-generic": "6.8.0-90.91"}


@pytest.mark.parametrize(("cuda", "configured"), [(None, True), ("none", False)])
def test_the_vendors_repository_is_configured_only_for_a_part_that_is_the_vendors(
    cuda: str | None, configured: bool
) -> None:
    wish = NodeSpec(origin="distribution", cuda=cuda, cudnn="none", nccl="none")
    found = choose(wish, host("ubuntu2204", H100), load(), repository("ubuntu2204"), TODAY)
    assert found.solution.stack
    assert (found.solution.stack.repository is not None) is configured


def test_debians_own_driver_has_a_daemon_with_numbers_of_its_own() -> None:
    whole = repository("debian12")
    mixed = Available(
        whole.repository,
        [
            Offer(one.name, "535.171.04-1~deb12u1", origin="distribution")
            if one.name == "nvidia-persistenced" and one.origin == "distribution"
            else one
            for one in whole._all
        ],
    )
    chosen = driver(host("debian12", H100), mixed, origin="distribution")
    assert chosen.branch == "535"
    assert chosen.packages["nvidia-persistenced"].version == "535.171.04-1~deb12u1"
    assert chosen.packages["nvidia-smi"].version == f"{chosen.version}-1"


@pytest.mark.parametrize(
    ("distribution", "module", "full", "origin"),
    [
        ("debian12", "nvidia-kernel-dkms", "535.261.03-1", "distribution"),
        ("debian12", "nvidia-kernel-dkms", "535.247.01-1~deb12u1", "distribution"),
        ("debian12", "nvidia-kernel-dkms", "580.178.04-1", "vendor"),
        ("debian12", "nvidia-open-kernel-dkms", "535.261.03-1", "distribution"),
        ("debian13", "nvidia-kernel-dkms", "550.163.01-2", "distribution"),
        ("debian13", "nvidia-kernel-open-dkms", "595.91.07-1", "vendor"),
    ],
)
def test_whose_driver_stands_on_debian(
    distribution: str, module: str, full: str, origin: str
) -> None:
    version = full.partition("-")[0]
    seen = situation(
        NodeSpec(), standing(distribution, version, "closed", {module: full}, V100), load()
    )
    assert seen.driver
    assert seen.driver.origin == origin


def test_the_archives_driver_stays_as_it_is() -> None:
    solution = answer(standing("ubuntu2404", "580.173.02", "open", ARCHIVE))
    assert solution.stack
    chosen = solution.stack.driver
    assert chosen
    assert (chosen.origin, chosen.version) == ("distribution", "580.173.02")
    assert chosen.prebuilt == "linux-modules-nvidia-580-server-open-{kernel}"
    assert any("another origin" in words for words in solution.warnings)


def test_the_archives_driver_moves_inside_the_archive() -> None:
    found = standing("ubuntu2404", "580.173.02", "open", ARCHIVE)
    chosen = driver(found, policy="production")
    assert (chosen.branch, chosen.origin) == ("595", "distribution")


def test_origins_are_not_mixed_silently() -> None:
    found = standing("ubuntu2404", "580.173.02", "open", ARCHIVE)
    refused = blocked(found, driver="620")
    assert refused.rule == "mixed-origin"
    assert "mixed origin" in refused.reason
    assert 'origin = "vendor"' in refused.unblock
    solution = answer(found, driver="620", origin="vendor")
    assert solution.stack
    assert solution.stack.driver
    assert solution.stack.driver.origin == "vendor"
    words = "driver 580.173.02 of another origin is replaced by the vendor's 620.70.06"
    assert words in solution.warnings


def test_the_vendors_driver_is_not_changed_for_the_archives_either() -> None:
    fresh = driver(host("ubuntu2404", H100))
    packages = {name: pin.version for name, pin in fresh.packages.items()}
    found = standing("ubuntu2404", fresh.version, "open", packages, secure_boot="enabled")
    assert driver(found).origin == "vendor"  # it works, so it stays
    refused = blocked(found, policy="newest")
    assert refused.rule == "mixed-origin"
    assert "Secure Boot" in refused.reason
    assert 'origin = "distribution"' in refused.unblock


def test_the_archives_desktop_packages_are_its_own_too() -> None:
    """They have the names of the vendor's up to 580; their versions tell."""
    desktop = {
        name: "580.173.02-0ubuntu0.24.04.1"
        for name in ("nvidia-dkms-580-open", "libnvidia-compute-580")
    }
    seen = situation(NodeSpec(), standing("ubuntu2404", "580.173.02", "open", desktop), load())
    assert seen.driver
    assert seen.driver.origin == "distribution"


def test_both_origins_at_once_are_told() -> None:
    packages = {
        "nvidia-dkms-open": "595.71.05-1ubuntu1",
        "libnvidia-compute": "595.71.05-1ubuntu1",
        "nvidia-utils-595-server": "595.71.05-0ubuntu0.24.04.1",
    }
    solution = answer(standing("ubuntu2404", "595.71.05", "open", packages))
    assert any("mixed origin: nvidia-utils-595-server" in words for words in solution.warnings)


@pytest.mark.parametrize(
    ("found", "spec", "own"),
    [
        (host("ubuntu2404", H100), {}, False),
        (host("ubuntu2404", H100, secure=True), {}, True),
        (host("ubuntu2404", H100, secure=True), {"origin": "vendor"}, False),
        (host("ubuntu2404", H100), {"origin": "distribution"}, True),
        (host("ubuntu2604", V100), {}, True),
        (host("ubuntu2604", H100), {"driver": "580"}, True),
        (host("ubuntu2604", H100), {}, False),
        (host("ubuntu2604", H100), {"policy": "lts"}, True),
        (host("ubuntu2404", H100), {"policy": "lts"}, False),
        (host("ubuntu2404", H100, secure_boot=None), {}, True),
        (host("rhel9", H100, secure=True), {}, False),
        (host("debian13", V100), {}, True),
        (standing("ubuntu2404", "580.173.02", "open", ARCHIVE), {}, True),
        (host("ubuntu2404", H100, secure=True), {"driver": "none"}, False),
    ],
)
def test_when_the_hosts_own_sources_are_asked(
    found: NodeFacts, spec: dict[str, Any], own: bool
) -> None:
    where = place(NodeSpec(**spec), found, load())
    assert where
    assert where.own is own


@pytest.mark.parametrize(
    ("distribution", "url", "rule"),
    [
        ("debian13", "http://mirror/cuda/repos/debian12/x86_64", "vendor-repository"),
        ("rhel9", "http://mirror/cuda/repos/rhel8/x86_64", "vendor-repository"),
        ("rhel10", "http://mirror/cuda/repos/rhel10/x86_64", "vendor-key"),
    ],
)
def test_a_repository_that_cannot_be_this_hosts(distribution: str, url: str, rule: str) -> None:
    refused = blocked(host(distribution, H100), vendor_repository=url)
    assert refused.rule == rule
    cpu = answer(host(distribution), vendor_repository=url)
    assert cpu.stack, cpu.blocked
    named = place(
        NodeSpec(vendor_repository="http://mirror/nvidia", vendor_key_fingerprint=KEY),
        host(distribution, H100),
        load(),
    )
    assert named
    assert (named.url, named.key_fingerprint) == ("http://mirror/nvidia", KEY)


# ---- kernels


def test_a_branch_is_not_built_for_a_kernel_that_breaks_it() -> None:
    kernel = Kernel(running="7.0.0-1011-gcp", next="7.0.0-1011-gcp", installed=(), headers=())
    refused = blocked(host("ubuntu2404", H100, kernel=kernel), driver="590")
    assert refused.rule == "kernel"
    assert "7.0.0-1011-gcp" in refused.reason
    assert driver(host("ubuntu2404", H100, kernel=kernel), driver="595").branch == "595"
    next_boot = kernel.model_copy(update={"running": "6.8.0-90-generic"})
    assert blocked(host("ubuntu2404", H100, kernel=next_boot), driver="590").rule == "kernel"
    assert blocked(host("ubuntu2404", H100, kernel=None), driver="590").rule == "unknown-facts"


# ---- boards


def test_a_board_without_a_row_is_taken_by_its_range() -> None:
    catalogue = load()
    unknown = next(
        f"{number:04x}"
        for number in range(0x20B0, 0x2100)
        if f"{number:04x}" not in catalogue.gpu
        and (kind := catalogue.range_of(f"{number:04x}"))
        and kind.name == "ampere"
    )
    solution = answer(host("debian12", unknown))
    assert solution.stack
    assert solution.stack.driver
    assert solution.stack.driver.flavour == "open"
    assert any(f"10de:{unknown} is not in the catalogue" in text for text in solution.warnings)


def test_a_range_that_cannot_decide_is_blocked() -> None:
    catalogue = load()
    unknown = next(
        f"{number:04x}"
        for number in range(0x2900, 0x3000)
        if f"{number:04x}" not in catalogue.gpu
        and (kind := catalogue.range_of(f"{number:04x}"))
        and kind.name == "blackwell"
    )
    refused = blocked(host("debian12", unknown))
    assert refused.rule == "unknown-gpu"
    for words in ("compute capability", "fabric manager"):
        assert words in refused.reason
    nothing = next(
        f"{number:04x}"
        for number in range(0xF000, 0xFFFF)
        if not catalogue.range_of(f"{number:04x}")
    )
    assert blocked(host("debian12", nothing)).rule == "unknown-gpu"


@pytest.mark.parametrize("device", [GB200, GH200])
def test_a_board_that_is_soldered_to_an_arm_processor(device: str) -> None:
    assert blocked(host("ubuntu2404", device)).rule == "machine"
    assert driver(host("ubuntu2404", device, machine="aarch64")).flavour == "open"


@pytest.mark.parametrize(
    ("distribution", "names"),
    [
        ("ubuntu2404", {"nvidia-imex", "nvidia-modprobe"}),
        ("rhel9", {"nvidia-imex", "nvidia-modprobe"}),
    ],
)
def test_a_rack_gets_imex_and_no_fabric_manager(distribution: str, names: set[str]) -> None:
    solution = answer(host(distribution, GB200, machine="aarch64"))
    assert solution.stack
    assert solution.stack.driver
    assert solution.stack.fabric is None
    imex = solution.stack.imex
    assert imex
    assert imex.version == solution.stack.driver.version
    assert names <= set(imex.packages)
    assert any(one.part == "imex" for one in solution.reasons)
    lacking = without(repository(distribution, "aarch64"), "imex")
    assert blocked(host(distribution, GB200, machine="aarch64"), lacking).rule == "imex"


def test_boards_without_switches_get_nothing_beside_the_driver() -> None:
    found = stack(host("rhel9", H100))
    assert found.fabric is None
    assert found.imex is None


def test_nvlink_5_gets_the_vendors_subnet_manager_beside_the_archives_driver() -> None:
    found = stack(host("ubuntu2404", B200, secure=True))
    assert found.driver
    assert found.driver.origin == "distribution"
    assert found.fabric
    assert {"nvidia-fabricmanager-580", "nvlsm"} <= set(found.fabric.packages)
    assert "nvlsm" in blocked(host("rhel8", B200)).reason


# ---- a locked stack


def fits(found: NodeFacts, locked: Stack) -> None:
    check_fit(NodeSpec(), situation(NodeSpec(), found, load()), locked, load())


def test_a_locked_stack_fits_the_host_that_it_was_made_for() -> None:
    for found in (
        host("rhel9", *HGX),
        host("ubuntu2404", H100, secure=True),
        host("ubuntu2604", V100),
        host("ubuntu2404", GB200, machine="aarch64"),
    ):
        fits(found, stack(found))


def test_an_inventory_that_names_the_origin_may_change_it() -> None:
    spec = NodeSpec(origin="vendor")
    now = standing("ubuntu2404", "580.173.02", "open", ARCHIVE)
    check_fit(spec, situation(spec, now, load()), stack(now, origin="vendor"), load())


@pytest.mark.parametrize(
    ("locked", "now", "said"),
    [
        (host("rhel9", H100), host("rhel9", *HGX), "locked without fabric manager"),
        (host("rhel9", *HGX), host("rhel9", H100), "locked with fabric manager"),
        (host("rhel9", H100), host("rhel8", H100), "it is rhel8"),
        (host("ubuntu2404", H100), host("ubuntu2404", H100, secure=True), "Secure Boot"),
        (host("ubuntu2404", H100, machine="aarch64"),
         host("ubuntu2404", GB200, machine="aarch64"), "locked without IMEX"),
        (host("ubuntu2404", GB200, machine="aarch64"),
         host("ubuntu2404", H100, machine="aarch64"), "locked with IMEX"),
        (host("ubuntu2404", H100), standing("ubuntu2404", "580.173.02", "open", ARCHIVE),
         "one origin of driver packages per host"),
    ],
)  # fmt: skip
def test_a_locked_stack_that_no_longer_fits(locked: NodeFacts, now: NodeFacts, said: str) -> None:
    with pytest.raises(Refused, match=said):
        fits(now, stack(locked))


def test_what_was_solved_and_installed_is_what_is_kept() -> None:
    for distribution in ("debian12", "ubuntu2404", "rhel9", "amzn2023"):
        fresh = stack(host(distribution, *HGX))
        assert fresh.driver
        assert fresh.fabric
        parts = (fresh.driver.pinning, fresh.driver.packages, fresh.fabric.packages)
        installed = {name: pin.version for part in parts for name, pin in part.items()}
        streams = dict([fresh.driver.stream.split(":")]) if fresh.driver.stream else {}
        found = standing(
            distribution, fresh.driver.version, "open", installed, *HGX, streams=streams
        )
        assert stack(found) == fresh


def test_the_example_kernels_are_of_their_machine_types() -> None:
    for row in load().distributions:
        for machine in row.arch:
            assert "{" not in example_kernel(row, machine)


def test_a_system_that_no_layer_speaks_is_solved_and_blocked_in_the_plan() -> None:
    found = host("sles15", H100)
    spec = NodeSpec()
    plan = plan_host(Wanted(host="h1", spec=spec, stack=stack(found)), found)
    assert plan.verdict == "blocked"
    assert plan.blocked
    assert "zypper" in plan.blocked.reason
