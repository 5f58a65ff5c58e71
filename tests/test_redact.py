"""Secrets of an inventory leave the controller on no output channel."""

import json
import shlex
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.fleet.redact import MARK, Redactor, secrets_of


def test_secrets_are_found_by_the_names_of_their_keys() -> None:
    data = {
        "ssh_password": "one",
        "_sudo_password": "two",
        "ssh_key_password": "three",
        "ssh_paramiko_connect_kwargs": {"passphrase": "four", "timeout": "not"},
        "ssh_key": "/home/x/.ssh/id",
        "ssh_user": "ops",
        "ssh_port": 22,
        "token": b"five",
        "_use_sudo_password": True,
    }
    assert secrets_of(data) == {"one", "two", "three", "four", "five"}


@pytest.mark.parametrize(
    "secret", ["c4nary", 'it\'s a "secret"', "p@ss wörd/%", "a\\b", "line\none-x"]
)
def test_every_usual_spelling_of_a_secret_goes(secret: str) -> None:
    redact = Redactor([secret])
    for spelt in (
        secret,
        shlex.quote(secret),
        json.dumps({"password": secret}),
        repr(secret),
        f"https://ops:{quote(secret, safe='')}@mirror/",
        f"ValueError: {secret!r} is wrong",
    ):
        shown = redact(f"before {spelt} after")
        assert MARK in shown
        for piece in (secret, shlex.quote(secret).strip("'"), json.dumps(secret)[1:-1]):
            assert piece not in shown


def test_a_secret_inside_a_longer_one_leaves_no_rest() -> None:
    assert Redactor(["abc", "abcdef"])("abcdef") == MARK


def test_credentials_in_any_address_go() -> None:
    shown = Redactor()("fetching https://alice:s3cret@mirror.example/x and http://plain/y")
    assert shown == f"fetching https://{MARK}@mirror.example/x and http://plain/y"


def test_nested_values_are_redacted_and_the_rest_is_kept() -> None:
    redact = Redactor(["c4nary"])
    value = {"a": ["x c4nary", 1, None], "c4nary": ("c4nary",), "n": 2.5}
    assert redact.within(value) == {"a": [f"x {MARK}", 1, None], MARK: [MARK], "n": 2.5}


def test_empty_secrets_redact_nothing() -> None:
    assert Redactor(["", ""])("text") == "text"


@given(st.text(min_size=4, max_size=20), st.text(max_size=30), st.text(max_size=30))
def test_no_text_gets_through_with_the_secret_in_it(secret: str, left: str, right: str) -> None:
    shown = Redactor([secret])(left + secret + right)
    assert secret not in shown.replace(MARK, "\0")
