"""The Python environment: it works, holds what is locked, and its requirements are met."""

from __future__ import annotations

import re
from typing import Any

from verify.applies import Scene, locked_environment
from verify.checks import Component, Look, check

OLDEST = (3, 10)
"""Python that whatever travels to a host is written for."""


@check(
    "env.works",
    component="environment",
    needs=("environment",),
    source="ours: proof by the very environment that was installed",
    fault="env-broken",
)
def test_env(scene: Scene, host: Any, look: Look) -> None:
    """The environment's Python starts, imports torch, and both have the expected versions."""
    torch = scene.report["torch"]
    wanted = locked_environment(scene) or {}
    environment = component(scene)
    if torch["state"] == "hung":
        why = f"no answer in time; it was at: {torch['stage'] or 'its start'}"
        look.unknown(environment, "import torch", why=why, hung=True)
        return
    if torch["state"] == "slow":
        look.unknown(environment, "import torch", why=torch["error"])
        return
    where = torch["executable"] or wanted.get("path", "")
    look.at(
        environment,
        "import torch",
        found="works" if torch["state"] == "ok" else torch["error"] or torch["state"],
        expected="works",
        held=torch["state"] == "ok",
        evidence=_next(scene) or (f"{where}: gpufleet apply builds it anew",),
    )
    if scene.asked["env"] and torch["python"] is not None:
        version = tuple(int(word) for word in re.findall(r"\d+", torch["python"])[:2])
        look.at(
            environment,
            "Python",
            found=torch["python"],
            expected=f"{OLDEST[0]}.{OLDEST[1]} or newer: what is run in it is written for that",
            held=version >= OLDEST,
        )
    if not wanted:
        return
    baseline = scene.expected_from
    if torch["python"] is not None:
        minor = ".".join(torch["python"].split(".")[:2])
        look.at(environment, "Python", found=minor, expected=wanted["python"], baseline=baseline)
    if torch["version"] is not None:
        public, _, build = torch["version"].partition("+")
        look.at(environment, "torch", found=public, expected=wanted["torch"], baseline=baseline)
        if build:
            look.at(
                environment, "torch's build", found=build, expected=wanted["build"],
                baseline=baseline,
            )  # fmt: skip
    current = host.run("readlink -f %s", f"{scene.asked['prefix']}/env").stdout.strip()
    mine = host.run("readlink -f %s", wanted["path"]).stdout.strip()
    look.at(
        environment,
        f"{scene.asked['prefix']}/env, which users start",
        found=current or "nothing",
        expected=mine or wanted["path"],
        baseline=baseline,
    )


@check(
    "env.wheels",
    component="environment",
    needs=("locked-environment", "environment"),
    source="lock: every wheel by hash; tried: torch 2.15.0 leaves versions of CUDA wheels open, "
    "so that hosts of different days differ",
    fault="wheel-version",
)
def test_wheels(scene: Scene, look: Look) -> None:
    """The environment holds the locked wheels, and no others."""
    assert scene.expected is not None
    wanted = scene.expected["environment"]
    environment = Component(kind="environment", name=wanted["id"])
    found = scene.report["torch"]["wheels"]
    if not found:
        why = scene.report["torch"]["error"] or "the environment does not list them"
        because = "env.works" if scene.report["torch"]["state"] != "ok" else ""
        look.unknown(environment, "wheels", why=why, because=because)
        return
    for name in sorted(wanted["wheels"].keys() | found.keys()):
        locked = wanted["wheels"].get(name)
        look.at(
            Component(kind="wheel", name=name),
            "version in the environment",
            found=found.get(name, "not installed"),
            expected=locked or "none: the lock does not know it",
            held=found.get(name) == locked,
            verdict="fail" if locked else "degraded",
            baseline=scene.expected_from,
            because="" if locked or not _needs_unmet(scene, name) else "env.pip-check",
            evidence=(f"{wanted['path']}: gpufleet apply builds it anew",),
        )


def component(scene: Scene) -> Component:
    """The environment that is looked at: the lock's by its id, one of --env by its path."""
    name = scene.asked["env"] or (locked_environment(scene) or {}).get("id", "")
    return Component(kind="environment", name=name)


def _next(scene: Scene) -> tuple[str, ...]:
    """What helps an environment of --env, which gpufleet builds and mends none of."""
    env = scene.asked["env"]
    if not env:
        return ()
    who = scene.report["torch"].get("user") or "a user without rights"
    wanted = "a venv or conda environment: bin/python, with torch, readable by whom it runs as"
    return (
        f"--env {env}: wanted {wanted}",
        f"asked as {who}; one in a private home: --as its owner",
    )


def _needs_unmet(scene: Scene, wheel: str) -> bool:
    """A wheel's own requirements are not met: env.pip-check says more than that it is there."""
    return any(line.split(" ")[0].lower() == wheel for line in scene.report["pip"]["problems"])


def _other_wheels(scene: Scene) -> set[str]:
    """Locked wheels that are missing or at another version."""
    environment = locked_environment(scene) or {"wheels": {}}
    found = scene.report["torch"]["wheels"]
    return {name for name, version in environment["wheels"].items() if found.get(name) != version}


@check(
    "env.pip-check",
    component="environment",
    needs=("environment",),
    source="pip's documentation: `pip check` verifies that requirements are met",
    fault="pip-check",
)
def test_pip_check(scene: Scene, look: Look) -> None:
    """The requirements of everything in the environment are met."""
    pip, environment = scene.report["pip"], component(scene)
    if pip["state"] != "ok":
        why = pip["error"] or f"pip check: {pip['state']}"
        because = "env.works" if scene.report["torch"]["state"] != "ok" else ""
        look.unknown(environment, "requirements", why=why, because=because)
        return
    others = _other_wheels(scene)
    explained = [
        line
        for line in pip["problems"]
        if others & set(re.findall(r"[\w.-]+", line.lower().replace("_", "-")))
    ]
    look.at(
        environment,
        "requirements that are not met",
        found=len(pip["problems"]),
        expected=0,
        evidence=pip["problems"],
        because="env.wheels" if len(explained) == len(pip["problems"]) else "",
    )
