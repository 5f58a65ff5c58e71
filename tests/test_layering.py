"""Who may import whom, read from the imports themselves."""

import ast
import sys
from pathlib import Path

import pytest

from verify.bundle import DISTRIBUTIONS, STAYS, travelling

ROOT = Path(__file__).parent.parent
PURE = (
    "solve",
    "stack",
    "steps",
    "plan",
    "plan_blocks",
    "plan_reboot",
    "plan_warnings",
    "lock",
    "apt",
    "dnf",
    "transact",
    "repodata",
)
"""Modules of deploy/ that decide: values in, values out."""
PURE_FILES = [
    *(ROOT / "deploy" / f"{module}.py" for module in PURE),
    *sorted(
        path for room in ("layers", "solving") for path in (ROOT / "deploy" / room).glob("*.py")
    ),
    *sorted((ROOT / "deploy/probing").glob("*_facts.py")),
]
OUTSIDE_WORLD = {"gevent", "paramiko", "pyinfra", "pyinfra_cli", "subprocess", "socket"}


def imported(path: Path) -> set[str]:
    """Dotted names of every module that a file imports, at any depth of nesting."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def reaches(path: Path, package: str) -> list[str]:
    return [name for name in imported(path) if name == package or name.startswith(package + ".")]


def test_the_reader_of_imports_sees_them() -> None:
    assert "deploy.fleet.errors.Fault" in imported(ROOT / "deploy/fleet/spec.py")


@pytest.mark.parametrize("path", files("deploy"), ids=lambda path: str(path.relative_to(ROOT)))
def test_deploy_knows_nothing_of_verify_and_tests(path: Path) -> None:
    assert not reaches(path, "verify")
    assert not reaches(path, "tests")


@pytest.mark.parametrize("path", files("verify"), ids=lambda path: str(path.relative_to(ROOT)))
def test_verify_reaches_only_the_hall_the_catalogue_and_the_lock(path: Path) -> None:
    allowed = ("deploy.fleet.", "deploy.catalog.", "deploy.lock.")
    if path.name == "__main__.py":  # another door to the command, and nothing else
        allowed = ("deploy.cli.main.",)
    for name in reaches(path, "deploy"):
        assert f"{name}.".startswith(allowed), f"{path} imports {name}"


def own_packages(path: Path) -> set[str]:
    """Packages outside the standard library that a file imports."""
    return {name.split(".")[0] for name in imported(path)} - set(sys.stdlib_module_names)


CHECKS = [path for path in travelling() if path.suffix == ".py"]


@pytest.mark.parametrize("path", CHECKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_travels_brings_all_that_it_needs(path: Path) -> None:
    brought = {top.removesuffix(".py") for tops in DISTRIBUTIONS.values() for top in tops}
    torch = {"torch"} if path.parent.name == "payload" else set()
    assert own_packages(path) <= {"verify"} | brought | torch
    # there.py pushes the bundle when plain pytest looks from outside, and only then needs them.
    outside = {"verify.bundle", "verify.launch"} if path.name == "there.py" else set()
    stays = {f"verify.{Path(name).stem}" for name in STAYS} - outside
    assert [name for name in imported(path) if name.startswith(tuple(stays))] == []


@pytest.mark.parametrize("path", PURE_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_decides_never_touches_a_host(path: Path) -> None:
    touched = {name.split(".")[0] for name in imported(path)} & OUTSIDE_WORLD
    assert not touched, f"{path} is meant to be pure and imports {touched}"


@pytest.mark.parametrize("path", files("inventories"), ids=lambda path: path.name)
def test_inventories_are_data(path: Path) -> None:
    outside = {name.split(".")[0] for name in imported(path)} - set(sys.stdlib_module_names)
    assert not outside, f"{path} imports {outside}"


def test_only_known_names_stand_at_the_top_level() -> None:
    import subprocess

    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    top = {name.split("/")[0] for name in tracked}
    allowed = {"deploy", "inventories", "verify", "tests", "docs", ".ci", "pyproject.toml"}
    allowed |= {"README.md", "Makefile", "CHANGELOG.md", "LICENSE", ".gitignore"}
    assert top <= allowed, f"not agreed at the top level: {sorted(top - allowed)}"
