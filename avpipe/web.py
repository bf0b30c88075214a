"""Files from the web, whole or not at all: limited, continued where they broke off, each redirect judged before it is followed."""

import contextlib
import hashlib
import json
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit

import requests
import urllib3
from requests.utils import get_environ_proxies, select_proxy
from urllib3.util import Retry

from avpipe import __version__
from avpipe.files import move_whole, output_errors, write_json

USER_AGENT = f"avpipe/{__version__} (research; one request a clip)"
REDIRECTS = 5
LONGEST_REASON = 300
CHUNK = 1 << 16
HEAD = 4096
"""Bytes at the beginning of a file by which a web page is recognised."""
LONGEST_PAGE = 1 << 18
"""Bytes of a web page that are read for its message."""
PROGRESS = 1 << 20
"""Bytes after which a failed attempt does not count against `Limits.attempts`."""
BOT_CHECK = r"not a bot|captcha|unusual traffic|automated (?:queries|requests)"
"""Words of sites that take us for a robot."""
_STOPS = re.compile(
    rf"(?P<robot>{BOT_CHECK}|verify (?:that )?you are)|rate.?limit|too many requests", re.IGNORECASE
)
_TITLE = re.compile(r"<title[^>]*>\s*([^<]{1,100})", re.IGNORECASE)
_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", re.IGNORECASE)
_PAGES = ("text/html", "application/xhtml+xml", "application/json", "application/problem+json")
_NAT64 = IPv6Network("64:ff9b::/96")


class Failure(StrEnum):
    """Why a file did not come. The values are those of a clip's `Status`."""

    UNAVAILABLE = "unavailable"
    WEB_PAGE = "web_page"
    PRIVATE = "private"
    REGION_BLOCKED = "region_blocked"
    BOT_CHECK = "bot_check"
    RATE_LIMITED = "rate_limited"
    NETWORK_ERROR = "network_error"
    TIMED_OUT = "timed_out"
    TOO_LARGE = "too_large"
    CORRUPT = "corrupt"
    REFUSED_URL = "refused_url"

    @property
    def later(self) -> bool:
        """Whether asking again, now or another day, may help."""
        stops = (Failure.BOT_CHECK, Failure.RATE_LIMITED)
        return self in (*stops, Failure.WEB_PAGE, Failure.NETWORK_ERROR, Failure.TIMED_OUT)


FAILURE_OF_CODE = {
    401: Failure.PRIVATE,
    403: Failure.PRIVATE,
    408: Failure.NETWORK_ERROR,
    425: Failure.NETWORK_ERROR,
    429: Failure.RATE_LIMITED,
    451: Failure.REGION_BLOCKED,
}
"""HTTP codes that are neither "unavailable" (other 4xx) nor "network error" (5xx)."""


class DownloadFailed(Exception):
    """A file did not come.

    Args:
        kind, reason: what to tell the user; the reason may hold a server's words.
        wait: the server's Retry-After in seconds, if it sent one.
    """

    def __init__(self, kind: Failure, reason: str, *, wait: float | None = None) -> None:
        reason = "".join(c if c.isprintable() else " " for c in reason)[:LONGEST_REASON]
        super().__init__(reason)
        self.kind, self.reason, self.wait = kind, reason, wait
        self.attempts, self.seconds = 1, 0.0


@dataclass(frozen=True)
class Remote:
    """A file behind http(s).

    Args:
        url: where it is.
        name: what its content is known by, where the URL changes from download to download; None = the URL.
        secrets: headers that are sent to the URL's own scheme, host and port only, for example a token.
        next_page: gets the text of a web page that came instead of the file, returns the URL to ask instead, or raises
            `DownloadFailed`; None = no page is expected.
        sha256: of the whole file, or its first digits; None = unknown.
        allow_private: whether a redirect may lead to a private address.
    """

    url: str
    name: str | None = None
    secrets: Mapping[str, str] = field(default_factory=dict)
    next_page: Callable[[str], str] | None = None
    sha256: str | None = None
    allow_private: bool = False


@dataclass(frozen=True)
class Limits:
    """How much one download may take.

    Args:
        largest: bytes.
        seconds: time, with all attempts and waits.
        silence: seconds without a byte after which a connection counts as failed.
        attempts: how often in a row a failure that may pass is tried without progress.
        patience: longest wait in seconds between attempts; if the server asks for more, the download fails at once.
    """

    largest: int = 4 << 30
    seconds: float = 1800.0
    silence: float = 30.0
    attempts: int = 4
    patience: float = 60.0


@dataclass(frozen=True)
class Arrived:
    """What is known of a file that has come.

    Args:
        size: bytes.
        sha256: of its content, hexadecimal.
        suffix: extension in its URL, with the dot, lower case; "" if none, or if no request was needed.
        content_type: what the server called it; "" likewise.
        attempts, seconds: what it took.
    """

    size: int
    sha256: str
    suffix: str
    content_type: str
    attempts: int
    seconds: float


def download(remote: Remote, path: Path, limits: Limits, stopped: threading.Event | None = None) -> Arrived:
    """Download a file, or the rest of it.

    The bytes so far lie in `.{name}.part` beside `path`, also after a failure or a kill, with a note which version of
    which file they are of. They are continued only if the server confirms that version (If-Range with its ETag or
    Last-Modified), or if the SHA-256 of the whole file is known, which is checked. `path` appears when the file is whole.

    Args:
        remote: what to fetch.
        path: of the file; its folder exists, and no other process uses it now.
        limits: how much it may take.
        stopped: ends the download when it is set.

    Raises:
        DownloadFailed: with `attempts` and `seconds`.
        CancelledError: because of `stopped`.
        OutputError: if the file cannot be written.
    """
    stopped = stopped or threading.Event()
    started = time.monotonic()
    deadline, part = started + limits.seconds, _Part(path, remote)
    attempt = fruitless = 0
    while True:
        attempt += 1
        before = part.size()
        try:
            suffix, content_type, resumed = _attempt(part, limits, deadline, stopped)
            if stopped.is_set():
                raise CancelledError
            digest, size = part.checked_digest(resumed), part.size()
            move_whole(part.path, path)
            part.forget()
            return Arrived(size, digest, suffix, content_type, attempt, _since(started))
        except DownloadFailed as failure:
            if stopped.is_set():
                raise CancelledError from failure
            failure.attempts, failure.seconds = attempt, _since(started)
            fruitless = 0 if part.size() >= before + PROGRESS else fruitless + 1
            wait = random.uniform(0.5, 1) * 2 ** max(0, fruitless - 1)
            if failure.wait is not None:  # scattered, so that jobs do not come back all at once
                wait = failure.wait + random.uniform(0, min(1.0, failure.wait))
            hopeless = not failure.kind.later or failure.kind in (Failure.TIMED_OUT, Failure.WEB_PAGE)
            too_long = wait > limits.patience or time.monotonic() + wait > deadline
            if hopeless or too_long or fruitless >= limits.attempts:
                raise
            if _pause(wait, stopped):
                raise CancelledError from failure


def _pause(seconds: float, stopped: threading.Event) -> bool:
    """Wait; whether the download was told to stop."""
    return stopped.wait(seconds)


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)


class _Part:
    """The bytes that have come, and beside them a note which version of which file they are of."""

    def __init__(self, path: Path, remote: Remote) -> None:
        self.path = path.with_name(f".{path.name}.part")
        self.note = path.with_name(f".{path.name}.part.json")
        self.remote = remote
        self.name = hashlib.sha256((remote.name or remote.url).encode()).hexdigest()  # a URL may hold a token

    def size(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def known(self) -> tuple[int, str | None, int | None]:
        """Size, version, and total size if known, of bytes that can be continued; (0, None, None) if there are none."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            validator, total = note["validator"], note["total"]
            mine = note["name"] == self.name
        except (OSError, ValueError, KeyError, TypeError):
            return 0, None, None
        size = self.size()
        whole = size == total
        can_continue = mine and size <= (total or size) and (whole or validator or self.remote.sha256)
        return (size, validator, total) if size and can_continue else (0, None, None)

    def begin(self, headers: Mapping[str, str], total: int | None) -> None:
        """Start anew with the version that an answer is of. A weak ETag says nothing of single bytes."""
        tag = headers.get("ETag", "")
        validator = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
        self.forget()
        write_json(self.note, {"name": self.name, "validator": validator, "total": total})

    def checked_digest(self, resumed: bool) -> str:
        """SHA-256 of the whole file. Raises `DownloadFailed` if another one is expected; then nothing is kept."""
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if self.remote.sha256 is None or digest.startswith(self.remote.sha256):
            return digest
        size = self.size()
        self.forget()
        if resumed:  # its beginning may be of another version: try once more from the start
            raise DownloadFailed(Failure.NETWORK_ERROR, "the parts of the file do not belong together")
        reason = f"{size} bytes with SHA-256 {digest} came, expected {self.remote.sha256}; nothing was kept"
        raise DownloadFailed(Failure.CORRUPT, reason)

    def forget(self) -> None:
        """Remove the bytes and the note."""
        with output_errors(self.path):
            self.path.unlink(missing_ok=True)
            self.note.unlink(missing_ok=True)


def _attempt(part: _Part, limits: Limits, deadline: float, stopped: threading.Event) -> tuple[str, str, bool]:
    """Bring the partial file to its full length. Gives the URL's extension, the content type, whether it was continued."""
    have, validator, total = part.known()
    if have and have == total:
        return "", "", True
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and validator:
        headers["If-Range"] = validator
    connection = _Connection(limits, deadline, stopped, part.remote.allow_private)
    with connection, connection.open(part.remote, headers) as response:
        offset, total = _extent(response, part, have, total)
        head = b""
        while len(head) < HEAD and (piece := connection.read(response)):
            head += piece
        if is_page(_content_type(response), b"" if offset else head):
            raise page_instead(head.decode("utf-8", "replace"))
        _check(response, total, part, limits)
        if not offset:
            part.begin(response.headers, total)
        size, piece = offset, head
        with output_errors(part.path), part.path.open("ab" if offset else "wb") as file:
            while piece:
                size += len(piece)
                if size > limits.largest:
                    part.forget()
                    raise DownloadFailed(Failure.TOO_LARGE, f"more than the limit of {limits.largest} bytes")
                file.write(piece)
                piece = connection.read(response)
    if size == 0:
        part.forget()
        raise DownloadFailed(Failure.CORRUPT, "the server sent an empty file")
    if total not in (None, size):
        raise DownloadFailed(Failure.NETWORK_ERROR, f"the connection ended after {size} of {total} bytes")
    suffix = PurePosixPath(unquote(urlsplit(response.url).path)).suffix.lower()
    return suffix, _content_type(response), offset > 0


def _extent(response: requests.Response, part: _Part, have: int, known: int | None) -> tuple[int, int | None]:
    """The byte at which an answer begins, and the length of the whole file if the server tells it."""
    if response.status_code == 200:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None
    found = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    total = int(found[2]) if found and found[2] != "*" else known
    if not found or not have or int(found[1]) != have or known not in (None, total):
        part.forget()  # also for HTTP 416: the part is longer than the file that is there now
        raise DownloadFailed(Failure.NETWORK_ERROR, "the server sent another range than it was asked for")
    return have, total


def _check(response: requests.Response, total: int | None, part: _Part, limits: Limits) -> None:
    """Raise `DownloadFailed` for an answer that cannot be the file, or whose end cannot be told from a break."""
    encoding = response.headers.get("Content-Encoding", "identity")
    chunked = response.headers.get("Transfer-Encoding", "").lower() == "chunked"
    if encoding.lower() != "identity":
        reason = f"the server packed the file ({encoding[:40]}), which it was asked not to do"
        raise DownloadFailed(Failure.UNAVAILABLE, reason)
    if total is not None and total > limits.largest:
        part.forget()
        reason = f"{total} bytes, more than the limit of {limits.largest}"
        raise DownloadFailed(Failure.TOO_LARGE, reason)
    if total is None and not chunked and not part.remote.sha256:
        reason = "the server does not say how long the file is; its end could not be told from a break"
        raise DownloadFailed(Failure.NETWORK_ERROR, reason)


class _Connection:
    """The requests of one attempt. Redirects are followed one by one, each judged before it is asked for.

    A host's addresses are judged when its name is looked up here; the connection looks it up once more by itself. The
    time limit and `stopped` are looked at with every piece that comes, so a silent server can exceed them by `silence`.
    """

    def __init__(
        self, limits: Limits, deadline: float, stopped: threading.Event, allow_private: bool
    ) -> None:
        self.silence, self.deadline, self.stopped = limits.silence, deadline, stopped
        self.allow_private = allow_private
        self._secure = False
        self._configured: set[str] | None = None  # addresses of the host that the user named: they are meant
        self._session = requests.Session()
        # without this, requests sends passwords of ~/.netrc to the hosts of redirects
        self._session.auth = lambda request: request
        # without this, requests reads the whole body of a redirect, however long it is
        self._session.resolve_redirects = lambda *_, **__: iter(())  # type: ignore[assignment]

    def __enter__(self) -> "_Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def open(self, remote: Remote, headers: Mapping[str, str]) -> requests.Response:
        """The answer to GET, redirects followed. Raises `DownloadFailed`."""
        url, target = remote.url, ""
        for _ in range(REDIRECTS + 1):
            url = self._judged(url, target)
            sent = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers}
            if _origin(url) == _origin(remote.url):
                sent |= remote.secrets
            with self._network_errors():
                response = self._session.get(
                    url, headers=sent, timeout=self.silence, stream=True, allow_redirects=False
                )
                target = self._session.get_redirect_target(response) or ""
            target = target or self._page_target(response, remote)
            if not target:
                return response
            response.close()
        raise DownloadFailed(Failure.REFUSED_URL, f"more than {REDIRECTS} redirects")

    def _page_target(self, response: requests.Response, remote: Remote) -> str:
        """The URL that a web page leads to; "" if the answer is the file. Raises `DownloadFailed` for an error's code."""
        failed, page = response.status_code not in (200, 206, 416), b""
        if (remote.next_page or response.status_code == 403) and is_page(_content_type(response), b""):
            while len(page) < LONGEST_PAGE and (piece := self.read(response)):
                page += piece
        text = page.decode("utf-8", "replace")
        target = remote.next_page(text) if remote.next_page and page else ""
        if failed:
            raise _failure_of(response, text)
        return target

    def read(self, response: requests.Response) -> bytes:
        """The next bytes of the body as they come; none at its end. Raises `DownloadFailed`."""
        with self._network_errors():
            piece: bytes = response.raw.read1(CHUNK, decode_content=False)
        if time.monotonic() >= self.deadline:
            raise DownloadFailed(Failure.TIMED_OUT, "not done in the time allowed")
        if self.stopped.is_set():
            raise CancelledError
        return piece

    def _judged(self, base: str, target: str) -> str:
        """The URL that `target` means. Raises `DownloadFailed` if it is not http(s), or http after https, or private."""
        try:
            # as requests will understand it: the host that is judged must be the host that is asked
            url = requests.Request("GET", urljoin(base, target)).prepare().url or ""
            parts = urlsplit(url)
            parts.port  # noqa: B018 - reading it checks it
        except ValueError as error:
            raise DownloadFailed(Failure.REFUSED_URL, f"{target[:200]!r} is no URL: {error}") from error
        if parts.scheme not in ("http", "https"):
            what = f"redirected to {url[:200]!r}, which is neither http nor https"
            raise DownloadFailed(Failure.REFUSED_URL, what)
        if self._secure and parts.scheme == "http":
            raise DownloadFailed(Failure.REFUSED_URL, f"redirected from https to {url[:200]!r}")
        self._secure = parts.scheme == "https"
        # a proxy looks names up by itself: behind one only addresses can be judged
        proxied = select_proxy(url, get_environ_proxies(url))
        found = addresses_of(parts.hostname or "", numeric=bool(proxied))
        if self._configured is None:
            self._configured = found
        private = sorted(address for address in found - self._configured if not is_public(address))
        if private and not self.allow_private:
            what = (
                f"redirected to the private address {private[0]}; `allow_private: true` in the source lets it"
            )
            raise DownloadFailed(Failure.REFUSED_URL, what)
        return url

    @contextlib.contextmanager
    def _network_errors(self) -> Iterator[None]:
        """Turn what requests, urllib3 and the system raise into a `DownloadFailed`."""
        try:
            yield
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            cause: BaseException = error
            while cause.__context__ is not None:
                cause = cause.__context__
            if time.monotonic() >= self.deadline:
                raise DownloadFailed(Failure.TIMED_OUT, "not done in the time allowed") from error
            if isinstance(cause, TimeoutError):
                raise DownloadFailed(Failure.NETWORK_ERROR, "the server did not answer in time") from error
            raise DownloadFailed(Failure.NETWORK_ERROR, f"the connection failed: {cause}") from error


def addresses_of(host: str, *, numeric: bool = False) -> set[str]:
    """The addresses of a host; none if it cannot be looked up, or if it is a name and `numeric` asks for addresses only."""
    flags = socket.AI_NUMERICHOST if numeric else socket.AddressInfo(0)
    try:
        return {str(place[4][0]) for place in socket.getaddrinfo(host, None, flags=flags)}
    except (OSError, UnicodeError):  # the connection will fail in the same way, with its message
        return set()


def is_public(address: str) -> bool:
    """Whether an IP address is of the public internet; for one that wraps an IPv4 address, that one counts."""
    ip = ip_address(address.split("%")[0])
    if isinstance(ip, IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = inner or ip
    return ip.is_global and not ip.is_multicast


def is_page(content_type: str, head: bytes) -> bool:
    """Whether an answer is a web page or a message for programs, and not a file, by its type or its first bytes."""
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return content_type in _PAGES or head.startswith(
        (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")
    )


def stop_in(page: str) -> Failure | None:
    """Bot check or rate limit, if the words of a web page say so: no other file will come now either."""
    found = _STOPS.search(page)
    return None if found is None else Failure.BOT_CHECK if found["robot"] else Failure.RATE_LIMITED


def page_instead(page: str) -> DownloadFailed:
    """The failure that a web page in place of a file is."""
    title = _TITLE.search(page)
    said = f" ({title[1].strip()})" if title else ""
    return DownloadFailed(
        stop_in(page) or Failure.WEB_PAGE, f"the server sent a web page{said} instead of the file"
    )


def retry_after(value: str | None) -> float | None:
    """Seconds to wait, from a Retry-After header (a number or a date); at most six hours. None if it says nothing."""
    try:
        return None if value is None else float(Retry().parse_retry_after(value))
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return None


def _failure_of(response: requests.Response, page: str) -> DownloadFailed:
    """What an HTTP error code means, and the page that came with it."""
    code, wait = response.status_code, retry_after(response.headers.get("Retry-After"))
    kind = FAILURE_OF_CODE.get(code, Failure.NETWORK_ERROR if code >= 500 else Failure.UNAVAILABLE)
    if code == 403 and response.headers.get("cf-mitigated"):  # Cloudflare's challenge for robots
        kind = Failure.BOT_CHECK
    elif code == 403:
        kind = Failure.RATE_LIMITED if wait is not None else stop_in(page) or kind
    return DownloadFailed(kind, f"HTTP {code} {response.reason}", wait=wait)


def _content_type(response: requests.Response) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port
