"""Fixtures of the checks, and how a check's Look becomes pytest's outcome.

Two ways lead here. On a host, verify/onhost.py runs pytest with a request. From outside, anybody
does: `pytest verify/ --hosts=ssh://node --ssh-config FILE [--expected FILE] [--level standard]`;
then the bundle is pushed to the host through testinfra's connection and the same payloads run
there. Only testinfra's `host` touches the host. Travels: Python 3.10, no pydantic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from verify import applies, started, there, thresholds
from verify.checks import BY_NAME, LEVELS, Check, Component, Look, said

_NOBODY = Component()
SCENES = pytest.StashKey[dict[str, "applies.Scene | there.Unreachable"]]()
ASKED = pytest.StashKey["Asked"]()
ONHOST = "gpufleet-onhost"
"""Name under which verify/onhost.py registers itself: it has a `scene` and takes what is `done`."""


class NotRun(Exception):  # noqa: N818 - an answer, not a fault
    """A check that was asked could not be looked at; the text says why."""

    def __init__(self, reason: str, because: str = "") -> None:
        super().__init__(reason)
        self.because = because


@dataclass
class Asked:
    """One check of one host, from before it is asked to its end."""

    check: Check
    look: Look
    measurements: list[dict[str, Any]] = field(default_factory=list)
    prints: list[dict[str, Any]] = field(default_factory=list)
    information: list[str] = field(default_factory=list)
    document: str = ""
    not_asked: str = ""
    seconds: float = 0.0


# ---- options, and what is collected


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the way from outside."""
    group = parser.getgroup("gpufleet")
    group.addoption(
        "--expected",
        metavar="FILE",
        help="expected state as JSON, in place of the host's own",
    )
    group.addoption(
        "--level",
        choices=LEVELS + BY_NAME,
        default="quick",
        help="how much is asked (default: quick)",
    )


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Says which expected state each host is held against."""
    lines = []
    hosts = {_name(item): item for item in items if _check(item) is not None}
    for name, item in hosts.items():
        try:
            scene = _scene(item)
        except there.Unreachable as error:
            lines.append(f"{name}: {error}")
            continue
        lines.append(f"{name}: {_whence(config, scene)}")
    return lines


def _whence(config: pytest.Config, scene: applies.Scene) -> str:
    if scene.expected is None:
        fault = f" ({scene.own_fault})" if scene.own_fault else ""
        return f"no expected state{fault}: what needs one is not asked"
    words = {
        "file": f"expected state from {config.getoption('expected')}",
        "host": "expected state is the host's own",
        "lock": "expected state from the lock",
    }
    return f"{words[scene.expected_from]}, stack {scene.expected['stack']}"


# ---- before a check: does it apply?


def _check(item: pytest.Item) -> Check | None:
    found = getattr(getattr(item, "obj", None), "check", None)
    return found if isinstance(found, Check) else None


def _host(item: pytest.Item) -> Any:
    return item.callspec.params["_testinfra_host"]  # type: ignore[attr-defined]


def _name(item: pytest.Item) -> str:
    return str(_host(item).backend.get_pytest_id())


def _scene(item: pytest.Item) -> applies.Scene:
    """What is known of the item's host, read once; Unreachable when it says nothing of itself."""
    plugin = item.config.pluginmanager.get_plugin(ONHOST)
    if plugin is not None:
        scene: applies.Scene = plugin.scene
        return scene
    scenes = item.config.stash.setdefault(SCENES, {})
    name = _name(item)
    if name not in scenes:
        level, file = item.config.getoption("level"), item.config.getoption("expected")
        try:
            scenes[name] = there.scene(_host(item), there.request(level, file))
        except there.Unreachable as error:
            scenes[name] = error
    found = scenes[name]
    if isinstance(found, there.Unreachable):
        raise found
    return found


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Decides whether the check is asked, before anything is made ready for it."""
    check = _check(item)
    if check is None:
        return
    asked = item.stash[ASKED] = Asked(check, Look(check))
    answer = applies.applies(check, _scene(item))
    if answer.kind == "not-asked":
        asked.not_asked = answer.reason
        pytest.skip(f"not asked: {answer.reason}")
    if answer.kind == "not-run":
        raise NotRun(answer.reason, answer.because)


# ---- after a check: its Look becomes the outcome


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """One line per finding; what raised, or looked at nothing, did not run."""
    report = yield
    asked = item.stash.get(ASKED, None)
    if asked is None:
        return report
    asked.seconds += call.duration
    if not asked.not_asked and call.when in ("setup", "call"):
        settle(asked, call)
        if asked.look.findings and (call.when == "call" or call.excinfo is not None):
            report.outcome = "failed"
            report.longrepr = "\n".join(_lines(asked))
    plugin = item.config.pluginmanager.get_plugin(ONHOST)
    if plugin is not None and call.when == "teardown":
        plugin.done(asked)
    return report


def settle(asked: Asked, call: pytest.CallInfo[None]) -> None:
    """What a phase came to, beyond what the check itself has recorded."""
    what = "this check"
    if call.excinfo is not None:
        error = call.excinfo.value
        because = error.because if isinstance(error, NotRun) else ""
        if isinstance(error, started.CannotStart):
            _not_started(asked, error)
            return
        if isinstance(error, NotRun | there.Unreachable):
            why = str(error)
        else:
            why = f"{type(error).__name__}: {error}"
        asked.look.unknown(_NOBODY, what, why=why, because=because)
    elif call.when == "call" and not asked.look.observations:
        asked.look.unknown(_NOBODY, what, why="it looked at nothing")


def _not_started(asked: Asked, error: started.CannotStart) -> None:
    """Training could not be started: train.starts says it of a level; what goes by name does."""
    what, again = "start of training", (error.again,) if error.again else ()
    if asked.check.level in LEVELS:
        asked.look.unknown(_NOBODY, what, why=str(error), because="train.starts")
    elif error.verdict == "fail":
        found, wanted = error.found, error.wanted
        asked.look.at(_NOBODY, what, found=found, expected=wanted, held=False, evidence=again)
    else:
        hung = error.verdict == "hung"
        asked.look.unknown(_NOBODY, what, why=str(error), hung=hung, evidence=again)


def _lines(asked: Asked) -> list[str]:
    lines = []
    for one in asked.look.findings:
        part = one.component
        name = " ".join(
            str(word)
            for word in (part.kind, part.name, part.index, part.slot)
            if word not in ("", None)
        )
        wanted = f"; expected {one.expected}" if one.expected else ""
        cause = f" (because of {one.because})" if one.because else ""
        lines.append(
            f"{asked.check.id}: {one.verdict}: {name}: {one.what}: {one.found}{wanted}{cause}"
        )
        lines += [f"    {line}" for line in one.evidence]
    return lines


# ---- fixtures


@pytest.fixture
def scene(host: Any, request: pytest.FixtureRequest) -> applies.Scene:
    """All that was known of the host before its checks were asked."""
    return _scene(request.node)


@pytest.fixture
def asked(scene: applies.Scene) -> dict[str, Any]:
    """The request: host, level, prefix, train_as, accept_hardware."""
    return scene.asked


@pytest.fixture
def report(scene: applies.Scene) -> dict[str, Any]:
    """What verify/payload/host_report.py says of the host."""
    return scene.report


@pytest.fixture
def expected(scene: applies.Scene) -> dict[str, Any] | None:
    """The expected state, None when there is none."""
    return scene.expected


@pytest.fixture
def gpus(scene: applies.Scene) -> list[dict[str, Any]]:
    """The GPUs as NVML shows them."""
    found: list[dict[str, Any]] = scene.report["nvml"]["gpus"]
    return found


@pytest.fixture
def look(request: pytest.FixtureRequest) -> Look:
    """Where this check records what it sees."""
    mine: Look = request.node.stash[ASKED].look
    return mine


@pytest.fixture
def bundle(host: Any, scene: applies.Scene) -> str:
    """Root of the bundle on the host."""
    return there.ground(host, scene.asked["prefix"]).root


@pytest.fixture
def python(scene: applies.Scene) -> str:
    """Python of the environment to prove: of --env, else the expected one, else the current one; ""
    without any."""
    return there.environment_python(scene.asked, scene.expected, scene.report)


@pytest.fixture
def within(host: Any, scene: applies.Scene) -> Callable[..., dict[str, Any]]:
    """within(seconds, *command, user="", login=False) -> what within.py says of a command run on
    the host; `login` gives it what a login there gets."""
    return partial(there.within, host, scene.asked["prefix"])


@pytest.fixture
def train(host: Any, scene: applies.Scene) -> Callable[..., dict[str, Any]]:
    """train(seconds, *command) -> what within.py says of a training command: every one is started
    here, as the user, in the environment and through the scheduler that was asked for.

    Raises started.CannotStart when it cannot be started so: the check did not run, and train.starts
    is the cause.
    """

    def run(seconds: float, *command: str) -> dict[str, Any]:
        return there.train(host, scene, seconds, list(command))

    return run


@pytest.fixture
def measure(request: pytest.FixtureRequest) -> Callable[..., None]:
    """measure(name, unit, value, component, **conditions) records one figure."""

    def record(
        name: str, unit: str, value: float, component: Component = _NOBODY, **conditions: object
    ) -> None:
        assert math.isfinite(value), f"{name} is {value}, which is no measurement"
        # What was trained elsewhere than in our environment, or as a job, is another figure.
        asked = _scene(request.node).asked
        other = {key: asked[key] for key in ("env", "via") if asked[key]}
        of_training = name.startswith(("train.", "bench.", "workload."))
        request.node.stash[ASKED].measurements.append(
            {
                "name": name,
                "unit": unit,
                "value": float(value),
                "component": component,
                "conditions": {
                    **{key: str(known) for key, known in conditions.items()},
                    **(other if of_training else {}),
                },
            }
        )

    return record


@pytest.fixture
def fingerprint(request: pytest.FixtureRequest) -> Callable[..., None]:
    """fingerprint(key, name, value, component) records what equal parts must share bit by bit."""

    def record(key: str, name: str, value: str, component: Component = _NOBODY) -> None:
        request.node.stash[ASKED].prints.append(
            {"key": key, "name": name, "value": value, "component": component}
        )

    return record


@pytest.fixture
def inform(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """inform(text) keeps a line that is worth reading and is no finding."""

    def record(text: str) -> None:
        request.node.stash[ASKED].information.append(said(text))

    return record


@pytest.fixture
def hand_over(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """hand_over(text) gives the controller a document that only all hosts' together can judge."""

    def record(text: str) -> None:
        request.node.stash[ASKED].document = text

    return record


@pytest.fixture
def not_asked(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """not_asked(reason) ends a check that makes no sense here, which only its own run showed: what
    it is about is absent. Nothing may have been looked at by then."""

    def leave(reason: str) -> None:
        asked = request.node.stash[ASKED]
        assert not asked.look.observations, f"{asked.check.id} looked, and then was not asked"
        asked.not_asked = said(reason)
        pytest.skip(f"not asked: {reason}")

    return leave


@pytest.fixture
def threshold(scene: applies.Scene) -> Callable[[str], float]:
    """threshold(name): the inventory's value, else that of verify/thresholds.py."""
    return lambda name: thresholds.value(name, scene.asked["thresholds"])
