"""Every combination in the catalogue solves or is blocked with a reason; the README says which."""

import json
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from deploy import matrix
from deploy.catalog import load
from deploy.catalog.models import numbers
from deploy.described import bare_host, catalogue_repository
from deploy.fleet.spec import NodeSpec
from deploy.matrix import Cell, cells, hardware, main, table
from deploy.solve import choose
from tests.factory import TODAY

README = Path(str(files("deploy"))).parent / "README.md"
START, END = "<!-- support table -->\n", "<!-- end of support table -->"


@pytest.fixture(scope="module")
def plain() -> list[Cell]:
    return list(cells(load(), TODAY, plain=True))


@pytest.mark.long
def test_the_readme_shows_the_support_table(plain: list[Cell]) -> None:
    text = README.read_text()
    assert text.count(START) == text.count(END) == 1
    shown = text.partition(START)[2].partition(END)[0]
    assert shown == table(load(), plain) + "\n"


def test_every_bare_host_solves_or_is_blocked_with_a_reason(plain: list[Cell]) -> None:
    assert not [one.words for one in plain if one.fault]
    blocked = [one.answer.solution.blocked for one in plain if one.answer]
    assert all(one.reason and one.source and one.unblock for one in blocked if one)


def test_what_solves_obeys_the_rows_of_its_hardware(plain: list[Cell]) -> None:
    catalogue = load()
    solved = 0
    for one in plain:
        stack = one.answer.solution.stack if one.answer else None
        if stack is None:
            continue
        solved += 1
        driver, gpu = stack.driver, one.hardware.gpu
        assert driver, one.words
        kind = catalogue.architecture[gpu.architecture]
        branch = int(driver.branch)
        assert kind.driver_min <= branch <= (kind.driver_max or branch), one.words
        assert driver.flavour in kind.modules, one.words
        if driver.origin == "vendor":
            assert branch >= one.distribution.arch[one.machine].vendor_first, one.words
        assert bool(driver.prebuilt) == one.secure_boot or driver.origin == "distribution"
        assert stack.packaging == one.distribution.kind
        managed = len(one.hardware.devices) > 1 or gpu.fabric == "nvlink5"
        assert bool(stack.fabric) == managed, one.words
        assert bool(stack.imex) == (gpu.fabric == "imex"), one.words
        for part in (stack.fabric, stack.imex):
            assert part is None or part.version == driver.version, one.words
        if one.answer and one.answer.environment:
            builds = [
                build
                for row in catalogue.torch
                for build in row.builds
                if row.version == one.answer.environment.torch
                and build.build == one.answer.environment.build
                and build.machine == one.machine
            ]
            assert builds, one.words
            assert builds[0].runs_on(gpu.compute), one.words
    assert solved > 250


def test_hosts_that_differ_for_the_solver_are_all_asked_about() -> None:
    catalogue = load()
    kinds = hardware(catalogue)
    assert {one.gpu.architecture for one in kinds} == {row.name for row in catalogue.architectures}
    assert {one.gpu.fabric for one in kinds} == {"", "nvlink5", "imex"}
    switched = {one.devices[1] for one in kinds if len(one.devices) > 1}
    assert switched <= {row.device for row in catalogue.nvswitches}
    assert len(switched) >= 2
    assert {(gpu.architecture, gpu.compute) for gpu in catalogue.gpus} == {
        (one.gpu.architecture, one.gpu.compute) for one in kinds
    }


def test_a_combination_that_crashes_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(spec: NodeSpec, *_: Any) -> Any:
        if spec.policy == "newest":
            raise ZeroDivisionError("of the test")
        return choose(spec, *_)

    catalogue = load().model_copy(update={"distributions": load().distributions[:1]})
    monkeypatch.setattr(matrix, "load", lambda: catalogue)
    monkeypatch.setattr(matrix, "wishes", lambda *_: [{"policy": "newest"}])
    monkeypatch.setattr(matrix, "choose", crash)
    assert main([]) == 1
    said = capsys.readouterr()
    assert "ZeroDivisionError: of the test" in said.err
    assert ", 0 failed" not in said.out


def test_one_document_for_machines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue = load().model_copy(update={"distributions": load().distributions[:1]})
    monkeypatch.setattr(matrix, "load", lambda: catalogue)
    monkeypatch.setattr(matrix, "wishes", lambda *_: [{"driver_modules": "closed"}])
    assert main(["--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert all(bool(one["driver"]) != bool(one["blocked"]) for one in document)
    assert main(["--blocked"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == sum(bool(one["blocked"]) for one in document)


@pytest.mark.long
def test_every_combination_solves_or_is_blocked_with_a_reason() -> None:
    found = list(cells(load(), date.today()))
    assert not [f"{one.words}: {one.fault}" for one in found if one.fault]
    wishes = {tuple(one.wish.items()) for one in found}
    assert {(("origin", "distribution"),), (("driver", "580"),), (("policy", "lts"),)} <= wishes
    for one in found:
        stack = one.answer.solution.stack if one.answer else None
        wished = one.wish.get("driver")
        if stack and stack.driver and wished:
            assert numbers(stack.driver.version)[0] == int(wished), one.words
        if stack and stack.driver and "origin" in one.wish:
            assert stack.driver.origin == one.wish["origin"], one.words
        if stack and stack.driver and "driver_modules" in one.wish:
            assert stack.driver.flavour == one.wish["driver_modules"], one.words


@pytest.mark.parametrize("row", load().distributions, ids=lambda row: row.name)
def test_a_described_repository_holds_what_the_catalogue_names(row: Any) -> None:
    catalogue = load()
    for machine, arch in row.arch.items():
        available = catalogue_repository(catalogue, row.name, machine)
        assert available.packaging == row.kind
        assert available.repository.url.endswith(f"/{row.name}/{arch.repository}")
        for branch in catalogue.branches:
            for origin in row.origins:
                names = catalogue.driver_names(row.name, origin, branch.number)
                there = origin != "vendor" or branch.number >= arch.vendor_first
                if names is None or not names.module_open:
                    continue
                part = available.of(origin, names.stream("open"))
                had = [v for v in part.versions(names.module_open) if branch.newest in v]
                assert bool(had) == there, (row.name, machine, branch.number)


def test_a_described_host_is_one_that_the_solver_knows() -> None:
    catalogue = load()
    facts = bare_host(catalogue, "rhel9", "x86_64", ("2330", "22a3"))
    available = catalogue_repository(catalogue, "rhel9", "x86_64")
    solution = choose(NodeSpec(), facts, catalogue, available, TODAY).solution
    assert solution.stack is not None
    assert solution.stack.driver is not None
    assert solution.stack.driver.stream == "nvidia-driver:580-open"
    assert solution.stack.driver.packages["nvidia-driver-cuda"].version == "3:580.178.04-1"
    assert solution.stack.fabric is not None
    assert solution.stack.fabric.packages["nvidia-fabricmanager"].version == "580.178.04-1"
