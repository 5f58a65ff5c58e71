"""A host's answer is hostile data: read whole and meant for us, or not taken at all."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.fleet.runs import printable
from tests.answers import BUNDLE, KNOWN, QUICK, answer, checked, finding, printed, request
from verify.answer import BadAnswer, read
from verify.judge import verdict
from verify.results import HostResult

Change = Callable[[dict[str, Any]], Any]


def taken(output: str, **changed: Any) -> HostResult:
    return read(output, request(**changed), BUNDLE, asked=set(QUICK), known=set(KNOWN))


def refused(output: str) -> str:
    with pytest.raises(BadAnswer) as caught:
        taken(output)
    text = str(caught.value)
    assert text == printable(text)
    assert len(text) < 700
    return text


def test_a_whole_answer_is_taken() -> None:
    result = taken(printed(answer(checked("gpu.ecc", finding()))))
    assert verdict(result) == "fail"
    assert result.checks[0].findings[0].component.index == 3
    assert result.measurements[0].value == 1.0


def test_text_is_printable_as_soon_as_it_is_read() -> None:
    told = finding(what="\x1b]0;owned\x07rows \x1b[31mred", evidence=["a\u202eb\x00c"])
    result = taken(printed(answer(checked("gpu.ecc", told), hostname="\x1b[2Jgpu1")))
    (found,) = result.checks[0].findings
    assert (found.what, result.hostname) == ("rows red", "gpu1")
    assert found.evidence[0].isprintable()


BROKEN: dict[str, tuple[str, str]] = {
    "nothing": ("", "no line of its output is an answer"),
    "noise": ("Last login: today\x1b[31m\n", "it printed Last login: today"),
    "two": (printed(answer()) * 2, "it gave 2 answers, wanted one"),
    "truncated": (printed(answer())[:700], "it is no JSON"),
    "no object": ("GPUFLEET 5\n", "Input should be an object; found 5"),
    "not json": ("GPUFLEET {'schema': 1}\n", "it is no JSON"),
    "interleaved": (
        printed(answer()).replace('"gpus"', 'kernel: oops\n"gpus"'),
        "it is no JSON",
    ),
    "deep": ("GPUFLEET " + "[" * 100_000 + "]" * 100_000 + "\n", "it is no JSON"),
    "deep inside": (
        printed(answer()).replace('"hostname": "gpu1.example"', '"hostname": ' + "[" * 5000),
        "it is no JSON",
    ),
    "nan": (printed(answer(seconds=math.nan)), "seconds: "),
    "infinite": (printed(answer()).replace('"seconds": 1.5', '"seconds": 1e999'), "seconds: "),
    "surrogate": (
        printed(answer()).replace("gpu1.example", "\\ud800"),
        "it is no JSON",
    ),
    "twice the key": (
        printed(answer()).replace('"schema": 1', '"schema": 2, "schema": 3'),
        "schema: ",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_answer_is_refused_with_its_reason(name: str) -> None:
    output, words = BROKEN[name]
    assert words in refused(output)


WRONG: dict[str, tuple[Change, str]] = {
    "schema": (lambda d: d.update(schema=2), "schema: "),
    "nonce": (lambda d: d.update(nonce="other"), "another question: nonce is other, wanted n0nce"),
    "host": (lambda d: d.update(host="gpu2"), "another question: host is gpu2, wanted gpu1"),
    "level": (lambda d: d.update(level="standard"), "another question: level is standard"),
    "bundle": (lambda d: d.update(bundle="old"), "another question: bundle is old"),
    "unknown field": (lambda d: d.update(surprise=1), "surprise: "),
    "missing field": (lambda d: d.pop("gpus"), "gpus: "),
    "text for a number": (lambda d: d.update(seconds="1.5"), "seconds: "),
    "number for a bool": (lambda d: d.update(simulated=0), "simulated: "),
    "negative": (lambda d: d["checks"][0].update(looked_at=-1), "checks.0.looked_at: "),
    "large": (lambda d: d["checks"][0].update(looked_at=10**30), "checks.0.looked_at: "),
    "long": (lambda d: d.update(hostname="x" * 5000), "hostname: "),
    "many": (lambda d: d.update(gpus=d["gpus"] * 1000), "gpus: "),
    "verdict": (lambda d: d["checks"][0].update(verdict="fine"), "checks.0.verdict: "),
    "id": (lambda d: d["checks"][0].update(id="../../x"), "checks.0.id: "),
    "missing check": (lambda d: d["checks"].pop(), "it says nothing of host.disk"),
    "check twice": (lambda d: d["checks"].append(d["checks"][0]), "answers twice to gpu.count"),
    "asked and not": (
        lambda d: d["not_asked"].append({"id": "gpu.ecc", "reason": "no"}),
        "answers twice to gpu.ecc",
    ),
    "strange check": (
        lambda d: d["checks"].append(checked("gpu.magic")),
        "answers what was not asked: gpu.magic",
    ),
    "check of another level": (
        lambda d: (d["not_asked"].pop(), d["checks"].append(checked("train.loss"))),
        "answers what was not asked: train.loss",
    ),
    "looked at nothing": (
        lambda d: d["checks"][1].update(looked_at=0),
        "gpu.ecc is said to pass, and looked at nothing",
    ),
    "finding under a pass": (
        lambda d: d["checks"][1].update(findings=[finding("not-run")]),
        "gpu.ecc is said to be pass, and its findings say not-run",
    ),
    "verdict without finding": (
        lambda d: d["checks"][1].update(verdict="fail"),
        "gpu.ecc is said to be fail, and its findings say pass",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_answer_that_does_not_fit_is_refused_with_its_reason(name: str) -> None:
    change, words = WRONG[name]
    document = answer()
    change(document)
    assert words in refused(printed(document))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything inside a document."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    found = []
    for key in keys:
        found.append((*path, key))
        if isinstance(value[key], dict | list):
            found += places(value[key], (*path, key))
    return found


FAILING = answer(checked("gpu.ecc", finding()))
PLACES = places(FAILING)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


def is_pass(output: str) -> bool:
    """Whether this output would make a host good. Anything but BadAnswer fails the test."""
    try:
        return verdict(taken(output)) == "pass"
    except BadAnswer as bad:
        words = str(bad)
    assert words == printable(words)
    return False


@settings(max_examples=300, deadline=None)
@given(place=st.sampled_from(PLACES), value=JSON_VALUES, remove=st.booleans())
def test_no_single_change_makes_a_failing_host_pass(
    place: tuple[Any, ...], value: Any, remove: bool
) -> None:
    document = json.loads(json.dumps(FAILING))
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    if remove:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    assert not is_pass(printed(document))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_damage_to_the_text_makes_a_failing_host_pass(data: st.DataObject) -> None:
    text = printed(FAILING)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 40)))
    assert not is_pass(text[:start] + data.draw(st.text(max_size=20)) + text[end:])


@settings(max_examples=100, deadline=None)
@given(output=st.text() | st.text().map("GPUFLEET {}".format))
def test_any_text_is_read_without_surprise(output: str) -> None:
    assert not is_pass(output)
