"""Whom training becomes, and what it is started with: never root, and as a login has it."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from tests import reported
from tests.reported import Host, Ran
from verify import started, there
from verify.commands import options
from verify.started import CannotStart, Way


def way(**changed: Any) -> Way:
    """The way of checks that run as root on a host where somebody logged in as alice."""
    given = {"root": True, "me": "root", "asked": "", "login": "alice", "uid": None, "via": ""}
    return started.way(**{**given, **changed})


@pytest.mark.parametrize(
    ("given", "user", "session"),
    [
        ({}, "alice", True),
        ({"login": "root"}, "nobody", False),
        ({"login": ""}, "nobody", False),
        ({"asked": "trainer", "uid": 1001}, "trainer", True),
        ({"root": False, "me": "alice"}, "", False),
        ({"root": False, "me": "alice", "asked": "alice", "uid": 1000}, "", False),
        # root's rights were dropped on the way: the controller names who logged in
        ({"root": False, "me": "svc", "asked": "alice", "uid": 1000}, "", False),
    ],
)
def test_who_trains(given: dict[str, Any], user: str, session: bool) -> None:
    assert way(**given) == Way(user=user, session=session)


@pytest.mark.parametrize(
    ("given", "found", "wanted"),
    [
        ({"asked": "bob"}, "no user bob on this host", "the user bob"),
        ({"asked": "toor", "uid": 0}, "toor is root (uid 0)", "a user without its rights"),
        (
            {"root": False, "me": "alice", "asked": "trainer", "uid": 1001},
            "the checks run as alice",
            "root, to become trainer",
        ),
    ],
)
def test_who_cannot_train_is_said_with_what_is_wanted(
    given: dict[str, Any], found: str, wanted: str
) -> None:
    with pytest.raises(CannotStart) as told:
        way(**given)
    assert (told.value.found, told.value.wanted) == (found, wanted)
    assert told.value.verdict == "fail"


def test_a_user_is_looked_up_on_the_host_before_anything_is_started() -> None:
    asked = reported.request(train_as="trainer")
    known = Host(answers={"printf": Ran(stdout=""), "id": Ran(stdout="1001\n")})
    assert there.way(known, asked, True, "root") == Way(user="trainer", session=True)
    for answer in (Ran(1, "", "no such user"), Ran(0, "rubbish\n")):
        unknown = Host(answers={"printf": Ran(stdout=""), "id": answer})
        with pytest.raises(CannotStart):
            there.way(unknown, asked, True, "root")


def test_a_session_of_the_user_is_what_within_is_asked_for() -> None:
    assert started.arguments(Way(user="trainer", session=True)) == {
        "user": "trainer",
        "session": True,
        "login": True,
    }


@pytest.mark.parametrize(("name", "refused"), [("root", True), ("trainer", False), ("a b", True)])
def test_root_is_refused_before_any_host_is_asked(name: str, refused: bool) -> None:
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    given = parser.parse_args(["lab.py", "--level", "standard", "--as", name])
    found = [str(one) for one in options.faults(given, {})]
    assert any("--as" in one for one in found) == refused
