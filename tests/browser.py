"""A real browser for tests: pages drawn to PNG, the DOM after loading, requests that a page makes.

    python -m tests.browser PAGE.html PICTURE.png [WIDTH HEIGHT]

draws a page to a picture, as docs/report.png was made, of a run with one lost GPU:

    python -m tests.sim fault h100-02 gpu-lost:3
    gpufleet verify inventories/sim.py --level standard
    gpufleet report --html build/report.html
    python -m tests.browser build/report.html docs/report.png 1280 1000
"""

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
DEADLINE_S = 90
Pixel = bytes
"""Red, green, blue."""


def program() -> str | None:
    """The browser, None when this machine has none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def browse(page: Path, *options: str) -> str:
    """Load a page in a profile of its own and return what the browser prints on stdout.

    Raises TimeoutError when it does not end in time: it is killed with all its processes.
    """
    browser = program()
    if browser is None:
        raise FileNotFoundError(f"no browser here: wanted one of {', '.join(NAMES)}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        words = [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *("--hide-scrollbars", "--force-color-profile=srgb", f"--user-data-dir={profile}"),
            *(*options, page.absolute().as_uri()),
        ]
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | {"HOME": profile},
        )
        try:
            out, error = process.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise TimeoutError(f"{browser} did not end within {DEADLINE_S} s") from None
    if process.returncode != 0:
        raise RuntimeError(f"{browser} ended with {process.returncode}: {error[-2000:]}")
    return out


def dom(page: Path) -> str:
    """The document as the browser has understood it."""
    return browse(page, "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom")


def draw(page: Path, picture: Path, width: int, height: int) -> None:
    """The top of a page as PNG, in light colours."""
    picture.unlink(missing_ok=True)
    browse(page, f"--screenshot={picture.absolute()}", f"--window-size={width},{height}")
    if not picture.is_file():
        raise RuntimeError(f"the browser wrote no {picture}")


def read_png(picture: Path) -> list[list[Pixel]]:
    """Rows of pixels of a PNG of 8 bits a channel, not interlaced, as the browser writes them.

    Source: PNG specification (W3C), sections 5, 7 and 9.
    """
    data = picture.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n", f"{picture} is no PNG"
    at, packed, head = 8, b"", b""
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        head = body if kind == b"IHDR" else head
        packed += body if kind == b"IDAT" else b""
        at += size + 12
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", head)
    channels = {2: 3, 6: 4}[colour]
    assert (depth, interlaced) == (8, 0)
    raw, stride = zlib.decompress(packed), width * channels
    above, rows = bytearray(stride), []
    for number in range(height):
        start = number * (stride + 1)
        line = _unfiltered(raw[start], raw[start + 1 : start + 1 + stride], above, channels)
        rows.append([bytes(line[x : x + 3]) for x in range(0, stride, channels)])
        above = line
    return rows


def _unfiltered(kind: int, packed: bytes, above: bytearray, step: int) -> bytearray:
    line = bytearray(packed)
    if kind == 0:
        return line
    for x in range(len(line)):
        left = line[x - step] if x >= step else 0
        up = above[x]
        corner = above[x - step] if x >= step else 0
        if kind == 1:
            guess = left
        elif kind == 2:
            guess = up
        elif kind == 3:
            guess = (left + up) // 2
        else:
            near = left + up - corner
            guess = min((left, up, corner), key=lambda value: abs(near - value))
        line[x] = (line[x] + guess) & 0xFF
    return line


def areas(rows: list[list[Pixel]], colour: Pixel) -> list[tuple[int, int]]:
    """Width and height of every connected area of exactly this colour."""
    left = {(x, y) for y, row in enumerate(rows) for x, pixel in enumerate(row) if pixel == colour}
    found = []
    while left:
        edge = [left.pop()]
        xs, ys = {edge[0][0]}, {edge[0][1]}
        while edge:
            x, y = edge.pop()
            for near in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
                if near in left:
                    left.remove(near)
                    edge.append(near)
                    xs.add(near[0])
                    ys.add(near[1])
        found.append((max(xs) - min(xs) + 1, max(ys) - min(ys) + 1))
    return found


@contextmanager
def watched() -> Iterator[tuple[str, list[str]]]:
    """A proxy that answers nothing: its address for --proxy-server, and the first line of every
    request that came to it."""
    lines: list[str] = []
    server = socket.create_server(("127.0.0.1", 0))

    def take() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:  # closed: the test is over
                return
            with connection:
                connection.settimeout(5)
                try:
                    lines.append(connection.recv(4096).split(b"\r\n")[0].decode("latin-1"))
                except OSError:
                    continue

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}", lines
    finally:
        server.close()


if __name__ == "__main__":
    size = [int(word) for word in sys.argv[3:5]] or [1280, 900]
    draw(Path(sys.argv[1]), Path(sys.argv[2]), *size)
