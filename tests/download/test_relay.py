"""ffmpeg's requests, made by our process."""

import contextlib
import json
import socket
import struct
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from avpipe.download import relay as module
from avpipe.download.ranges import Ranges
from avpipe.download.relay import relay


@pytest.fixture
def refused() -> list[str]:
    return []


@pytest.fixture
def proxy(refused: list[str]) -> Iterator[tuple[str, int]]:
    with relay(refused) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        yield host, int(port)


def through(proxy: tuple[str, int], url: str) -> bytes:
    """What a client of the proxy gets."""
    handler = urllib.request.ProxyHandler({"http": "http://{}:{}".format(*proxy)})
    body: bytes = urllib.request.build_opener(handler).open(url, timeout=10).read()
    return body


def test_a_file_comes_whole_and_the_server_sees_path_query_and_headers(
    proxy: tuple[str, int], server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    body = bytes(range(256)) * 4000
    server.file("/a.mp4", body)
    assert through(proxy, server.url + "/a.mp4") == body
    request = (
        f"GET {server.url}/a.mp4 HTTP/1.1\r\nHost: x\r\nRange: bytes=1000000-\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(proxy, 10) as client:
        client.sendall(request.encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.endswith(body[1_000_000:])
    assert server.asked[-1] == ("/a.mp4", "bytes=1000000-")


def served(tmp_path: Path, body: bytes) -> Ranges:
    """A file that has come whole."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "0").write_bytes(body)
    note = {"total": len(body), "validator": '"1"', "content_type": "video/mp4"}
    (tmp_path / "kept" / "note.json").write_text(json.dumps(note))
    return Ranges(tmp_path / "kept", lambda *_: pytest.fail("nothing is missing"))


def asked(url: str, target: str, headers: str = "Range: bytes=7-\r\n") -> bytes:
    """The relay's answer to a request for something at its own address."""
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 10) as client:
        client.sendall(f"GET {target} HTTP/1.1\r\n{headers}\r\n".encode())
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_a_file_of_ours_is_served_to_whom_goes_through_the_proxy_and_to_whom_asks_directly(
    tmp_path: Path,
) -> None:
    body = bytes(range(256)) * 4000
    refused: list[str] = []
    with relay(refused, {"/0": served(tmp_path, body)}) as url:
        for target in (f"{url}/0", "/0"):  # the second where no_proxy says so
            head, _, rest = asked(url, target).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 206 Partial Content\r\n")
            assert f"Content-Range: bytes 7-{len(body) - 1}/{len(body)}".encode() in head
            assert rest == body[7:]
        assert refused == []
        assert asked(url, f"{url}/1").startswith(b"HTTP/1.1 502")
        assert asked(url, "/1").startswith(b"HTTP/1.1 400")
    assert len(refused) == 1


def test_a_file_of_ours_comes_whole_or_in_the_bytes_that_are_asked_for(tmp_path: Path) -> None:
    body = bytes(range(256)) * 4000
    with relay([], {"/0": served(tmp_path, body)}) as url:
        head, _, rest = asked(url, "/0", "").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Range" not in head
        assert rest == body
        head, _, rest = asked(url, "/0", "Range: bytes=300-70000\r\n").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 206 Partial Content\r\n")
        assert b"Content-Range: bytes 300-70000/1024000\r\n" in head
        assert rest == body[300:70001]
        head, _, rest = asked(url, "/0", "Range: bytes=1023990-9999999\r\n").partition(b"\r\n\r\n")
        assert rest == body[1_023_990:]


def test_a_program_that_is_slow_to_read_a_file_of_ours_is_not_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module._Request, "timeout", 0.2)
    body = bytes(range(256)) * 20_000
    with relay([], {"/0": served(tmp_path, body)}) as url, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        client.sendall(b"GET /0 HTTP/1.1\r\nRange: bytes=0-\r\n\r\n")
        time.sleep(0.6)
        assert b"".join(iter(lambda: client.recv(65536), b"")).endswith(body)


def test_a_file_that_breaks_off_is_no_orderly_end_and_says_why(tmp_path: Path) -> None:
    ranges = served(tmp_path, bytes(1000))
    (tmp_path / "kept" / "0").write_bytes(bytes(10))
    refused: list[str] = []

    def dead(*_: int) -> Any:
        ranges.changed = True  # no use in asking again
        raise ValueError("the site is gone")

    ranges.ask = dead
    with relay(refused, {"/0": ranges}) as url, pytest.raises(ConnectionResetError):
        asked(url, "/0", "Range: bytes=0-\r\n")
    assert refused == ["the site is gone"]


def test_connect_is_a_tunnel(proxy: tuple[str, int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as echo, socket.create_connection(proxy, 10) as client:
        client.sendall(f"CONNECT 127.0.0.1:{echo.getsockname()[1]} HTTP/1.1\r\n\r\n".encode())
        other, _ = echo.accept()
        with other:
            assert client.recv(100).startswith(b"HTTP/1.1 200")
            client.sendall(b"\x16\x03\x01")
            assert other.recv(3) == b"\x16\x03\x01"
            other.sendall(b"answer")
            other.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b"answer"
            assert client.recv(100) == b""


def test_a_connection_that_is_refused_is_told_and_gives_nothing(
    proxy: tuple[str, int], refused: list[str], server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.file("/a.mp4", b"secret")

    def refuse(*_: Any) -> socket.socket:
        raise OSError("refused to connect to 127.0.0.1")

    with socket.create_connection(proxy, 10) as client:
        monkeypatch.setattr(module.socket, "create_connection", refuse)
        client.sendall(f"GET {server.url}/a.mp4 HTTP/1.1\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 502")
    assert b"secret" not in answer
    assert refused == ["refused to connect to 127.0.0.1"]
    assert server.asked == []


@pytest.mark.parametrize(
    "request_line",
    [
        "GET /a.mp4 HTTP/1.1",
        "GET ftp://host/a HTTP/1.1",
        "GET http:///a HTTP/1.1",
        "nonsense",
        "CONNECT :x HTTP/1.1",
    ],
)
def test_what_is_no_request_for_a_host_is_answered_with_an_error(
    proxy: tuple[str, int], refused: list[str], request_line: str
) -> None:
    with socket.create_connection(proxy, 10) as client:
        client.sendall(f"{request_line}\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 400")
    assert refused == []


def test_a_program_that_only_receives_is_not_cut_off(
    proxy: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module._Request, "timeout", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(proxy, 10) as client:
        client.sendall(f"GET http://127.0.0.1:{server.getsockname()[1]}/ HTTP/1.1\r\n\r\n".encode())
        other, _ = server.accept()
        with other:
            assert other.recv(1000).startswith(b"GET / HTTP/1.1")
            other.settimeout(0.5)
            with pytest.raises(TimeoutError):  # an end would be b""
                other.recv(1)
            other.sendall(b"late")
            assert client.recv(10) == b"late"


def test_a_connection_that_breaks_is_no_orderly_end(proxy: tuple[str, int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(proxy, 10) as client:
        client.sendall(f"GET http://127.0.0.1:{server.getsockname()[1]}/ HTTP/1.1\r\n\r\n".encode())
        other, _ = server.accept()
        other.recv(1000)
        other.sendall(b"half")
        assert client.recv(10) == b"half"
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        other.close()
        with pytest.raises(ConnectionResetError):
            client.recv(10)


def test_a_program_that_goes_away_early_leaves_no_words(
    proxy: tuple[str, int], capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(proxy, 10)
        client.sendall(f"GET http://127.0.0.1:{server.getsockname()[1]}/ HTTP/1.1\r\n\r\n".encode())
        other, _ = server.accept()
        with other:
            client.close()
            with contextlib.suppress(OSError):
                for _ in range(50):
                    other.sendall(bytes(100_000))
                    time.sleep(0.01)
    assert capfd.readouterr().err == ""
