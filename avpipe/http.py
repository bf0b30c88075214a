"""One request over http(s) to a server that is not trusted: redirects, private addresses, time, and what went wrong.

The standard library's urllib, so that proxies of the environment (`https_proxy`, ...) work as everywhere.
"""

import contextlib
import email.utils
import functools
import http.client
import ipaddress
import re
import socket
import string
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from avpipe import __version__

USER_AGENT = f"avpipe/{__version__} (research; one request a clip)"
REDIRECTS = 5
LONGEST_REASON = 300
GLANCE = 0.2
"""Seconds between looks at whether somebody said stop."""
LONGEST_PAGE = 1 << 18
"""Bytes of a web page that are read, where one may say how to go on."""
BOT_CHECK = r"not a bot|captcha|unusual traffic|automated (?:queries|requests)"
"""What sites say who take us for a robot."""
_STOPS = re.compile(
    rf"(?P<robot>{BOT_CHECK}|verify (?:that )?you are)|rate.?limit|too many requests", re.IGNORECASE
)
_TITLE = re.compile(r"<title[^>]*>\s*([^<]{1,100})", re.IGNORECASE)
_RANGE = re.compile(
    r"bytes (?P<first>[0-9]{1,18})-(?P<last>[0-9]{1,18})/(?P<total>[0-9]{1,18}|\*)", re.IGNORECASE
)


class Failure(StrEnum):
    """Why a file did not come. The values are those of `avpipe.download.outcome.Status`."""

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
        kind, reason: what to tell.
        wait: the server's Retry-After in seconds, if it sent one.
        restart: what was received before is useless.
    """

    def __init__(
        self, kind: Failure, reason: str, *, wait: float | None = None, restart: bool = False
    ) -> None:
        # it may be a server's words
        reason = "".join(c if c.isprintable() else " " for c in reason)[:LONGEST_REASON]
        super().__init__(reason)
        self.kind, self.reason, self.wait, self.restart = kind, reason, wait, restart
        self.attempts, self.seconds = 1, 0.0


@dataclass(frozen=True)
class Remote:
    """A file behind http(s).

    Args:
        url: where it is.
        name: what its content is known by, where the URL changes from download to download; None = the URL.
        secrets: headers that are sent to the URL's own host only, for example a token.
        next_page: told the text of a web page that came instead of the file, gives the URL to ask instead, or raises
            `DownloadFailed`; None = no page is expected.
        sha256: of the whole file, if it is known.
        allow_private: whether a redirect may lead to a private address.
    """

    url: str
    name: str | None = None
    secrets: Mapping[str, str] = field(default_factory=dict)
    next_page: Callable[[str], str] | None = None
    sha256: str | None = None
    allow_private: bool = False


@contextlib.contextmanager
def open_url(
    remote: Remote, headers: Mapping[str, str], *, silence: float, deadline: float, stopped: threading.Event
) -> Iterator[http.client.HTTPResponse]:
    """The response to GET, redirects followed, none of them to where the configured URL did not mean to lead.

    Args:
        remote: what to ask for.
        headers: of the request.
        silence: seconds without a byte after which a connection counts as failed.
        deadline: `time.monotonic()` at which the connection is cut, however busy it is.
        stopped: cuts it when it is set.

    Raises:
        DownloadFailed: also for errors inside the `with` block that `network_errors` marked there.
    """
    url, guard = remote.url, _Guard(deadline, stopped, remote.allow_private)
    opener = urllib.request.build_opener(
        _Stay, _GuardedHTTP(guard), _GuardedHTTPS(guard), urllib.request.HTTPCookieProcessor()
    )
    with guard:
        for _ in range(REDIRECTS + 1):
            guard.check_url(url)
            sent = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers}
            if _origin(url) == _origin(remote.url):
                sent |= remote.secrets
            request = urllib.request.Request(url, headers=sent)
            with network_errors(deadline):
                try:
                    response = opener.open(request, timeout=silence)
                except urllib.error.HTTPError as error:
                    with error:
                        url = urllib.parse.urljoin(url, _location(error, remote, deadline))
                        guard.redirected = True
                        continue
            if remote.next_page and is_page(response.headers.get_content_type(), b""):
                with response:
                    url = urllib.parse.urljoin(url, remote.next_page(_text(response, deadline)))
                    guard.redirected = True
                    continue
            with response:
                yield response
            return
    raise DownloadFailed(Failure.REFUSED_URL, f"more than {REDIRECTS} redirects")


def chunks(response: http.client.HTTPResponse, size: int, deadline: float) -> Iterator[bytes]:
    """The body in pieces as they come, at most `size` bytes each. Raises `DownloadFailed`."""
    while True:
        with network_errors(deadline):
            chunk = response.read1(size)
        if not chunk:
            return
        yield chunk


@contextlib.contextmanager
def network_errors(deadline: float) -> Iterator[None]:
    """Tell a failed connection from everything else, as a `DownloadFailed`."""
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as error:
        if time.monotonic() >= deadline:
            raise DownloadFailed(Failure.TIMED_OUT, "not done in the time allowed") from error
        if isinstance(error, TimeoutError):
            raise DownloadFailed(Failure.NETWORK_ERROR, "the server did not answer in time") from error
        if isinstance(error, http.client.InvalidURL):
            raise DownloadFailed(Failure.REFUSED_URL, str(error)) from error
        reason = getattr(error, "reason", None)
        text = f"no connection: {reason}" if reason else f"the connection failed: {error!r}"
        raise DownloadFailed(Failure.NETWORK_ERROR, text) from error


def is_page(content_type: str, head: bytes) -> bool:
    """Whether an answer is a web page or a message for programs, and not a file, by its type or its first bytes."""
    if content_type in ("text/html", "application/xhtml+xml", "application/json", "application/problem+json"):
        return True
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return head.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--"))


def stop_in(page: str) -> Failure | None:
    """What the words of a web page mean for all that would be asked next; None if nothing."""
    found = _STOPS.search(page)
    return None if found is None else Failure.BOT_CHECK if found["robot"] else Failure.RATE_LIMITED


def page_instead(page: str) -> DownloadFailed:
    """The failure that a web page in place of a file is: it may be a check, a sign-in, or the words of a server that has none."""
    title = _TITLE.search(page)
    said = f" ({title[1].strip()})" if title else ""
    return DownloadFailed(
        stop_in(page) or Failure.WEB_PAGE, f"the server sent a web page{said} instead of the file"
    )


class _Guard:
    """Lets connections go to private addresses only where the configured URL leads there, and only until a deadline.

    Used as a context manager around all requests for one file.
    """

    def __init__(self, deadline: float, stopped: threading.Event, allow_private: bool) -> None:
        self.deadline, self.stopped, self.allow_private = deadline, stopped, allow_private
        self.redirected = False
        self._meant: set[str] = set()
        self._secure = False
        self._done = threading.Event()

    def __enter__(self) -> "_Guard":
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def check_url(self, url: str) -> None:
        """Raise `DownloadFailed` for a redirect that leaves http, or https for http, or names a private address.

        (The last is checked at the connection as well, but behind a proxy there is no other chance.)
        """
        try:
            parts = urllib.parse.urlsplit(url)
            parts.port  # noqa: B018 - it looks at the port when it is asked for
        except ValueError as error:
            raise DownloadFailed(Failure.REFUSED_URL, f"{url[:200]!r} is no URL: {error}") from error
        if parts.scheme not in ("http", "https"):
            what = f"redirected to {url[:200]!r}, which is neither http nor https"
            raise DownloadFailed(Failure.REFUSED_URL, what)
        if self._secure and parts.scheme == "http":
            raise DownloadFailed(Failure.REFUSED_URL, f"redirected from https to {url[:200]!r}")
        self._secure = self._secure or parts.scheme == "https"
        with contextlib.suppress(ValueError):
            address = str(ipaddress.ip_address(parts.hostname or ""))
            if not self.redirected:
                self._meant.add(address)
            self._check(address)

    def _check(self, address: str) -> None:
        if self.redirected and not (self.allow_private or address in self._meant or is_public(address)):
            what = f"redirected to the private address {address}; `allow_private: true` in the source lets it"
            raise DownloadFailed(Failure.REFUSED_URL, what)

    def connect(
        self, place: tuple[str, int], timeout: float, _: object = None, *, proxy: bool = False
    ) -> socket.socket:
        """Connect like `socket.create_connection`, but never to a refused address, and cut off at the deadline.

        A proxy of the environment may be anywhere.
        """
        errors: list[Exception] = []
        for family, kind, protocol, _, address in socket.getaddrinfo(*place, 0, socket.SOCK_STREAM):
            connection = socket.socket(family, kind, protocol)
            try:
                if not proxy:
                    self._check(str(address[0]))
                connection.settimeout(timeout)
                connection.connect(address)
            except (OSError, DownloadFailed) as error:
                connection.close()
                errors.append(error)
                continue
            if not proxy and not self.redirected:
                self._meant.add(str(address[0]))
            self._watch(connection)
            return connection
        raise errors[0] if errors else OSError(f"{place[0]} has no address")

    def _watch(self, connection: socket.socket) -> None:
        """Shut the connection down at the deadline, so that a server which drips bytes cannot hold us, or when told."""
        handle = connection.dup()

        def wait() -> None:
            with handle:
                while not self._done.wait(max(0.0, min(GLANCE, self.deadline - time.monotonic()))):
                    if self.stopped.is_set() or time.monotonic() >= self.deadline:
                        with contextlib.suppress(OSError):
                            handle.shutdown(socket.SHUT_RDWR)
                        return

        threading.Thread(target=wait, daemon=True).start()


def is_public(address: str) -> bool:
    """Whether an IP address is of the public internet; for one that wraps an IPv4 address, that one counts."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        nat64 = ipaddress.IPv6Network("64:ff9b::/96")
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in nat64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            ip = inner
    return ip.is_global and not ip.is_multicast


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: `open_url` does, with its checks."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _GuardedHTTP(urllib.request.HTTPHandler):
    def __init__(self, guard: _Guard) -> None:
        super().__init__()
        self.guard = guard

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_guarded(http.client.HTTPConnection, self.guard, req), req)


class _GuardedHTTPS(urllib.request.HTTPSHandler):
    def __init__(self, guard: _Guard) -> None:
        super().__init__()
        self.guard = guard

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_guarded(http.client.HTTPSConnection, self.guard, req), req)


def _guarded(kind: type[http.client.HTTPConnection], guard: _Guard, request: urllib.request.Request) -> Any:
    """`kind` with the guard's way to connect."""
    proxy = request.has_proxy() or bool(getattr(request, "_tunnel_host", None))

    def connection(host: str, **options: Any) -> http.client.HTTPConnection:
        made = kind(host, **options)
        made._create_connection = functools.partial(guard.connect, proxy=proxy)  # type: ignore[attr-defined]
        return made

    return connection


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _text(response: http.client.HTTPResponse | urllib.error.HTTPError, deadline: float) -> str:
    with network_errors(deadline):
        return response.read(LONGEST_PAGE).decode("utf-8", "replace")


def _location(error: urllib.error.HTTPError, remote: Remote, deadline: float) -> str:
    """Where an answer that is no success leads. Raises `DownloadFailed` if nowhere."""
    location = error.headers.get("Location") if 300 <= error.code < 400 else None
    if location is not None:  # http.client reads headers as Latin-1; a request's line is ASCII
        return urllib.parse.quote(location, safe=string.punctuation, encoding="iso-8859-1")
    page = ""
    if (remote.next_page or error.code == 403) and is_page(error.headers.get_content_type(), b""):
        with contextlib.suppress(DownloadFailed):  # the code says enough
            page = _text(error, deadline)
    if remote.next_page and page:
        remote.next_page(page)
    raise _failure_of(error, page)


def _failure_of(error: urllib.error.HTTPError, page: str) -> DownloadFailed:
    """What an HTTP error code means, and the page that came with it."""
    if error.code == 416:  # the partial file is longer than the file: its note was of another version
        return DownloadFailed(Failure.NETWORK_ERROR, "the server has no such range", restart=True)
    wait = retry_after(error.headers.get("Retry-After"))
    other = Failure.NETWORK_ERROR if error.code >= 500 else Failure.UNAVAILABLE
    kind = FAILURE_OF_CODE.get(error.code, other)
    if error.code == 403 and error.headers.get("cf-mitigated"):  # Cloudflare's challenge for robots
        kind = Failure.BOT_CHECK
    elif error.code == 403:
        kind = Failure.RATE_LIMITED if wait is not None else stop_in(page) or kind
    return DownloadFailed(kind, f"HTTP {error.code} {error.reason}", wait=wait)


class Headers(Protocol):
    """Of an answer, by their names."""

    def get(self, name: str, /) -> str | None:
        """The value, or None."""


@dataclass(frozen=True)
class ContentRange:
    """Which bytes an answer brings: numbers of the first and the last, and of how many; None = the server does not say."""

    first: int
    last: int
    total: int | None


def content_range(headers: Headers) -> ContentRange | None:
    """What the header Content-Range says, if it says it of bytes."""
    found = _RANGE.fullmatch(str(headers.get("Content-Range") or "").strip())
    if found is None:
        return None
    total = None if found["total"] == "*" else int(found["total"])
    return ContentRange(int(found["first"]), int(found["last"]), total)


def validator_of(headers: Headers) -> str | None:
    """What tells this version of a file from others: its ETag, or when it changed. A weak ETag is none for ranges."""
    tag = str(headers.get("ETag") or "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def retry_after(value: str | None) -> float | None:
    """Seconds to wait, from a number or a date."""
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,18}", value.strip()):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
