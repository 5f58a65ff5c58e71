"""The vendor's web server: files over HTTP/1.1 with keep-alive, ranges and If-Modified-Since.

Runs on its own (`python serve.py DIRECTORY ADDRESS PORT`), so it imports nothing of this package.
"""

from __future__ import annotations

import email.utils
import mimetypes
import re
import shutil
import sys
import urllib.parse
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD of files below `root`; a directory is its index.html, else not found."""

    protocol_version = "HTTP/1.1"
    server_version = "gpufleet-vendor"
    root: Path
    timeout = 60  # an idle keep-alive connection does not hold its thread for ever
    disable_nagle_algorithm = True
    wbufsize = 65536

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a hundred nodes fetch thousands of files."""

    def _answer(self, *, body: bool) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        file = self.root.joinpath(*(part for part in path.split("/") if part not in ("", ".")))
        if ".." in path.split("/") or "\0" in path:
            return self._refuse(HTTPStatus.BAD_REQUEST)
        if file.is_dir() and not path.endswith("/"):
            return self._refuse(HTTPStatus.MOVED_PERMANENTLY, {"Location": self.path + "/"})
        if file.is_dir():
            file /= "index.html"
        try:
            stream = file.open("rb")
        except OSError:
            return self._refuse(HTTPStatus.NOT_FOUND)
        with stream:
            self._send(file, stream, body=body)

    def _send(self, file: Path, stream: BinaryIO, *, body: bool) -> None:
        status = file.stat()
        size, changed = status.st_size, email.utils.formatdate(int(status.st_mtime), usegmt=True)
        headers = {
            "Content-Type": mimetypes.guess_type(file.name)[0] or "application/octet-stream",
            "Last-Modified": changed,
            "Accept-Ranges": "bytes",
        }
        if self._not_newer(int(status.st_mtime)):
            return self._refuse(HTTPStatus.NOT_MODIFIED, headers)
        code, first, last = HTTPStatus.OK, 0, size - 1
        if wanted := self._range(size, changed):
            first, last = wanted
            if first > last or first >= size:
                headers = {"Content-Range": f"bytes */{size}"}
                return self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers)
            code = HTTPStatus.PARTIAL_CONTENT
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        length = last - first + 1
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(key, value)
        self.end_headers()
        if body and length:
            self.wfile.flush()
            if length == size:
                shutil.copyfileobj(stream, self.wfile, 1 << 20)
            else:
                stream.seek(first)
                while length and (block := stream.read(min(length, 1 << 20))):
                    self.wfile.write(block)
                    length -= len(block)

    def _range(self, size: int, changed: str) -> tuple[int, int] | None:
        """First and last byte of a single range; None sends everything (RFC 9110, 14.2)."""
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not found or found.groups() == ("", "") or self.command != "GET":
            return None
        if self.headers.get("If-Range", changed) != changed:
            return None
        first, last = found.groups()
        if not first:
            return max(0, size - int(last)), size - 1
        return int(first), min(int(last), size - 1) if last else size - 1

    def _not_newer(self, changed: int) -> bool:
        since = self.headers.get("If-Modified-Since", "")
        try:
            return changed <= email.utils.parsedate_to_datetime(since).timestamp()
        except (TypeError, ValueError):
            return False

    def _refuse(self, code: HTTPStatus, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in {**(headers or {}), "Content-Length": "0"}.items():
            self.send_header(key, value)
        self.end_headers()


class Server(ThreadingHTTPServer):
    """One thread per connection; restarts at once on the same port."""

    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no event; anything else is shown."""
        if not isinstance(
            sys.exception() if sys.version_info >= (3, 12) else sys.exc_info()[1], OSError
        ):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def server(root: Path, address: str, port: int) -> Server:
    """A server that is bound and not yet running; port 0 takes a free one (`server_address`)."""
    handler = type("Bound", (Handler,), {"root": root.resolve()})
    return Server((address, port), handler)


def main(arguments: list[str]) -> int:
    """Serve until interrupted."""
    if len(arguments) != 3 or not arguments[2].isdigit() or not Path(arguments[0]).is_dir():
        print("usage: serve.py DIRECTORY ADDRESS PORT", file=sys.stderr)
        return 2
    with server(Path(arguments[0]), arguments[1], int(arguments[2])) as running:
        host, port = running.server_address[:2]
        print(f"serving {arguments[0]} on http://{host!s}:{port}/", flush=True)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
