"""The web server: what apt, pip and uv rely on."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.sim.vendor import serve_command

CONTENT = bytes(range(256)) * 4000


@pytest.fixture
def site(serve, tmp_path: Path) -> str:
    """A small site: /file, /dir/index.html, /a+b and an empty file."""
    (tmp_path / "site/dir").mkdir(parents=True)
    (tmp_path / "site/file").write_bytes(CONTENT)
    (tmp_path / "site/a+b").write_bytes(b"plus")
    (tmp_path / "site/empty").write_bytes(b"")
    (tmp_path / "site/dir/index.html").write_text("index")
    (tmp_path / "secret").write_text("secret")
    return urllib.parse.urlsplit(serve(tmp_path / "site")).netloc


@pytest.fixture
def client(site: str):
    """A connection that is kept alive."""
    connection = http.client.HTTPConnection(site, timeout=5)
    yield connection
    connection.close()


def get(client, path: str, method: str = "GET", **headers: str) -> tuple[int, dict, bytes]:
    """Status, headers and body of one request."""
    client.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    answer = client.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


def test_files_directories_and_encoded_names(client) -> None:
    assert get(client, "/file")[2] == CONTENT
    assert get(client, "/dir/")[2] == b"index"
    assert get(client, "/a%2Bb")[2] == b"plus"
    assert get(client, "/empty")[::2] == (200, b"")
    status, headers, _ = get(client, "/dir")
    assert (status, headers["Location"]) == (301, "/dir/")
    assert get(client, "/none")[0] == 404
    assert get(client, "/")[0] == 404, "a directory without index.html is not listed"


def test_one_connection_serves_many_requests(client) -> None:
    for _ in range(3):
        assert get(client, "/none")[0] == 404
        assert get(client, "/file", method="HEAD")[2] == b""
        assert get(client, "/a+b")[2] == b"plus"
    socket = client.sock
    get(client, "/file")
    assert client.sock is socket


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [
        ("0-9", 0, 9),
        ("1000-", 1000, 1023999),
        ("-10", 1023990, 1023999),
        ("5-99999999", 5, 1023999),
    ],
)
def test_ranges(client, wanted: str, first: int, last: int) -> None:
    status, headers, body = get(client, "/file", Range=f"bytes={wanted}")
    assert status == 206
    assert headers["Content-Range"] == f"bytes {first}-{last}/{len(CONTENT)}"
    assert body == CONTENT[first : last + 1]


def test_ranges_that_cannot_be_met(client) -> None:
    assert get(client, "/file", Range="bytes=2000000-")[0] == 416
    assert get(client, "/file", Range="bytes=0-1,5-6")[0] == 200, "several at once: all of it"
    assert (
        get(client, "/file", Range="bytes=0-1", If_Range="Mon, 01 Jan 2001 00:00:00 GMT")[0] == 200
    )


def test_what_did_not_change_is_not_sent_again(client) -> None:
    changed = get(client, "/file")[1]["Last-Modified"]
    assert get(client, "/file", If_Modified_Since=changed)[::2] == (304, b"")
    assert get(client, "/file", If_Modified_Since="Mon, 01 Jan 2001 00:00:00 GMT")[0] == 200
    assert get(client, "/file", If_Modified_Since="nonsense")[0] == 200


@pytest.mark.parametrize("path", ["/../secret", "/dir/../../secret", "/%2e%2e/secret", "/x%00y"])
def test_nothing_outside_is_served(client, path: str) -> None:
    status, _, body = get(client, path)
    assert (status, body) == (400, b"")


def test_many_clients_at_once(site: str) -> None:
    def fetch(_: int) -> bytes:
        connection = http.client.HTTPConnection(site, timeout=10)
        bodies = {get(connection, "/file")[2] for _ in range(3)}
        connection.close()
        (body,) = bodies
        return body

    with ThreadPoolExecutor(40) as pool:
        assert set(pool.map(fetch, range(40))) == {CONTENT}


def test_the_command_serves_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("served")
    command = serve_command(tmp_path, "127.0.0.1", 0)
    with subprocess.Popen(command, cwd="/", stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            address = urllib.parse.urlsplit(line.split()[-1]).netloc
            connection = http.client.HTTPConnection(address, timeout=5)
            assert get(connection, "/file")[2] == b"served"
            connection.close()
        finally:
            os.kill(process.pid, signal.SIGTERM)
    assert subprocess.run([*command[:-1], "x"], capture_output=True, check=False).returncode == 2
