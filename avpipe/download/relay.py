"""A proxy on the loopback address, through which another program's requests become our process's own connections.

ffmpeg follows redirects by itself, where nobody can look at the address. Through the relay each of its connections is
made by this process, so that the process's guard over its connections (`avpipe.download.ytdlp`) sees them all. Files that
are served at the relay's own address are kept as far as they have come (`avpipe.download.ranges`); so are the pieces of
a list, which is told where to find them here (`avpipe.download.playlist`).
"""

import contextlib
import re
import socket
import socketserver
import struct
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from avpipe.download.ranges import RefusedError, Served

CONNECT = 30.0
"""Seconds to connect."""
SILENCE = 120.0
"""Seconds without a byte of the server, or of a request's head, after which both sides are closed."""
READ_AHEAD = 1 << 16
"""Bytes that the system may hold back for a program that is slow to read a file of ours."""
_CHUNK = 1 << 16
_LINES = 100


@contextlib.contextmanager
def relay(refused: list[str], files: Mapping[str, Served] | None = None) -> Iterator[str]:
    """Serve a proxy for http and, with CONNECT, for https; gives its URL.

    Args:
        refused: gets the reason for each connection that could not be made, or broke on a file's way here.
        files: by their path at the relay's own address, "/0" for example; may grow.
    """
    with _Relay(("127.0.0.1", 0), _Request) as server:
        server.refused, server.files = refused, {} if files is None else files
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


class _Relay(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    refused: list[str]
    files: Mapping[str, Served]

    def shutdown_request(self, request: Any) -> None:
        """Only close it: an orderly end, where it is one, has been told by then."""
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing, for the program does, and its words are what counts."""


class _Request(socketserver.StreamRequestHandler):
    """One connection of the program: one server."""

    server: _Relay
    timeout = SILENCE

    def handle(self) -> None:
        try:
            method, target, version = self.rfile.readline(_CHUNK).decode("latin-1").split()
            headers = self._headers()
            if target in self.server.files:  # asked directly, for the environment's no_proxy may say so
                target = f"http://127.0.0.1:{self.server.server_address[1]}{target}"
            host, port, path = _address(method, target)
        except ValueError:
            self.wfile.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            return
        if (host, port) == self.server.server_address:
            if method != "GET":
                self.wfile.write(
                    b"HTTP/1.1 405 Method Not Allowed\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                )
                return
            self.connection.settimeout(None)  # as below
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, READ_AHEAD)
            self._serve(path, headers)
            return
        try:
            other = socket.create_connection((host, port), CONNECT)
        except OSError as error:
            self.server.refused.append(str(error))
            self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            return
        self.connection.settimeout(None)  # a program that receives has nothing to say
        with other:
            other.settimeout(SILENCE)
            if method == "CONNECT":
                self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                other.sendall(f"{method} {path} {version}\r\n".encode("latin-1") + headers)
            back = threading.Thread(target=_pass_on, args=(other.recv, self.connection), daemon=True)
            back.start()
            _pass_on(self.rfile.read1, other)
            back.join()

    def _serve(self, path: str, headers: bytes) -> None:
        """A file of ours, or those of its bytes that are asked for."""
        wanted = re.search(rb"(?im)^range: *bytes=([0-9]{1,18})-([0-9]{1,18})?\r?$", headers)
        try:
            if path not in self.server.files:
                raise ValueError(f"no file that is served: {path[:80]!r}")
            first, last = (
                int(each) if each else None for each in (wanted.groups() if wanted else (None, None))
            )
            reply = self.server.files[path].reply(first, last)
        except Exception as error:  # of the library that asks the server: anything
            self.server.refused.append(str(error))
            self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            return
        head = [f"HTTP/1.1 {reply.status} {reply.reason}", "Connection: close"]
        head += [f"{name}: {value}" for name, value in reply.headers.items()]
        self.wfile.write("\r\n".join((*head, "\r\n")).encode("latin-1", "replace"))
        with contextlib.closing(reply.body):
            _pass_on(_reader(reply.body, self.server.refused), self.connection)

    def _headers(self) -> bytes:
        """The head of the request, to its empty line. Raises ValueError if it does not end."""
        lines: list[bytes] = []
        while (line := self.rfile.readline(_CHUNK)) not in (b"\r\n", b"\n"):
            if not line.endswith(b"\n") or len(lines) == _LINES:
                raise ValueError
            if not line.lower().startswith(b"proxy-"):
                lines.append(line)
        return b"".join((*lines, b"\r\n"))


def _address(method: str, target: str) -> tuple[str, int, str]:
    """Host, port and path of what a request is for. Raises ValueError where that is not http."""
    parts = urllib.parse.urlsplit(f"//{target}" if method == "CONNECT" else target)
    if not parts.hostname or parts.scheme != ("" if method == "CONNECT" else "http"):
        raise ValueError
    path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
    return parts.hostname, parts.port or 80, path


def _reader(pieces: Iterator[bytes], refused: list[str]) -> Callable[[int], bytes]:
    """Reads piece by piece; `refused` gets the reason if that fails."""

    def read(_: int) -> bytes:
        try:
            return next(pieces, b"")
        except Exception as error:  # as above
            if not isinstance(error, RefusedError):  # the file itself remembers that
                refused.append(str(error))
            raise OSError(str(error)) from error

    return read


def _pass_on(read: Callable[[int], bytes], sink: socket.socket) -> None:
    """Until there is no more: then the other side is told, of a broken connection by a broken one."""
    try:
        while piece := read(_CHUNK):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        with contextlib.suppress(OSError):
            sink.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )  # closing it is a reset
            sink.shutdown(socket.SHUT_RD)  # wakes the thread that waits for it
