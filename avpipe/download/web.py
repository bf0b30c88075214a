"""Clips behind http(s): streamed, resumed, limited, with every failure told apart.

The standard library's urllib, so that proxies of the environment (`https_proxy`, ...) work as everywhere.
"""

import contextlib
import email.utils
import functools
import hashlib
import http.client
import ipaddress
import json
import mimetypes
import random
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from avpipe.config.source import Source
from avpipe.download.base import WantedClip, sha256_of
from avpipe.download.outcome import Outcome, Status
from avpipe.files import output_errors, whole_file, write_json

USER_AGENT = "avpipe/0.1 (research; one request a clip)"
REDIRECTS = 5
LONGEST_REASON = 300
CHUNK = 1 << 16
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".flv", ".mpg", ".mpeg", ".ts", ".ogv", ".3gp", ".wmv"}
)
AUDIO_SUFFIXES = frozenset({".mp3", ".m4a", ".aac", ".ogg", ".opus", ".flac", ".wav"})
STATUS_OF_CODE = {
    401: Status.PRIVATE,
    403: Status.PRIVATE,
    408: Status.NETWORK_ERROR,
    429: Status.RATE_LIMITED,
    451: Status.REGION_BLOCKED,
}
"""HTTP codes that are neither "unavailable" (other 4xx) nor "network error" (5xx)."""


class _Failed(Exception):
    """One attempt failed.

    Args:
        status, reason: what to tell.
        wait: the server's Retry-After in seconds, if it sent one.
        restart: the partial file is useless.
    """

    def __init__(
        self, status: Status, reason: str, *, wait: float | None = None, restart: bool = False
    ) -> None:
        super().__init__(reason)
        self.status, self.reason, self.wait = status, reason[:LONGEST_REASON], wait
        self.restart = restart or status.final


class WebFetcher:
    """Files behind a URL pattern.

    Redirects are followed, but never from a public address to a private one: a hostile server must not make us
    ask services of the local network. A partial file is kept beside the destination and continued, if the
    server names the file's version (ETag or Last-Modified).

    Args:
        source: its `url` holds {source} or {clip}.
        largest: bytes of the largest file that is taken.
        seconds: time limit for one clip, with all attempts.
        silence: seconds without a byte after which a connection counts as failed.
        attempts: how often a failure that may pass is tried.
        patience: longest wait in seconds between attempts; a server that asks for more gets its outcome now.
    """

    def __init__(
        self,
        source: Source,
        *,
        largest: int = 4 << 30,
        seconds: float = 1800.0,
        silence: float = 30.0,
        attempts: int = 4,
        patience: float = 60.0,
    ) -> None:
        if source.url is None:
            raise ValueError("an http source needs `url`, with {source} or {clip} in it")
        self.url = source.url
        self.largest, self.seconds, self.silence = largest, seconds, silence
        self.attempts, self.patience = attempts, patience

    @property
    def name(self) -> str:
        """The kind and the host, without what a URL may carry of secrets."""
        return f"http {urllib.parse.urlsplit(self.url).hostname}"

    def key(self, clip: WantedClip) -> str:
        """The clip's URL; the id is quoted, so that it cannot reach another host or the query."""
        values = {"{source}": urllib.parse.quote(clip.source, safe="/~"), "{clip}": clip.clip}
        return re.sub(r"\{(?:source|clip)\}", lambda field: values[field.group()], self.url)

    def fetch(self, clip: WantedClip, destination: Path) -> Outcome:
        """Download the clip to `destination` + extension; see `Fetcher.fetch`."""
        if ".." in clip.source.split("/"):
            return Outcome(Status.REFUSED_ID, f"{clip.source!r} leads out of the source's folder")
        started = time.monotonic()
        part = _Part(destination.with_name(f"{destination.name}.part"), self.key(clip))
        for attempt in range(1, self.attempts + 1):
            try:
                path = destination.with_name(destination.name + self._download(part, started + self.seconds))
            except _Failed as failure:
                if failure.restart:
                    part.forget()
                wait = (
                    failure.wait if failure.wait is not None else random.uniform(0.5, 1) * 2 ** (attempt - 1)
                )
                hopeless = failure.status.final or failure.status is Status.TIMED_OUT
                if hopeless or attempt == self.attempts or wait > self.patience:
                    seconds = round(time.monotonic() - started, 3)
                    return Outcome(failure.status, failure.reason, attempts=attempt, seconds=seconds)
                time.sleep(wait)
            else:
                break
        part.finish(path)
        seconds = round(time.monotonic() - started, 3)
        size = path.stat().st_size
        return Outcome(Status.PRESENT, "", str(path), size, sha256_of(path), attempt, seconds, self.name)

    def _download(self, part: "_Part", deadline: float) -> str:
        """Bring `part` to its full length, continuing where it stands. Returns the file's extension."""
        kept = part.resumable()
        headers = {"Range": f"bytes={kept.size}-", "If-Range": kept.validator} if kept else {}
        with self._open(part.url, headers) as response:
            continued = response.status == 206
            offset = kept.size if kept and continued else 0
            if continued and not _continues(response, offset):
                reason = "the server sent another range than it was asked for"
                raise _Failed(Status.NETWORK_ERROR, reason, restart=True)
            length = response.headers.get("Content-Length")
            total = offset + int(length) if length and length.isdigit() else None
            self._check(total, response.headers.get_content_type())
            if not continued:
                part.start(response.headers)
            self._receive(response, part, offset, total, deadline)
            return _suffix(response)

    def _check(self, total: int | None, content_type: str) -> None:
        if total == 0:
            raise _Failed(Status.CORRUPT, "the server sent an empty file")
        if total is not None and total > self.largest:
            raise _Failed(Status.TOO_LARGE, f"{total} bytes, more than the limit of {self.largest}")
        if content_type in ("text/html", "application/xhtml+xml"):
            raise _Failed(
                Status.UNAVAILABLE, f"the server sent a web page ({content_type}) instead of a media file"
            )

    def _receive(
        self,
        response: http.client.HTTPResponse,
        part: "_Part",
        offset: int,
        total: int | None,
        deadline: float,
    ) -> None:
        size = offset
        with output_errors(part.path), part.path.open("ab" if offset else "wb") as file:
            for chunk in _chunks(response):
                if size == 0 and chunk[:256].lstrip().lower().startswith((b"<!doctype html", b"<html")):
                    raise _Failed(Status.UNAVAILABLE, "the server sent a web page instead of a media file")
                size += len(chunk)
                if size > self.largest:
                    raise _Failed(Status.TOO_LARGE, f"more than the limit of {self.largest} bytes")
                file.write(chunk)
                if time.monotonic() > deadline:
                    raise _Failed(Status.TIMED_OUT, f"not done after {self.seconds:g} s, {size} bytes came")
        if total is not None and size != total:
            raise _Failed(Status.NETWORK_ERROR, f"the connection ended after {size} of {total} bytes")
        if size == 0:
            raise _Failed(Status.CORRUPT, "the server sent an empty file")

    @contextlib.contextmanager
    def _open(self, url: str, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
        """The response to GET `url`, redirects followed. Raises `_Failed`."""
        guard = _Guard()
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers}
        opener = urllib.request.build_opener(_Stay, _GuardedHTTP(guard), _GuardedHTTPS(guard))
        for _ in range(REDIRECTS + 1):
            if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
                raise _Failed(
                    Status.REFUSED_URL, f"redirected to {url[:200]!r}, which is neither http nor https"
                )
            with _network_errors():
                try:
                    response = opener.open(urllib.request.Request(url, headers=headers), timeout=self.silence)
                except urllib.error.HTTPError as error:
                    with error:
                        location = error.headers.get("Location") if 300 <= error.code < 400 else None
                        if location is None:
                            raise _failure_of(error) from None
                        url = urllib.parse.urljoin(url, location)
                        continue
            with response:
                yield response
            return
        raise _Failed(Status.REFUSED_URL, f"more than {REDIRECTS} redirects")


@dataclass(frozen=True)
class _Kept:
    size: int
    validator: str


class _Part:
    """A download under way: the bytes so far, and beside them which version of which URL they are of."""

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url
        self.digest = hashlib.sha256(url.encode()).hexdigest()  # a URL may carry a secret
        self.note = path.with_name(f"{path.name}.json")

    def resumable(self) -> _Kept | None:
        """How far it came, if the server can be asked for the rest of that very version."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            size = self.path.stat().st_size
        except (OSError, ValueError):
            return None
        if size == 0 or note.get("url_sha256") != self.digest or not note.get("validator"):
            return None
        return _Kept(size, note["validator"])

    def start(self, headers: Any) -> None:
        """Begin anew with the version that `headers` describe; a weak ETag cannot be resumed from."""
        tag = headers.get("ETag") or ""
        validator = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
        self.forget()
        write_json(self.note, {"url_sha256": self.digest, "validator": validator})

    def finish(self, path: Path) -> None:
        """The download is complete: make it `path`."""
        with whole_file(path) as temporary:
            self.path.replace(temporary)
        self.forget()

    def forget(self) -> None:
        """Remove what is there."""
        with output_errors(self.path):
            self.path.unlink(missing_ok=True)
            self.note.unlink(missing_ok=True)


class _Guard:
    """Refuses connections to private addresses, but for the one that the configured URL itself led to."""

    def __init__(self) -> None:
        self.first: str | None = None

    def check(self, address: str) -> None:
        """Raise `_Failed` if a redirect led to `address` (that of the connected socket, so DNS cannot lie)."""
        if self.first is None:
            self.first = address
        ip = ipaddress.ip_address(address.split("%")[0])
        ip = getattr(ip, "ipv4_mapped", None) or ip
        if address != self.first and not ip.is_global:
            raise _Failed(Status.REFUSED_URL, f"redirected to the private address {address}")


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: `_open` does, with its checks."""

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
    """`kind`, checking the address it connected to before the request is sent; a proxy of the environment is trusted."""
    if request.has_proxy() or getattr(request, "_tunnel_host", None):
        return kind

    class Guarded(kind):  # type: ignore[misc, valid-type]
        def connect(self) -> None:
            super().connect()
            guard.check(self.sock.getpeername()[0])

    return functools.partial(Guarded)


@contextlib.contextmanager
def _network_errors() -> Iterator[None]:
    """Tell a failed connection from everything else."""
    try:
        yield
    except TimeoutError as error:
        raise _Failed(Status.NETWORK_ERROR, "the server did not answer in time") from error
    except urllib.error.URLError as error:
        raise _Failed(Status.NETWORK_ERROR, f"no connection: {error.reason}") from error
    except http.client.InvalidURL as error:
        raise _Failed(Status.REFUSED_URL, str(error)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Failed(Status.NETWORK_ERROR, f"the connection failed: {error!r}") from error


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body, in pieces as they come."""
    read: Callable[[], bytes] = functools.partial(response.read1, CHUNK)
    while True:
        with _network_errors():
            chunk = read()
        if not chunk:
            return
        yield chunk


def _failure_of(error: urllib.error.HTTPError) -> _Failed:
    """What an HTTP error code means."""
    if error.code == 416:  # the partial file is longer than the file: the note was of another version
        return _Failed(Status.NETWORK_ERROR, "the server has no such range", restart=True)
    status = STATUS_OF_CODE.get(error.code, Status.NETWORK_ERROR if error.code >= 500 else Status.UNAVAILABLE)
    return _Failed(
        status, f"HTTP {error.code} {error.reason}", wait=_retry_after(error.headers.get("Retry-After"))
    )


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait, from a number or a date."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _continues(response: http.client.HTTPResponse, offset: int) -> bool:
    """Whether a 206 response starts where our partial file ends."""
    return (response.headers.get("Content-Range") or "").lower().startswith(f"bytes {offset}-")


def _suffix(response: http.client.HTTPResponse) -> str:
    """The file's extension: the URL's, else the content type's, else ".media" (ffmpeg looks at the content)."""
    path = urllib.parse.unquote(urllib.parse.urlsplit(response.url).path)
    guesses = (
        PurePosixPath(path).suffix.lower(),
        mimetypes.guess_extension(response.headers.get_content_type()),
    )
    return next((guess for guess in guesses if guess in VIDEO_SUFFIXES | AUDIO_SUFFIXES), ".media")
