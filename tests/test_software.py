"""Torch's side of a stack: Python, companions, machine types, optional parts."""

from typing import Any

import pytest

from deploy.catalog import load
from deploy.facts import NodeFacts, PythonFacts
from deploy.fleet.spec import NodeSpec
from deploy.solve import Answer, EnvironmentWish, choose
from deploy.stack import Blocked, Reason
from tests import factory
from tests.factory import facts


def python(version: str) -> dict[str, PythonFacts]:
    return {"python": PythonFacts(version=version, venv=True, headers=True)}


def answer(found: NodeFacts, **spec: Any) -> Answer:
    return choose(NodeSpec(**spec), found, load(), factory.available(), factory.TODAY)


def wish(found: NodeFacts, **spec: Any) -> EnvironmentWish:
    given = answer(found, **spec)
    assert given.environment is not None, given.solution.blocked
    return given.environment


def blocked(found: NodeFacts, **spec: Any) -> Blocked:
    given = answer(found, **spec).solution.blocked
    assert given is not None
    return given


def reason(found: NodeFacts, part: str, **spec: Any) -> Reason:
    return next(one for one in answer(found, **spec).solution.reasons if one.part == part)


# ---- Python


@pytest.mark.parametrize(
    ("hardware", "own", "spec", "wanted"),
    [
        ("hgx-h100", "3.11.2", {}, ("2.15.0", "3.11", False)),
        # torch is the newest that the hardware allows, and Python follows: 2.15 ends at 3.11
        ("hgx-h100", "3.10.12", {}, ("2.15.0", "3.14", True)),
        ("hgx-h100", "3.6.8", {}, ("2.15.0", "3.14", True)),
        ("v100", "3.10.12", {}, ("2.14.1", "3.10", False)),
        ("v100", "3.9.2", {}, ("2.14.1", "3.13", True)),
        ("none", "3.9.2", {}, ("2.15.0", "3.14", True)),
        ("none", "3.15.0", {"torch": "2.13"}, ("2.13.0", "3.13", True)),
        # wished: the host's own when it is that one
        ("hgx-h100", "3.11.2", {"python": "3.11"}, ("2.15.0", "3.11", False)),
        ("hgx-h100", "3.11.2", {"python": "3.12"}, ("2.15.0", "3.12", True)),
        ("hgx-h100", "3.11.2", {"python": "3.10"}, ("2.14.1", "3.10", True)),
        # no python3 at all: what Debian 12 brings
        ("none", "", {}, ("2.15.0", "3.11", False)),
        # the standard library's venv has the host's own Python only, so torch follows
        ("hgx-h100", "3.11.2", {"env": "venv"}, ("2.15.0", "3.11", False)),
        ("hgx-h100", "3.10.12", {"env": "venv"}, ("2.14.1", "3.10", False)),
    ],
)
def test_the_python_of_an_environment(
    hardware: str, own: str, spec: dict[str, Any], wanted: tuple[str, str, bool]
) -> None:
    found = wish(facts(hardware, **python(own)), **spec)
    assert (found.torch, found.python, found.managed_python) == wanted
    assert found.kind == spec.get("env", "uv")


def test_a_managed_python_says_why_it_is_the_newest_but_one() -> None:
    why = reason(facts("l40s", **python("3.9.2")), "python")
    assert why.choice == "3.14"
    assert "no wheel for the host's own 3.9" in why.because
    assert "newest but one" in why.because


def test_a_sites_list_of_builds_goes_with_a_managed_python_only() -> None:
    spec = {"python_downloads": "http://mirror.lan/python.json"}
    assert wish(facts("l40s", **python("3.9.2")), **spec).python_downloads
    assert wish(facts("l40s"), **spec).python_downloads == ""


@pytest.mark.parametrize(
    ("own", "spec", "words", "unblock"),
    [
        ("3.9.2", {"env": "venv"}, 'the host has 3.9 and env = "venv" brings no other',
         'env = "uv"'),
        ("3.11.2", {"env": "venv", "python": "3.12"}, 'the host\'s own is 3.11; env = "venv"',
         'python = "3.11"'),
        ("3.11.2", {"python": "3.8"}, "3.8 is wished", 'python = "3.11"'),
        ("3.11.2", {"python": "3.15", "torch": "2.13"}, "3.15 is wished", 'torch = "2.15.0"'),
    ],
)  # fmt: skip
def test_a_python_that_cannot_be(own: str, spec: dict[str, Any], words: str, unblock: str) -> None:
    refused = blocked(facts("l40s", **python(own)), **spec)
    assert refused.rule == "python"
    assert words in refused.reason
    assert unblock in refused.unblock
    key, _, value = unblock.partition(" = ")
    assert wish(facts("l40s", **python(own)), **{**spec, key: value.strip('"')})
