"""The worked combinations of research/provisioning.md 2.11, row by row.

Each row's text stands in front of what it says: what must come out, and everything that must be
refused. What is offered is what the catalogue itself describes (`deploy.described`).
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest

from deploy.catalog.models import numbers
from deploy.facts import NodeFacts
from deploy.fleet.spec import NodeSpec
from deploy.solve import Answer, Case, choose, choose_all
from tests.bare import CATALOGUE, host, offered
from tests.factory import TODAY

V100, T4, A100, H100, B200, GB200 = "1db5", "1eb8", "20b2", "2330", "2901", "2941"
MODERN_KERNEL = "7.0.0-14-generic"
"""Of Ubuntu 26.04."""


@dataclass(frozen=True)
class Place:
    """Where a row is asked: distribution, boards and the rest of a host."""

    distribution: str
    boards: tuple[str, ...]
    machine: str = "x86_64"
    switches: int = 0
    kernel: str = "6.8.0-40-generic"
    without: str = ""
    """A package that the repository lacks."""

    def host(self) -> NodeFacts:
        return host(
            self.distribution,
            *self.boards,
            machine=self.machine,
            switches=self.switches,
            kernel=self.kernel,
        )

    def ask(self, **spec: Any) -> Answer:
        had = offered(self.distribution, self.machine, self.without, self.kernel)
        return choose(NodeSpec(**spec), self.host(), CATALOGUE, had, TODAY)


def got(answer: Answer) -> dict[str, str]:
    """The answer in the words of the table."""
    stack, wish = answer.solution.stack, answer.environment
    assert stack is not None, answer.solution.blocked
    assert stack.driver is not None
    assert wish is not None
    return {
        "branch": stack.driver.branch,
        "modules": stack.driver.flavour,
        "torch": wish.torch,
        "build": wish.build,
        "index": "pypi" if wish.pypi else "torch's own",
        "fabric": " ".join(stack.fabric.packages) if stack.fabric else "",
        "imex": " ".join(stack.imex.packages) if stack.imex else "",
        "origin": stack.driver.origin,
    }


def refused(answer: Answer) -> tuple[str, str]:
    blocked = answer.solution.blocked
    assert blocked is not None, got(answer)
    assert blocked.source
    assert blocked.unblock
    return blocked.rule, blocked.reason


PROVEN = ("debian12", "ubuntu2404", "rhel9")


# ---- V100 | 580.x LTS | closed | <= 2.14, cu126 index
#      must refuse: any torch default wheel from PyPI >= 2.11; CUDA toolkit 13; driver >= 590


@pytest.mark.parametrize("distribution", PROVEN)
def test_v100(distribution: str) -> None:
    found = got(Place(distribution, (V100,)).ask())
    assert (found["branch"], found["modules"], found["build"]) == ("580", "closed", "cu126")
    assert numbers(found["torch"])[:2] <= (2, 14)
    assert found["index"] == "torch's own"


DEFAULT_WHEELS = [
    (release.version, build.build)
    for release in CATALOGUE.torch
    for build in release.builds
    if build.pypi and build.machine == "x86_64" and numbers(release.version) >= (2, 11)
]


@pytest.mark.parametrize(("version", "build"), DEFAULT_WHEELS)
def test_v100_has_no_code_in_a_default_wheel(version: str, build: str) -> None:
    rule, reason = refused(Place("debian12", (V100,)).ask(torch=version, torch_build=build))
    assert rule == "torch-hardware"
    assert "compute capability 7.0" in reason


def test_v100_of_the_rows_default_wheels_there_are_some() -> None:
    assert {"2.15.0", "2.14.1", "2.13.0", "2.11.0"} <= {version for version, _ in DEFAULT_WHEELS}


@pytest.mark.parametrize("cuda", [one.release for one in CATALOGUE.cuda_releases
                                  if one.release.startswith("13.")])  # fmt: skip
def test_v100_gets_no_toolkit_of_cuda_13(cuda: str) -> None:
    rule, reason = refused(Place("debian12", (V100,)).ask(cuda=cuda))
    assert rule == "cuda-hardware"
    assert "the last release for it is 12.9" in reason


@pytest.mark.parametrize("branch", [str(one.number) for one in CATALOGUE.branches
                                    if one.number >= 590])  # fmt: skip
@pytest.mark.parametrize("modules", [None, "closed"])
def test_v100_gets_no_driver_of_590_and_later(branch: str, modules: str | None) -> None:
    rule, reason = refused(Place("debian12", (V100,)).ask(driver=branch, driver_modules=modules))
    assert rule in ("driver-hardware", "modules")
    assert "supported up to branch 580" in reason or "has no closed modules" in reason


# ---- A100 / H100 mixed | 580 LTS or 595 | open | 2.15 default (cu132) or 2.14 cu130
#      must refuse: driver 535/550 with any cu130+ wheel


@pytest.mark.parametrize("distribution", PROVEN)
@pytest.mark.parametrize(("policy", "branch"), [("lts", "580"), ("production", "595")])
@pytest.mark.parametrize(
    ("torch", "build", "index"), [("2.15", "cu132", "pypi"), ("2.14", "cu130", "pypi")]
)
def test_a100_and_h100(
    distribution: str, policy: str, branch: str, torch: str, build: str, index: str
) -> None:
    for boards in ((A100,), (H100,), (A100, H100)):
        found = got(Place(distribution, boards).ask(policy=policy, torch=torch))
        assert (found["branch"], found["modules"]) == (branch, "open")
        assert (found["build"], found["index"]) == (build, index)
        assert numbers(found["torch"])[:2] == numbers(torch)


@pytest.mark.parametrize("driver", ["535", "550"])
@pytest.mark.parametrize("build", ["cu130", "cu132"])
@pytest.mark.parametrize("boards", [(A100,), (H100,), (A100, H100)])
def test_an_old_driver_and_a_wheel_of_cuda_13(
    driver: str, build: str, boards: tuple[str, ...]
) -> None:
    rule, reason = refused(Place("ubuntu2204", boards).ask(driver=driver, torch_build=build))
    assert rule == "driver-floor"
    assert "needs driver 580 or newer" in reason
    assert got(Place("ubuntu2204", boards).ask(driver=driver))["build"] in ("cu126", "cu128")


# ---- HGX B200 | 580+ | open | >= 2.7 cu128, default since 2.8
#      must refuse: cu126 wheel; closed modules; missing nvlsm


@pytest.mark.parametrize("distribution", PROVEN)
def test_hgx_b200(distribution: str) -> None:
    place = Place(distribution, (B200,) * 8)
    found = got(place.ask())
    assert int(found["branch"]) >= 580
    assert (found["modules"], found["index"]) == ("open", "pypi")
    assert "nvlsm" in found["fabric"].split()
    first = got(place.ask(torch="2.7"))
    assert (first["build"], first["index"]) == ("cu128", "torch's own")
    for release in CATALOGUE.torch:
        if numbers(release.version) >= (2, 8):
            default = next(
                build for build in release.builds if build.pypi and build.machine == "x86_64"
            )
            found = got(place.ask(torch=release.version))
            assert (found["build"], found["index"]) == (default.build, "pypi")


@pytest.mark.parametrize(
    ("place", "spec", "rule", "words"),
    [
        (Place("debian12", (B200,)), {"torch_build": "cu126"}, "torch-hardware",
         "holds no code for B200 (compute capability 10.0)"),
        (Place("debian12", (B200,)), {"torch": "2.6"}, "torch-hardware", "compute capability 10.0"),
        (Place("debian12", (B200,)), {"driver_modules": "closed"}, "modules",
         "closed modules do not work with 1 x B200"),
        (Place("debian12", (B200,), without="nvlsm"), {}, "fabric", "no nvlsm"),
        (Place("rhel8", (B200,)), {}, "fabric", "no nvlsm"),
    ],
)  # fmt: skip
def test_hgx_b200_must_refuse(place: Place, spec: dict[str, Any], rule: str, words: str) -> None:
    found, reason = refused(place.ask(**spec))
    assert found == rule
    assert words in reason


# ---- GB200 (sbsa) | 580+ | open | >= 2.11 from PyPI, older needs cu128/cu130 index
#      must refuse: PyPI aarch64 <= 2.10 (CPU wheel installs silently)

TRAY = Place("ubuntu2404", (GB200,) * 4, machine="aarch64")


@pytest.mark.parametrize("release", CATALOGUE.torch, ids=lambda release: release.version)
def test_gb200_never_gets_the_cpu_wheel_of_the_default_index(release: Any) -> None:
    builds = {build.build for build in release.builds if build.machine == "aarch64"}
    answer = TRAY.ask(torch=release.version)
    if not builds:
        rule, reason = refused(answer)
        assert rule == "cpu-wheel"
        assert "without CUDA, saying nothing" in reason
        return
    found = got(answer)
    assert int(found["branch"]) >= 580
    assert found["modules"] == "open"
    assert found["build"] in builds - {"cu126"}
    assert (found["fabric"], "nvidia-imex" in found["imex"]) == ("", True)
    new = numbers(release.version) >= (2, 11)
    assert found["index"] == ("pypi" if new else "torch's own")
    told = [one for one in answer.solution.warnings if "the default index has only" in one]
    assert len(told) == (0 if new else 1)
    wish = answer.environment
    assert wish is not None
    assert wish.platform.startswith("aarch64")


def test_gb200_of_both_kinds_there_are_some() -> None:
    trapped = [one.version for one in CATALOGUE.torch if "aarch64" in one.cpu_wheel]
    assert {"2.10.0", "2.9.1", "2.8.0"} <= set(trapped)
    assert not {"2.11.0", "2.14.1", "2.15.0"} & set(trapped)


# ---- V100 + H100 in one rack | per-host plan: 580 closed / 580 open | one venv only with cu126
#      must refuse: one cu130 venv for both

RACK = {"v1": Place("debian12", (V100,)), "h1": Place("debian12", (H100,))}


def rack(**spec: Any) -> dict[str, Answer]:
    cases = {
        name: Case(NodeSpec(**spec), place.host(), offered("debian12", "x86_64", "", place.kernel))
        for name, place in RACK.items()
    }
    return choose_all(cases, CATALOGUE, TODAY)


def test_v100_and_h100_in_one_rack() -> None:
    alone = {name: got(answer) for name, answer in rack().items()}
    assert {name: one["branch"] for name, one in alone.items()} == {"v1": "580", "h1": "580"}
    assert {name: one["modules"] for name, one in alone.items()} == {"v1": "closed", "h1": "open"}
    assert alone["h1"]["build"] == "cu132"
    shared = {name: got(answer) for name, answer in rack(same_torch="rack").items()}
    assert {(one["torch"], one["build"]) for one in shared.values()} == {("2.14.1", "cu126")}
    assert {name: one["modules"] for name, one in shared.items()} == {"v1": "closed", "h1": "open"}


def test_v100_and_h100_get_no_environment_of_cu130() -> None:
    answers = rack(same_torch="rack", torch_build="cu130")
    rule, reason = refused(answers["v1"])
    assert rule == "torch-hardware"
    assert "compute capability 7.0" in reason


# ---- V100 + B200 in one host | none | must refuse: always


@pytest.mark.parametrize("distribution", [row.name for row in CATALOGUE.distributions])
@pytest.mark.parametrize("modules", [None, "open", "closed"])
@pytest.mark.parametrize("build", ["auto", "cu126", "cu128", "cu130", "cpu"])
def test_v100_and_b200_in_one_host(distribution: str, modules: str | None, build: str) -> None:
    place = Place(distribution, (V100, B200))
    for policy in ("keep", "lts", "production", "newest"):
        rule, reason = refused(place.ask(policy=policy, driver_modules=modules, torch_build=build))
        if rule == "vendor-key":  # nothing of this vendor's repository is taken at all
            continue
        assert rule == "no-common-driver"
        assert "V100" in reason
        assert "B200" in reason


# ---- Ubuntu 26.04 + V100 | only Ubuntu archive 580-server | closed | cu126
#      must refuse: CUDA repo (starts at 595)

RESOLUTE = Place("ubuntu2604", (V100,), kernel=MODERN_KERNEL)


def test_ubuntu_2604_and_v100() -> None:
    answer = RESOLUTE.ask()
    found = got(answer)
    assert (found["branch"], found["modules"], found["build"]) == ("580", "closed", "cu126")
    assert found["origin"] == "distribution"
    assert answer.solution.stack is not None
    assert answer.solution.stack.driver is not None
    assert answer.solution.stack.driver.prebuilt == "linux-modules-nvidia-580-server-{kernel}"
    why = next(one for one in answer.solution.reasons if one.part == "origin")
    assert "the vendor's packages cannot" in why.because


def test_ubuntu_2604_and_v100_get_nothing_from_the_cuda_repository() -> None:
    rule, reason = refused(RESOLUTE.ask(origin="vendor"))
    assert rule == "driver-hardware"
    assert "supported up to branch 580" in reason


# ---- Any, driver 615+ with T4 | open | open | any cu126-cu132 | must refuse: closed flavour

NEW = [str(one.number) for one in CATALOGUE.branches if one.number >= 615]


@pytest.mark.parametrize(("driver", "build"), list(product(NEW, ["cu126", "cu130", "cu132"])))
def test_t4_with_a_driver_of_615_and_later(driver: str, build: str) -> None:
    found = got(Place("ubuntu2404", (T4,)).ask(driver=driver, torch_build=build))
    assert (found["branch"], found["modules"], found["build"]) == (driver, "open", build)


@pytest.mark.parametrize("driver", NEW)
@pytest.mark.parametrize("distribution", PROVEN)
def test_t4_gets_no_closed_modules_of_615_and_later(driver: str, distribution: str) -> None:
    rule, reason = refused(Place(distribution, (T4,)).ask(driver=driver, driver_modules="closed"))
    assert rule in ("modules", "repository-lacks")
    assert "closed modules" in reason


def test_there_are_drivers_of_615_and_later() -> None:
    assert NEW[:2] == ["615", "620"]
