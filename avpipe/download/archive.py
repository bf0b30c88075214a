"""Clips out of one archive: brought here once for all jobs of the machine, each clip's file taken out on its own."""

import hashlib
import logging
import threading
import time
import urllib.parse
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from avpipe.clips import MEDIA_SUFFIXES, Status, local_file
from avpipe.config.source import Source
from avpipe.download.base import WantedClip, offset_of, outcome_of
from avpipe.download.drive import drive_file
from avpipe.download.members import (
    PACKED,
    Archive,
    ArchiveError,
    Member,
    MemberError,
    TarArchive,
    ZipArchive,
    unpack_tar,
)
from avpipe.download.outcome import Outcome
from avpipe.download.rar import RarArchive
from avpipe.files import move_whole, output_errors, read_json, sha256_of, write_json
from avpipe.http import DownloadFailed, Failure, Remote
from avpipe.locking import locked_if_free
from avpipe.transfer import Arrived, Limits, download

FOLDER = "archives"
"""Below the folder of downloaded files: an archive that was downloaded, and what is known of any archive."""
GLANCE = 0.5
"""Seconds between looks at whether another job is done with the archive."""
SECONDS = 86_400.0
"""Time limit of the download of an archive, where the source gives none."""

_log = logging.getLogger(__name__)


class ArchiveFetcher:
    """Members of one archive that is on this machine or behind http(s).

    A downloaded archive lies in {files}/archives/{digest}/, with a lock for the jobs that want it at the same time.

    Args:
        source: of kind archive, or local with an archive as `path`, or huggingface with `archive`.
        remote: instead of the source's `url` or `drive`.
        limits: of the download; default: the source's.
    """

    def __init__(self, source: Source, *, remote: Remote | None = None, limits: Limits | None = None) -> None:
        self.source = source
        self.remote = remote or _remote(source)
        self.local = None if self.remote else Path(source.path or "")
        self.limits = limits or Limits(largest=source.max_archive_bytes, seconds=source.timeout or SECONDS)
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._opened: Archive | ArchiveError | DownloadFailed | None = None

    @property
    def name(self) -> str:
        """The kind and the host or file, without what a URL may carry of secrets."""
        if self.remote is None:
            return f"archive {Path(self.source.path or '').name}"
        if self.source.drive:
            return "archive Google Drive"
        return f"archive {urllib.parse.urlsplit(self.remote.url).hostname}"

    @property
    def _identity(self) -> str:
        """What the archive is known by."""
        if self.remote is None:
            return f"file {Path(self.source.path or '').absolute()}"
        return self.remote.name or self.remote.url

    def key(self, clip: WantedClip) -> str:
        """The archive (its version, where that is known) and the member."""
        version = self.source.sha256 or ""
        if self.local is not None and self.local.is_file():
            found = self.local.stat()
            version = f"{found.st_size} {found.st_mtime_ns}"
        excerpts = "excerpts " if self.source.excerpts else ""
        return f"{self._identity} {version} {excerpts}{self.source.pattern} {clip.source} {clip.clip}"

    def fetch(self, clip: WantedClip, destination: Path) -> Outcome:
        """Take the clip's file out, to `destination` + extension; see `Fetcher.fetch`."""
        wanted = local_file(Path(), self.source.pattern, clip.clip, clip.source)
        if wanted is None:
            return Outcome(Status.REFUSED_ID, f"{clip.source!r} leads out of the archive", attempts=1)
        try:
            archive = self._archive(destination.parent / FOLDER)
            member = _only(archive.find(wanted.as_posix()), wanted.as_posix())
            started = time.monotonic()
            path = self._extract(archive, member, destination)
        except DownloadFailed as failure:
            outcome = outcome_of(failure)
            # What is said of the archive is nothing final of a clip: the archive may come back, or be another one.
            return replace(outcome, status=Status.MISSING) if outcome.status.final else outcome
        except ArchiveError as error:
            return Outcome(error.status, str(error), attempts=1)
        except MemberError as error:
            return Outcome(error.status, error.reason, attempts=1)
        seconds = round(time.monotonic() - started, 3)
        size = path.stat().st_size
        facts = size, sha256_of(path), 1, seconds, self.name
        return Outcome(Status.PRESENT, "", str(path), *facts, offset=offset_of(self.source, clip))

    def _archive(self, folder: Path) -> Archive:
        """The open archive. The first thread that asks brings it here; what failed is not tried again in this job."""
        with self._lock:
            if self._opened is None:
                try:
                    self._opened = self._open(folder / _digest(self._identity))
                except (ArchiveError, DownloadFailed) as error:
                    self._opened = error
            if isinstance(self._opened, Exception):
                raise self._opened
            return self._opened

    def stop(self) -> None:
        """End what is under way in other threads; they raise CancelledError, and what has come is kept."""
        self.stopped.set()

    def _open(self, folder: Path) -> Archive:
        """Bring the archive here and open it, or wait until another job has done so."""
        while True:
            with locked_if_free(folder / "lock") as free:
                if free and self.remote is None:
                    return open_archive(self._verified(folder), folder, self.source.max_archive_bytes)
                if free and self.remote is not None:
                    path = self._downloaded(self.remote, folder)
                    return open_archive(path, folder, self.source.max_archive_bytes)
            if self.stopped.wait(GLANCE):
                raise CancelledError

    def _verified(self, folder: Path) -> Path:
        """The archive on this machine, if it is the right one."""
        path = Path(self.source.path or "")
        if not path.is_file():
            raise ArchiveError(f"the archive {path} is not there")
        if self.source.sha256:
            found = path.stat()
            stamp = {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
            known = _read(folder / "verified.json")
            if {name: known.get(name) for name in stamp} != stamp:
                known = {**stamp, "sha256": sha256_of(path)}
                write_json(folder / "verified.json", known)
            self._check(known["sha256"], f"replace {path}")
        return path

    def _downloaded(self, remote: Remote, folder: Path) -> Path:
        """The archive, downloaded if it is not here."""
        path, note = folder / "archive", folder / "archive.json"
        known = _read(note)
        if not path.is_file() or path.stat().st_size != known.get("bytes"):
            arrived = self._download(remote, folder / "archive.part")
            known = {"bytes": arrived.size, "sha256": arrived.sha256, "name": self.name}
            write_json(note, known)
            arrived.move_to(path)
            if not self.source.sha256:
                _log.warning(
                    "%s: nothing vouches for the archive's content; if it is right, add `sha256: %s` to the source",
                    self.name,
                    arrived.sha256,
                )
        self._check(known["sha256"], f"delete {folder} to download it anew")
        return path

    def _download(self, remote: Remote, part: Path) -> Arrived:
        try:
            return download(remote, part, self.limits, self.stopped)
        except DownloadFailed as failure:
            if failure.kind is Failure.TOO_LARGE:
                raise ArchiveError(f"{failure.reason}; raise the source's `max_archive_bytes`") from failure
            if failure.kind is Failure.CORRUPT:
                raise ArchiveError(f"{self.name}: {failure.reason}") from failure
            raise

    def _check(self, found: str, advice: str) -> None:
        if self.source.sha256 not in (None, found):
            raise ArchiveError(
                f"{self.name}: the archive's SHA-256 is {found}, expected {self.source.sha256}; {advice}"
            )

    def _extract(self, archive: Archive, member: Member, destination: Path) -> Path:
        """Write a member, whole or not at all."""
        suffix = PurePosixPath(member.name).suffix.lower()
        path = destination.with_name(destination.name + (suffix if suffix in MEDIA_SUFFIXES else ".media"))
        part, size = destination.with_name(f".{destination.name}.unpacking.tmp"), 0
        try:
            with output_errors(part), part.open("wb") as file:
                for chunk in archive.read(member, self.source.max_bytes):
                    if self.stopped.is_set():
                        raise CancelledError
                    size += len(chunk)
                    file.write(chunk)
            if size == 0:
                raise MemberError(Status.CORRUPT, f"{member.name} is empty")
            move_whole(part, path)
        finally:
            part.unlink(missing_ok=True)
        return path


def open_archive(path: Path, folder: Path, largest: int) -> Archive:
    """Open an archive by its first bytes, whatever its name is.

    Args:
        path: of the archive.
        folder: for what is worked out once: the places of a tar's members, a packed tar unpacked. No other process may
            open the same archive with it at the same time.
        largest: bytes that a packed tar may have unpacked.

    Raises:
        ArchiveError: if it cannot be read; says why and what to do.
    """
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return ZipArchive(path)
    if head.startswith(b"Rar!\x1a\x07"):
        return RarArchive(path)
    if not head.startswith(PACKED):
        return TarArchive(path, folder / "index.parquet")
    found = path.stat()
    stamp = {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
    plain, note = folder / "unpacked.tar", folder / "unpacked.json"
    if not plain.is_file() or _read(note) != stamp:
        note.unlink(missing_ok=True)
        unpack_tar(path, head, plain, largest)
        write_json(note, stamp)
    return TarArchive(plain, folder / "index.parquet")


def _remote(source: Source) -> Remote | None:
    """Where the archive is to be had, if it is not on this machine."""
    if source.drive:
        return drive_file(source.drive, sha256=source.sha256, allow_private=source.allow_private)
    if source.url:
        return Remote(source.url, sha256=source.sha256, allow_private=source.allow_private)
    return None


def _only(found: list[Member], wanted: str) -> Member:
    """The one member that is wanted."""
    if len(found) == 1:
        return found[0]
    if not found:
        raise MemberError(Status.MISSING, f"{wanted} is not in the archive")
    names = ", ".join(sorted(member.name for member in found)[:3])
    reason = f"{len(found)} members are called {wanted} ({names}): name their folder in `pattern`"
    raise MemberError(Status.MISSING, reason)


def _read(path: Path) -> dict[str, Any]:
    """A note that this module wrote, or nothing."""
    if not path.is_file():
        return {}
    try:
        note = read_json(path)
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
