"""The independent constraints are red on every kind of wrong stack."""

from dataclasses import replace
from typing import Any

import pytest

from deploy.fleet.spec import NodeSpec
from deploy.solve import choose
from deploy.solving.parts import EnvironmentWish
from deploy.stack import PackagePin, Stack
from tests.bare import CATALOGUE, every, host, offered
from tests.constraints import Ask, broken
from tests.factory import TODAY

HGX = ("2330",) * 8


def right(
    distribution: str = "rhel9", *boards: str, **spec: Any
) -> tuple[Ask, Stack, EnvironmentWish]:
    found = host(distribution, *(boards or HGX), switches=0 if boards else 4)
    had = offered(distribution)
    wished = NodeSpec(**spec)
    answer = choose(wished, found, CATALOGUE, had, TODAY)
    assert answer.solution.stack is not None, answer.solution.blocked
    assert answer.environment is not None
    ask = Ask(wished, found, every(had), CATALOGUE)
    assert list(broken(ask, answer.solution.stack, answer.environment)) == []
    return ask, answer.solution.stack, answer.environment


def part(stack: Stack, name: str, **changes: Any) -> Stack:
    return stack.model_copy(update={name: getattr(stack, name).model_copy(update=changes)})


def moved(stack: Stack, name: str, version: str) -> Stack:
    """A part whose packages are all at another version."""
    packages = getattr(stack, name).packages
    return part(stack, name, packages=dict.fromkeys(packages, PackagePin(version=version, size=0)))


WRONG_STACKS: dict[str, tuple[Any, str]] = {
    "another distribution": (
        lambda stack: stack.model_copy(update={"distribution": "rhel8"}), "rhel8 for"),
    "another machine": (lambda stack: stack.model_copy(update={"arch": "aarch64"}), "aarch64"),
    "no driver": (lambda stack: stack.model_copy(update={"driver": None}), "no driver for GPUs"),
    "driver packages of two versions": (
        lambda stack: moved(stack, "driver", "3:595.91.07-1"), "beside driver 580"),
    "the other stream": (
        lambda stack: part(stack, "driver", stream="nvidia-driver:580-dkms"), "stream"),
    "signed modules where there are none": (
        lambda stack: part(stack, "driver", prebuilt="x-{kernel}"), "signed modules"),
    "the other flavour": (
        lambda stack: part(stack, "driver", flavour="closed"), "lack kmod-nvidia-latest-dkms"),
    "a branch that the policy does not name": (
        lambda stack: part(stack, "driver", version="610.57.04", branch="610"), "is feature"),
    "no fabric manager": (
        lambda stack: stack.model_copy(update={"fabric": None}), "none where one is"),
    "fabric manager of another driver": (
        lambda stack: part(moved(stack, "fabric", "595.91.07-1"), "fabric", version="595.91.07"),
        "595.91.07 for driver 580"),
    "IMEX inside one host": (
        lambda stack: stack.model_copy(update={"imex": stack.fabric}), "IMEX where NVLink ends"),
    "a toolkit of another major than torch": (
        lambda stack: part(stack, "cuda", version="12.9"), "toolkit 12.9 beside cu132"),
    "a toolkit under another name": (
        lambda stack: part(stack, "cuda", packages={}), "cuda lacks"),
    "another cuDNN than torch's": (
        lambda stack: part(stack, "cudnn", version="9.20.0.48"), "beside torch's 9.26.0.51"),
    "NCCL of another CUDA": (
        lambda stack: moved(stack, "nccl", "2.30.7-1+cuda12.9"), "NCCL of CUDA 12.9"),
    "a package that nobody offers": (
        lambda stack: moved(stack, "cudnn", "9.26.0.51-7"), "is not offered"),
    "DCGM that nobody wished": (
        lambda stack: stack.model_copy(update={"dcgm": stack.nccl}), "dcgm: wished None"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_STACKS)
def test_a_wrong_stack_is_red(name: str) -> None:
    change, words = WRONG_STACKS[name]
    ask, stack, wish = right()
    found = list(broken(ask, change(stack), wish))
    assert any(words in one for one in found), found


WRONG_WISHES: dict[str, tuple[dict[str, Any], str]] = {
    "a build that the release has not": ({"hardware_build": "cu126", "build": "cu126"}, "no cu126"),
    "the default index where it has another": ({"pypi": False}, "default index"),
    "another build than the one found right": ({"build": "cu130"}, "where cu132 was found right"),
    "a Python without wheels": ({"python": "3.8"}, "on Python 3.8"),
    "the host's own Python said to be uv's": ({"managed_python": False}, "managed False"),
    "venv with uv's Python": ({"kind": "venv"}, "venv with a managed Python"),
    "torchaudio of another CUDA": ({"companions": ("torchaudio==2.11.0",)}, "has no cu132"),
    "another torchvision": ({"companions": ("torchvision==0.1.0",)}, "torchvision==0.1.0 beside"),
}


@pytest.mark.parametrize("name", WRONG_WISHES)
def test_a_wrong_environment_is_red(name: str) -> None:
    changes, words = WRONG_WISHES[name]
    ask, stack, wish = right()
    found = list(broken(ask, stack, replace(wish, **changes)))
    assert any(words in one for one in found), found


def test_what_a_board_cannot_run_is_red() -> None:
    volta, stack, wish = right("debian12", "1db5")
    hopper, new, new_wish = right("debian12", "2330")
    found = list(broken(volta, new, new_wish))
    for words in ("(open) for", "no code for", "CUDA 13.0 on", "cuDNN 9.26.0.51 on"):
        assert any(words in one for one in found), (words, found)
    assert any("580 (closed)" in one for one in broken(right("debian12", "2901")[0], stack, wish))
    blackwell = right("debian12", "2901")[0]
    assert any("nvlsm" in one or "none where one is" in one for one in
               broken(blackwell, new, new_wish))  # fmt: skip
    assert list(broken(hopper, new, new_wish)) == []


def test_kernel_and_secure_boot_are_red() -> None:
    ask, stack, wish = right("ubuntu2404", "2330")
    locked_up = Ask(
        ask.spec, ask.facts.model_copy(update={"secure_boot": "enabled"}), ask.offers, CATALOGUE
    )
    assert any("Secure Boot enabled" in one for one in broken(locked_up, stack, wish))
    fails = next(one for one in CATALOGUE.branches if one.kernel_fails)
    kernel = ask.facts.kernel
    assert kernel is not None
    newer = kernel.model_copy(update={"next": f"{fails.kernel_fails}.0-1-generic"})
    modern = Ask(ask.spec, ask.facts.model_copy(update={"kernel": newer}), ask.offers, CATALOGUE)
    wrong = part(stack, "driver", version=fails.newest, branch=str(fails.number))
    assert any("on kernel" in one for one in broken(modern, wrong, wish))


def test_relations_between_packages_are_red() -> None:
    ask, stack, wish = right("debian12", "2330")
    assert stack.driver is not None
    less = dict(stack.driver.packages)
    gone = less.pop("libnvidia-ml1")
    assert gone
    assert any("lacks libnvidia-ml1" in one for one in
               broken(ask, part(stack, "driver", packages=less), wish))  # fmt: skip
    both = stack.driver.packages | {
        "nvidia-kernel-dkms": stack.driver.packages["nvidia-kernel-open-dkms"]
    }
    assert any("both flavours" in one for one in
               broken(ask, part(stack, "driver", packages=both), wish))  # fmt: skip
