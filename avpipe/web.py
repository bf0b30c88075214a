"""Downloads one file: whole or not at all, within limits, continued after a break, with each redirect checked first."""

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
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit

import requests
import urllib3
from requests.utils import get_environ_proxies, select_proxy
from urllib3.util import Retry

from avpipe import __version__
from avpipe.clips import Status
from avpipe.files import locked, move_whole, output_errors, sha256_of, write_json
from avpipe.progress import Progress

USER_AGENT = f"avpipe/{__version__} (research; one request a clip)"
REDIRECTS = 5
LONGEST_REASON = 300
CHUNK = 1 << 16
HEAD = 4096
"""Bytes at the beginning of a file by which a web page is recognised."""
LONGEST_PAGE = 1 << 18
"""Bytes of a web page that are read for its message."""
BOT_CHECK = r"not a bot|captcha|unusual traffic|automated (?:queries|requests)"
"""Words on web pages that want to keep robots out."""
_STOPS = re.compile(
    rf"(?P<robot>{BOT_CHECK}|verify (?:that )?you are)|rate.?limit|too many requests", re.IGNORECASE
)
_TITLE = re.compile(r"<title[^>]*>\s*([^<]{1,100})", re.IGNORECASE)
_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", re.IGNORECASE)
_PAGE_TYPES = ("text/html", "application/xhtml+xml", "application/json", "application/problem+json")
_PAGE_STARTS = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")
_STATUS_OF_CODE = {
    401: Status.PRIVATE, 403: Status.PRIVATE, 429: Status.RATE_LIMITED, 451: Status.REGION_BLOCKED,
    408: Status.NETWORK_ERROR, 416: Status.NETWORK_ERROR,
}  # fmt: skip
"""HTTP codes that are neither "unavailable" (other 4xx) nor "network error" (5xx)."""


class DownloadFailed(Exception):
    """A file could not be downloaded.

    Args:
        status: of the clip or archive because of this failure.
        reason: for the user; may contain text from the server.
        wait: the server's Retry-After in seconds, if it sent one.
    """

    def __init__(self, status: Status, reason: str, *, wait: float | None = None) -> None:
        reason = "".join(c if c.isprintable() else " " for c in reason)[:LONGEST_REASON]
        super().__init__(reason)
        self.status, self.reason, self.wait = status, reason, wait
        self.attempts, self.seconds = 1, 0.0


@dataclass(frozen=True)
class Remote:
    """A file on a web server.

    Args:
        url: its address.
        name: identifies the file if its URL changes from download to download; None = the URL.
        secrets: headers that are sent to the URL's own scheme, host and port only, for example a token.
        next_page: takes the text of a web page that the server sent instead of the file, returns the URL to ask
            instead, or raises `DownloadFailed`; None = no page is expected.
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
        seconds: time for all attempts and waits together.
        silence: seconds without a byte after which a connection counts as failed.
        attempts: number of tries.
        patience: longest wait in seconds between attempts; if the server asks for more, the download fails at once.
    """

    largest: int = 4 << 30
    seconds: float = 1800.0
    silence: float = 30.0
    attempts: int = 4
    patience: float = 60.0


@dataclass(frozen=True)
class Arrived:
    """Facts about a downloaded file.

    Args:
        size: bytes.
        sha256: of its content, hexadecimal.
        suffix: extension in its URL, with the dot, lower case; "" if it has none, or if no request was needed.
        attempts, seconds: of the download.
    """

    size: int
    sha256: str
    suffix: str
    attempts: int = 1
    seconds: float = 0.0


def download(remote: Remote, path: Path, limits: Limits, stopped: threading.Event | None = None) -> Arrived:
    """Download a file, or the rest of it.

    Until the file is complete, its bytes are in `.{name}.part` beside `path`, also after a failure or a kill, with a note
    that identifies the file and its version. The download is continued only if the server confirms that version (If-Range
    with its ETag or Last-Modified), or if the SHA-256 of the whole file is known, which is then checked.

    Args:
        remote: the file.
        path: where it goes; the folder exists, and no other process downloads to this path.
        limits: how much the download may take.
        stopped: ends the download when it is set.

    Raises:
        DownloadFailed: with `attempts` and `seconds`.
        CancelledError: because of `stopped`.
        OutputError: if the file cannot be written.
    """
    stopped = stopped or threading.Event()
    started, attempt = time.monotonic(), 0
    transfer = _Transfer(remote, path, limits, started + limits.seconds, stopped)
    while not stopped.is_set():
        attempt += 1
        try:
            arrived = transfer.attempt()
            move_whole(transfer.part, path)
            transfer.forget()
            return replace(arrived, attempts=attempt, seconds=round(time.monotonic() - started, 3))
        except DownloadFailed as failure:
            failure.attempts, failure.seconds = attempt, round(time.monotonic() - started, 3)
            wait = random.uniform(0.5, 1) * 2 ** (attempt - 1)
            if failure.wait is not None:  # random, so that jobs do not all ask again at the same moment
                wait = failure.wait + random.uniform(0, min(1.0, failure.wait))
            hopeless = failure.status.final or failure.status is Status.WEB_PAGE
            too_long = wait > limits.patience or time.monotonic() + wait > transfer.deadline
            if hopeless or too_long or attempt >= limits.attempts:
                raise
        _pause(wait, stopped)
    raise CancelledError


class PublishedFileError(ValueError):
    """A published file cannot be downloaded, or a file is not the published one; the message says what to do."""


def fetch_published(remote: Remote, path: Path, limits: Limits) -> None:
    """Download a file whose SHA-256 is known, if it is not at `path` yet, and check it.

    On a machine without network, put the file there by hand. Several processes may call this at once: one downloads, the
    others wait. A wrong file is left alone.

    Raises:
        PublishedFileError: if the file cannot be downloaded, or is not the published one.
        OutputError: if the folder cannot be written.
    """
    if not path.exists():
        with locked(path.with_name(f".{path.name}.lock")):
            try:
                if not path.exists():
                    download(remote, path, limits)
            except DownloadFailed as error:
                raise PublishedFileError(
                    f"cannot download {remote.url}: {error.reason}; run again, or put the file into {path.parent} by hand"
                ) from error
    digest = sha256_of(path)
    if not digest.startswith(remote.sha256 or ""):
        raise PublishedFileError(
            f"{path} is not the published file: its SHA-256 is {digest}, expected {remote.sha256}; move it away and run "
            "again to download it"
        )


def _pause(seconds: float, stopped: threading.Event) -> None:
    stopped.wait(seconds)


class _Transfer:
    """The partial file of one download, its note, and the connections that fill it.

    A redirect is checked before it is followed: a host's addresses are looked up here, and again by the connection. The
    time limit and `stopped` are checked after each received piece, so a silent server can exceed them by `silence`.
    """

    def __init__(
        self, remote: Remote, path: Path, limits: Limits, deadline: float, stopped: threading.Event
    ) -> None:
        self.remote, self.limits, self.deadline, self.stopped = remote, limits, deadline, stopped
        self.part = path.with_name(f".{path.name}.part")
        self.note = path.with_name(f".{path.name}.part.json")
        self.name = hashlib.sha256((remote.name or remote.url).encode()).hexdigest()  # a URL may hold a token

    def size(self) -> int:
        """Bytes of the partial file; 0 if there is none."""
        return self.part.stat().st_size if self.part.is_file() else 0

    def forget(self) -> None:
        """Remove the partial file and its note."""
        with output_errors(self.part):
            self.part.unlink(missing_ok=True)
            self.note.unlink(missing_ok=True)

    def attempt(self) -> Arrived:
        """Download the missing bytes and check the whole file. Raises `DownloadFailed`."""
        have, validator, total = self._known()
        suffix = ""
        if not have or have != total:  # else the file is complete and was not renamed yet
            headers = {"Range": f"bytes={have}-"} if have else {}
            if have and validator:
                headers["If-Range"] = validator
            with self._session() as session:
                response, head = self._open(session, headers)
                with response:
                    self._receive(response, head, have, total)
            suffix = PurePosixPath(unquote(urlsplit(response.url).path)).suffix.lower()
        size, digest = self.size(), sha256_of(self.part)
        if not digest.startswith(self.remote.sha256 or ""):
            self.forget()
            if have:  # the first part may be of another version: try once more from the beginning
                reason = "the parts of the file do not belong together"
                raise DownloadFailed(Status.NETWORK_ERROR, reason)
            reason = f"the file has {size} bytes and SHA-256 {digest}, expected {self.remote.sha256}; nothing was kept"
            raise DownloadFailed(Status.CORRUPT, reason)
        return Arrived(size, digest, suffix)

    def _known(self) -> tuple[int, str | None, int | None]:
        """Size, version, and total size if known, of a partial file that can be continued; else (0, None, None)."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            validator, total, same = note["validator"], note["total"], note["name"] == self.name
        except (OSError, ValueError, KeyError, TypeError):
            return 0, None, None
        size = self.size()
        fits = same and size <= (total or size) and (size == total or validator or self.remote.sha256)
        return (size, validator, total) if size and fits else (0, None, None)

    def _receive(self, response: requests.Response, head: bytes, have: int, known: int | None) -> None:
        """Write the body, which begins with `head`, to the partial file. `known`: total size, if an earlier answer had it."""
        headers = response.headers
        length = re.fullmatch(r"[0-9]{1,18}", headers.get("Content-Length", ""))
        offset, total = 0, int(length[0]) if length else None
        if response.status_code == 206:
            found = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
            offset, total = have, int(found[2]) if found and found[2] != "*" else known
            if not found or not have or int(found[1]) != have or known not in (None, total):
                self.forget()
                raise DownloadFailed(Status.NETWORK_ERROR, "the server sent another range of bytes")
        chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
        if total is None and not chunked and not self.remote.sha256:
            reason = "the server does not give the file's length, so a broken connection could not be noticed"
            raise DownloadFailed(Status.NETWORK_ERROR, reason)
        if not offset:
            self.forget()
            tag = headers.get("ETag", "")  # a weak one does not promise the same bytes
            validator = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
            write_json(self.note, {"name": self.name, "validator": validator, "total": total})
        size = offset
        megabytes = None if total is None else total / 1e6
        progress = Progress(f"download {self.part.name[1:-5]}", megabytes, "MB", offset / 1e6)
        with output_errors(self.part), self.part.open("ab" if offset else "wb") as file:
            piece = head or self._read(response)
            while piece:
                size += len(piece)
                if max(size, total or 0) > self.limits.largest:
                    self.forget()
                    reason = f"{total or size} bytes or more, the limit is {self.limits.largest}"
                    raise DownloadFailed(Status.TOO_LARGE, reason)
                file.write(piece)
                progress.advance(len(piece) / 1e6)
                piece = self._read(response)
        if size == 0:
            self.forget()
            raise DownloadFailed(Status.CORRUPT, "the server sent an empty file")
        if total not in (None, size):
            reason = f"the connection ended after {size} of {total} bytes"
            raise DownloadFailed(Status.NETWORK_ERROR, reason)

    def _session(self) -> requests.Session:
        session = requests.Session()
        # without this, requests sends passwords of ~/.netrc to the hosts of redirects
        session.auth = lambda request: request
        # without this, requests reads the whole body of a redirect, however long it is
        session.resolve_redirects = lambda *_, **__: iter(())  # type: ignore[assignment]
        return session

    def _open(self, session: requests.Session, headers: Mapping[str, str]) -> tuple[requests.Response, bytes]:
        """The answer that has the file, after redirects, and the beginning of its body. Raises `DownloadFailed`."""
        url, target, own = self.remote.url, "", None
        for _ in range(REDIRECTS + 1):
            url, addresses = self._checked(url, target, own and own[1])
            own = own or (urlsplit(url)[:2], addresses)
            sent = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers}
            if urlsplit(url)[:2] == own[0]:
                sent |= self.remote.secrets
            with self._network_errors():
                response = session.get(
                    url, headers=sent, timeout=self.limits.silence, stream=True, allow_redirects=False
                )
                target = session.get_redirect_target(response) or ""
            if target:
                response.close()
                continue
            head = self._read_up_to(HEAD, response) if response.status_code == 200 else b""
            page = is_page(_content_type(response), head)
            if response.status_code in (200, 206) and not page:
                return response, head
            with response:
                text = (
                    self._read_up_to(LONGEST_PAGE, response, head).decode("utf-8", "replace") if page else ""
                )
            target = self.remote.next_page(text) if self.remote.next_page and page else ""
            if response.status_code == 416:  # the partial file is longer than the server's file
                self.forget()
            if response.status_code not in (200, 206):
                raise _failure_of(response, text)
            if not target:
                raise page_instead(text)
        raise DownloadFailed(Status.REFUSED_URL, f"more than {REDIRECTS} redirects")

    def _checked(self, base: str, target: str, configured: set[str] | None) -> tuple[str, set[str]]:
        """The URL of a redirect to `target`, and the addresses of its host. Raises `DownloadFailed` if it is refused.

        Args:
            base: URL that redirects.
            target: where to; "" for the URL of the configuration.
            configured: addresses of the configured URL's host, which may be private; None if this is that URL.
        """
        try:
            # the URL as requests reads it: the host that is checked must be the host that is asked
            url = requests.Request("GET", urljoin(base, target)).prepare().url or ""
            parts = urlsplit(url)
        except ValueError as error:
            raise DownloadFailed(Status.REFUSED_URL, f"{target[:200]!r} is no URL: {error}") from error
        allowed = ("https",) if target and base.startswith("https:") else ("http", "https")
        if parts.scheme not in allowed:
            reason = f"redirected to {url[:200]!r}, which does not begin with {' or '.join(allowed)}"
            raise DownloadFailed(Status.REFUSED_URL, reason)
        # a proxy looks names up by itself: behind a proxy only numeric addresses can be checked
        proxied = select_proxy(url, get_environ_proxies(url))
        addresses = addresses_of(parts.hostname or "", numeric=bool(proxied))
        for address in addresses - (addresses if configured is None else configured):
            if not is_public(address) and not self.remote.allow_private:
                reason = f"redirected to the private address {address}; `allow_private: true` in the source permits it"
                raise DownloadFailed(Status.REFUSED_URL, reason)
        return url, addresses

    def _read_up_to(self, size: int, response: requests.Response, begun: bytes = b"") -> bytes:
        """`begun` and the next bytes of the body, together about `size`; fewer at its end."""
        while len(begun) < size and (piece := self._read(response)):
            begun += piece
        return begun

    def _read(self, response: requests.Response) -> bytes:
        """The next received bytes of the body; b"" at its end. Raises `DownloadFailed`, CancelledError."""
        with self._network_errors():
            piece: bytes = response.raw.read1(CHUNK, decode_content=False)
        if time.monotonic() >= self.deadline:
            raise DownloadFailed(Status.TIMED_OUT, "not done in the time allowed")
        if self.stopped.is_set():
            raise CancelledError
        return piece

    @contextlib.contextmanager
    def _network_errors(self) -> Iterator[None]:
        """Turn errors of requests, urllib3 and the system into a `DownloadFailed`."""
        try:
            yield
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if self.stopped.is_set():
                raise CancelledError from error
            cause: BaseException = error
            while cause.__context__ is not None:
                cause = cause.__context__
            late = time.monotonic() >= self.deadline
            status = Status.TIMED_OUT if late else Status.NETWORK_ERROR
            raise DownloadFailed(status, f"the connection failed: {cause}") from error


def addresses_of(host: str, *, numeric: bool = False) -> set[str]:
    """The IP addresses of a host; empty if the lookup fails. With `numeric`, names are not looked up."""
    flags = socket.AI_NUMERICHOST if numeric else socket.AddressInfo(0)
    try:
        return {str(place[4][0]) for place in socket.getaddrinfo(host, None, flags=flags)}
    except (OSError, UnicodeError):  # the connection will fail with a better message
        return set()


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet. An IPv4 address inside an IPv6 address is judged itself."""
    ip = ip_address(address.split("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_global and not ip.is_multicast


def is_page(content_type: str, head: bytes) -> bool:
    """Whether a body is a web page or json in place of a file, by its type or its first bytes."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return content_type in _PAGE_TYPES or start.startswith(_PAGE_STARTS)


def page_instead(page: str) -> DownloadFailed:
    """The failure for a web page in place of a file."""
    title = _TITLE.search(page)
    shown = f" ({title[1].strip()})" if title else ""
    reason = f"the server sent a web page{shown} instead of the file"
    return DownloadFailed(_stop_in(page) or Status.WEB_PAGE, reason)


def _stop_in(page: str) -> Status | None:
    """Bot check or rate limit, if the words of a web page say so: the server will not send other files now either."""
    found = _STOPS.search(page)
    return None if found is None else Status.BOT_CHECK if found["robot"] else Status.RATE_LIMITED


def retry_after(value: str | None) -> float | None:
    """Seconds to wait, from a Retry-After header (a number or a date); None if it has neither."""
    try:
        return None if value is None else float(Retry().parse_retry_after(value))
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return None


def _failure_of(response: requests.Response, page: str) -> DownloadFailed:
    """The failure for an HTTP error code, and the page that was sent with it."""
    code, wait = response.status_code, retry_after(response.headers.get("Retry-After"))
    status = _STATUS_OF_CODE.get(code, Status.NETWORK_ERROR if code >= 500 else Status.UNAVAILABLE)
    if code == 403 and response.headers.get("cf-mitigated"):  # Cloudflare's challenge for robots
        status = Status.BOT_CHECK
    elif code == 403:
        status = Status.RATE_LIMITED if wait is not None else _stop_in(page) or status
    return DownloadFailed(status, f"HTTP {code} {response.reason}", wait=wait)


def _content_type(response: requests.Response) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
