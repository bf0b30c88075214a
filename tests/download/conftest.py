"""A small web server on the loopback address that plays good and bad servers."""

import contextlib
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from avpipe.download import Outcome
from avpipe.download.youtube import YouTubeFetcher
from avpipe.media.ffmpeg import ffmpeg_binary
from tests.download.excerpts import SECONDS, source, wanted


@dataclass
class Server:
    """Answers by path, a function of the request (which has `reply`); remembers what was asked: path and Range."""

    url: str = ""
    budgets: Path = Path("/nowhere")
    answers: dict[str, Callable[[Any], None]] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def file(
        self,
        path: str,
        body: bytes,
        *,
        version: str = '"v1"',
        cut: int | None = None,
        chunked: bool = False,
        pause: float = 0.0,
    ) -> None:
        """Serve `body` as a good server does: ranges, If-Range, a strong ETag.

        Args:
            version: the ETag; "" for none (then If-Range matches nothing).
            cut: bytes of each answer's body after which the connection breaks.
            chunked: without a length, in pieces.
            pause: seconds of waiting after each 20,000 bytes.
        """

        def answer(request: Any) -> None:
            asked, condition = request.headers.get("Range"), request.headers.get("If-Range")
            ranged = bool(asked) and condition in (None, version)
            first, _, last = asked.removeprefix("bytes=").partition("-") if ranged else ("0", "", "")
            start, end = int(first), min(int(last or len(body)), len(body) - 1)
            if start >= len(body):
                request.reply(416)
                return
            rest = body[start : end + 1]
            request.send_response(206 if ranged else 200)
            if ranged:
                request.send_header("Content-Range", f"bytes {start}-{end}/{len(body)}")
            request.send_header("Content-Type", "video/mp4")
            request.send_header("Accept-Ranges", "bytes")
            if version:
                request.send_header("ETag", version)
            if chunked:
                request.send_header("Transfer-Encoding", "chunked")
                rest = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (rest[:50_000], rest[50_000:]) if p)
                rest += b"0\r\n\r\n"
            else:
                request.send_header("Content-Length", str(len(rest)))
            request.end_headers()
            rest = rest[:cut]
            for place in range(0, len(rest), 20_000) if pause else ():
                request.wfile.write(rest[place : place + 20_000])
                time.sleep(pause)
            if not pause:
                request.wfile.write(rest)

        self.answers[path] = answer

    def count(self, path: str) -> int:
        """How often `path` was asked for."""
        return sum(1 for asked, _ in self.asked if asked == path)


CERTIFICATE = Path(__file__).parent / "loopback.pem"
"""Key and certificate of 127.0.0.1, signed by itself, until the year 2126."""


@contextlib.contextmanager
def serve(tls: bool = False) -> Iterator[Server]:
    """Run a `Server` until the block ends, with https if `tls`."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

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

        def end_headers(self) -> None:
            self.send_header("Connection", "close")  # or a client may send its next request as we close
            super().end_headers()

        def log_message(self, *_: object) -> None:
            return

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        http.socket = context.wrap_socket(http.socket, server_side=True)
    server.url = f"http{'s' if tls else ''}://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A running server, and a folder for the budget of those who ask it."""
    with serve() as running:
        running.budgets = tmp_path.with_name(f"{tmp_path.name}-budgets")
        yield running


@pytest.fixture
def another_server() -> Callable[..., AbstractContextManager[Server]]:
    """Starts further servers."""
    return serve


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """H.264 and AAC as YouTube has them, a key frame every 4 s; each picture and each moment of sound is another."""
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    pictures = f"testsrc2=size=160x120:rate=25:duration={SECONDS}"
    sound = f"aevalsrc=0.5*sin(2*PI*(200*t+20*t*t)):s=44100:d={SECONDS}"
    command = [ffmpeg_binary(), "-v", "error", "-f", "lavfi", "-i", pictures, "-f", "lavfi", "-i", sound]
    command += ["-c:v", "libx264", "-preset", "ultrafast", "-g", "100", "-bf", "2", "-c:a", "aac"]
    command += ["-movflags", "+faststart", str(path)]
    subprocess.run(command, check=True)
    return path


@pytest.fixture
def fetcher(server: Any, tmp_path: Path) -> Callable[..., YouTubeFetcher]:
    return lambda **options: YouTubeFetcher(source(server, **options), tmp_path / "cache" / "budget")


@pytest.fixture
def fetch(fetcher: Callable[..., YouTubeFetcher], tmp_path: Path) -> Callable[..., Outcome]:
    """Fetches seconds of the video `a`, as the clip `clip`."""

    def seconds(*interval: float, **options: Any) -> Outcome:
        return fetcher(**options).fetch(wanted("a", *interval), tmp_path / "clip")

    return seconds
