"""Torch's side of a stack: Python, companions, machine types, optional parts."""

from typing import Any

import pytest

from deploy.catalog import load
from deploy.facts import NodeFacts, PythonFacts
from deploy.fleet.spec import NodeSpec
from deploy.solve import Answer, EnvironmentWish, choose
from deploy.solving.offers import Available, Offer
from deploy.stack import Blocked, Reason, Solution
from tests import factory
from tests.factory import driven, facts


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
        ("3.9.2", {"env": "venv", "torch": "2.13"},
         'the host has 3.9 and env = "venv" brings no other', 'env = "uv"'),
        ("3.11.2", {"env": "venv", "python": "3.12"}, 'the host\'s own is 3.11; env = "venv"',
         'python = "3.11"'),
        ("3.11.2", {"python": "3.7"}, "3.7 is wished", 'python = "3.11"'),
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


# ---- DCGM and the container toolkit


def offered(*more: Offer) -> Available:
    """The simulated vendor's packages without its DCGM, and these."""
    kept = [one for one in factory.offers() if not one.name.startswith("datacenter-gpu-manager")]
    return Available(factory.repository(), [*kept, *more])


def versions(name: str, *found: str) -> list[Offer]:
    return [Offer(name, version, 1000) for version in found]


CORE, PLUGIN = "datacenter-gpu-manager-4-core", "datacenter-gpu-manager-4-cuda"
TOOLKIT = (
    *("nvidia-container-toolkit", "nvidia-container-toolkit-base"),
    *("libnvidia-container-tools", "libnvidia-container1"),
)
EXTRA = offered(
    *versions(CORE, "1:4.5.2-1", "1:4.6.0-1", "1:4.7.0-1"),
    *versions(f"{PLUGIN}12", "1:4.5.2-1", "1:4.6.0-1"),
    *versions(f"{PLUGIN}13", "1:4.5.2-1", "1:4.6.0-1"),
    *(offer for name in TOOLKIT for offer in versions(name, "1.17.8-1", "1.18.2-1")),
)


def with_parts(found: NodeFacts, have: Available = EXTRA, **spec: Any) -> Solution:
    return choose(NodeSpec(**spec), found, load(), have, factory.TODAY).solution


@pytest.mark.parametrize(
    ("found", "wish", "wanted"),
    [
        # 4.7 has a core but no plugin yet
        (facts("l40s"), "latest", {CORE: "1:4.6.0-1", f"{PLUGIN}13": "1:4.6.0-1"}),
        (facts("l40s"), "4", {CORE: "1:4.6.0-1", f"{PLUGIN}13": "1:4.6.0-1"}),
        (facts("l40s"), "4.5.2", {CORE: "1:4.5.2-1", f"{PLUGIN}13": "1:4.5.2-1"}),
        # before Turing on 580: CUDA 12's plugin, though the driver brings CUDA 13
        (facts("v100"), "latest", {CORE: "1:4.6.0-1", f"{PLUGIN}12": "1:4.6.0-1"}),
        # an older driver
        (driven("l40s", "570.172.08", "open"), "latest",
         {CORE: "1:4.6.0-1", f"{PLUGIN}12": "1:4.6.0-1"}),
    ],
)  # fmt: skip
def test_dcgm_with_the_plugin_of_driver_and_boards(
    found: NodeFacts, wish: str, wanted: dict[str, str]
) -> None:
    solution = with_parts(found, dcgm=wish)
    assert solution.stack is not None, solution.blocked
    assert solution.stack.dcgm is not None
    assert {name: pin.version for name, pin in solution.stack.dcgm.packages.items()} == wanted
    assert solution.stack.dcgm.version == wanted[CORE].removeprefix("1:").removesuffix("-1")
    why = next(one for one in solution.reasons if one.part == "dcgm")
    assert "its plugin is the one for CUDA" in why.because


@pytest.mark.parametrize(("wish", "version"), [("latest", "1.18.2"), ("1.17", "1.17.8")])
def test_the_container_toolkit_is_pinned_whole(wish: str, version: str) -> None:
    solution = with_parts(facts("l40s"), container_toolkit=wish)
    assert solution.stack is not None
    assert solution.stack.container_toolkit is not None
    packages = solution.stack.container_toolkit.packages
    assert {name: pin.version for name, pin in packages.items()} == dict.fromkeys(
        TOOLKIT, f"{version}-1"
    )


def test_parts_that_nobody_wishes_are_not_there() -> None:
    stack = with_parts(facts("l40s")).stack
    assert stack is not None
    assert (stack.dcgm, stack.container_toolkit) == (None, None)


@pytest.mark.parametrize(
    ("found", "have", "spec", "rule", "words", "unblock"),
    [
        (facts("none"), EXTRA, {"dcgm": "latest"}, "no-gpu", "dcgm latest is wished",
         "leave dcgm out"),
        (facts("none"), EXTRA, {"container_toolkit": "latest"}, "no-gpu", "no GPU",
         "leave container_toolkit out"),
        (facts("l40s"), EXTRA, {"dcgm": "4.4"}, "repository-lacks", f"no {CORE} 4.4 (it has",
         'dcgm = "4.6.0"'),
        (facts("l40s"), offered(*versions(CORE, "1:4.6.0-1")), {"dcgm": "latest"},
         "repository-lacks", f"no {PLUGIN}13", "leave dcgm out"),
        (facts("l40s"), EXTRA, {"dcgm": "latest", "driver": "none", "cuda": "none"}, "dcgm",
         "none is loaded or managed", "leave dcgm out"),
    ],
)  # fmt: skip
def test_parts_that_cannot_be(
    found: NodeFacts, have: Available, spec: dict[str, Any], rule: str, words: str, unblock: str
) -> None:
    refused = with_parts(found, have, **spec).blocked
    assert refused is not None
    assert refused.rule == rule
    assert words in refused.reason
    assert unblock in refused.unblock, refused.unblock


# ---- torchvision and torchaudio


@pytest.mark.parametrize(
    ("hardware", "spec", "companions", "local", "public"),
    [
        ("l40s", {"extras": ("torchvision",)}, ("torchvision==0.29.2",),
         ("torch==2.15.0+cu132", "torchvision==0.29.2+cu132"),
         ("torch!=2.15.0+cpu,==2.15.0", "torchvision!=0.29.2+cpu,==0.29.2")),
        ("v100", {"extras": ("torchvision[gdown]>=0.20", "Torch_Vision")}, None, (), ()),
        ("v100", {"extras": ("torchvision[gdown]>=0.20", "jupyterlab")},
         ("torchvision[gdown]==0.29.1",),
         ("torch==2.14.1+cu126", "torchvision[gdown]==0.29.1+cu126"), ()),
        ("none", {"extras": ("torchaudio", "torchvision")},
         ("torchaudio==2.11.0", "torchvision==0.29.2"),
         ("torch==2.15.0+cpu", "torchaudio==2.11.0+cpu", "torchvision==0.29.2+cpu"), ()),
        # torchaudio ended with 2.11: no wheel of it loads beside a torch of CUDA 13.2
        ("l40s", {"extras": ("torchaudio",)}, ("torchaudio==2.11.0",),
         ("torch==2.14.1+cu130", "torchaudio==2.11.0+cu130"),
         ("torch!=2.14.1+cpu,==2.14.1", "torchaudio!=2.11.0+cpu,==2.11.0")),
        ("v100", {"extras": ("torchaudio",)}, ("torchaudio==2.11.0",),
         ("torch==2.14.1+cu126", "torchaudio==2.11.0+cu126"), ()),
        ("l40s", {"extras": ("torchaudio",), "torch_build": "cpu"}, ("torchaudio==2.11.0",),
         ("torch==2.15.0+cpu", "torchaudio==2.11.0+cpu"), ()),
        # a companion's version decides the release of torch, as torch's own would
        ("l40s", {"extras": ("torchvision==0.29.0",)}, ("torchvision==0.29.0",),
         ("torch==2.14.0+cu130", "torchvision==0.29.0+cu130"), ()),
    ],
)  # fmt: skip
def test_companions_are_of_torchs_build(
    hardware: str,
    spec: dict[str, Any],
    companions: tuple[str, ...] | None,
    local: tuple[str, ...],
    public: tuple[str, ...],
) -> None:
    found = wish(facts(hardware), **spec)
    if companions is None:  # another distribution of a similar name is none
        assert found.companions == ("torchvision[gdown]==0.29.1",)
        assert "Torch_Vision" in found.requirements
        return
    assert found.companions == companions
    assert found.exact(local=True) == local
    if public:
        assert found.pypi
        assert found.exact(local=False) == public
    assert not any(text.startswith(("torchvision", "torchaudio")) for text in found.requirements)


def test_torchaudio_beside_a_cuda_that_it_was_not_built_for() -> None:
    refused = blocked(facts("l40s"), extras=("torchaudio",), torch="2.15")
    assert refused.rule == "extras"
    assert "cannot be imported beside torch 2.15.0+cu132" in refused.reason
    assert 'torch = "2.14.1"' in refused.unblock


def test_a_companion_of_no_known_release_is_refused_with_what_goes() -> None:
    refused = blocked(facts("l40s"), extras=("torchvision==0.3.0",))
    assert refused.rule == "extras"
    assert "torchvision==0.3.0 is wished beside torch 2.15.0" in refused.reason
    assert any("torchvision without a version" in way for way in refused.unblock)


def test_a_companion_whose_version_nobody_knows_is_said() -> None:
    known = load()
    bare = known.torch[0].model_copy(update={"torchvision": ""})
    catalogue = known.model_copy(update={"torch": (bare, *known.torch[1:])})
    given = choose(
        NodeSpec(extras=("torchvision",)),
        facts("l40s"),
        catalogue,
        factory.available(),
        factory.TODAY,
    )
    assert given.environment is not None
    assert given.environment.companions == ()
    assert "torchvision" in given.environment.requirements
    assert any("torchvision: the version released" in one for one in given.solution.warnings)
