"""A small web server on the loopback address."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass
class Server:
    """Answers by path, a function of the request (which has `reply`); remembers what was asked: path and Range."""

    url: str = ""
    answers: dict[str, Callable[[Any], None]] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def count(self, path: str) -> int:
        """How often `path` was asked for."""
        return sum(1 for asked, _ in self.asked if asked == path)


@contextlib.contextmanager
def serve() -> Iterator[Server]:
    """Run a `Server` until the block ends."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            server.asked.append((path, self.headers.get("Range")))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                server.answers.get(path, lambda request: request.reply(404))(self)

        def reply(self, code: int, body: bytes = b"", **headers: str) -> None:
            """Send a whole answer; header names have _ for -, an empty value drops the header."""
            self.send_response(code)
            headers = {"Content_Length": str(len(body)), "Content_Type": "video/mp4", **headers}
            for name, value in headers.items():
                if value:
                    self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    """A running server."""
    with serve() as running:
        yield running


@pytest.fixture
def another_server() -> Callable[[], AbstractContextManager[Server]]:
    """Starts further servers."""
    return serve
