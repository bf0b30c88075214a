"""Clips in an archive. It is downloaded and unpacked once, for all jobs of the machine, and then used like a folder of files."""

import hashlib
import logging
import os
import shutil
import stat
import threading
import urllib.parse
from collections import defaultdict
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import Timeout

from avpipe.clips import Status, local_file
from avpipe.download.base import WantedClip, offset_of, outcome_of
from avpipe.download.drive import drive_file
from avpipe.download.outcome import Outcome
from avpipe.download.unpack import ArchiveError, unpack
from avpipe.files import locked, output_errors, read_json, sha256_of, write_json
from avpipe.plan.source import ArchiveSource
from avpipe.web import DownloadFailed, Limits, Remote, download

FOLDER = "archives"
"""Folder below the downloaded files: downloaded archives, and the files of all archives."""
GLANCE = 0.5
"""Seconds between two checks of `stopped` while another job unpacks."""
SECONDS = 86_400.0
"""Time limit of an archive's download, if the source gives none."""

_log = logging.getLogger(__name__)


class ArchiveFetcher:
    """Fetches clips from one archive, on this machine or on a web server.

    The folder {files}/archives/{digest}/ has `archive` (if it was downloaded; it may be deleted), `unpacked/files`, and a
    lock for jobs that need the archive at the same time.

    Args:
        source: the archive.
        remote: in place of the source's `url` or `drive`, for example with a token.
    """

    def __init__(self, source: ArchiveSource, *, remote: Remote | None = None) -> None:
        self.source = source
        self.remote = remote or _remote(source)
        seconds = source.timeout or SECONDS
        self.limits = Limits(largest=source.max_archive_bytes, seconds=seconds, attempts=20)
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._files: _Files | ArchiveError | DownloadFailed | None = None

    @property
    def name(self) -> str:
        """The kind and the host or file; no more, because a URL may contain secrets."""
        if self.remote is None:
            return f"archive {Path(self.source.path or '').name}"
        if self.source.drive:
            return "archive Google Drive"
        return f"archive {urllib.parse.urlsplit(self.remote.url).hostname}"

    def key(self, clip: WantedClip) -> None:
        """None: looking into the unpacked folder again costs nothing."""

    def fetch(self, clip: WantedClip, destination: Path) -> Outcome:
        """Give the path of the clip's file in the unpacked archive, in `destination`'s folder; nothing is copied."""
        wanted = local_file(Path(), self.source.pattern, clip.clip, clip.source)
        if wanted is None:
            return Outcome(Status.REFUSED_ID, f"{clip.source!r} leads out of the archive", attempts=1)
        try:
            files = self._unpacked(destination.parent / FOLDER)
        except DownloadFailed as failure:
            outcome = outcome_of(failure)
            # not final for a clip, because the archive may be there again later, or be replaced
            return replace(outcome, status=Status.MISSING) if outcome.status.final else outcome
        except ArchiveError as error:
            return Outcome(error.status, str(error), attempts=1)
        found = files.find(wanted.as_posix())
        if not found:
            return Outcome(Status.MISSING, f"{wanted} is not in the archive", attempts=1)
        if len(found) > 1:
            names = ", ".join(found[:3])
            reason = f"{len(found)} files are called {wanted} ({names}): name their folder in `pattern`"
            return Outcome(Status.MISSING, reason, attempts=1)
        path = files.folder / found[0]
        try:
            facts = path.stat().st_size, sha256_of(path), 1, 0.0, self.name
        except OSError as error:
            return Outcome(Status.MISSING, f"{path} cannot be read: {error.strerror}", attempts=1)
        return Outcome(Status.PRESENT, "", str(path), *facts, offset=offset_of(self.source.excerpts, clip))

    def stop(self) -> None:
        """End the work of other threads; they raise CancelledError, and the bytes that were downloaded are kept."""
        self.stopped.set()

    def _unpacked(self, archives: Path) -> "_Files":
        """The archive's files. The first thread unpacks them; after a failure, this job does not try again."""
        with self._lock:
            if self._files is None:
                identity = f"file {Path(self.source.path or '').absolute()}"
                if self.remote is not None:
                    identity = self.remote.name or self.remote.url
                folder = archives / hashlib.sha256(identity.encode()).hexdigest()[:16]
                try:
                    self._files = _Files(self._prepare(folder))
                except (ArchiveError, DownloadFailed) as error:
                    self._files = error
            if isinstance(self._files, Exception):
                raise self._files
            return self._files

    def _prepare(self, folder: Path) -> Path:
        """Unpack the archive if that was not done yet, after waiting for other jobs. Gives the folder of its files."""
        while True:
            try:
                with locked(folder / "lock", timeout=GLANCE):
                    return self._prepare_alone(folder)
            except Timeout:
                if self.stopped.is_set():
                    raise CancelledError from None

    def _prepare_alone(self, folder: Path) -> Path:
        """`_prepare` while holding the lock."""
        whole, partial, old = (folder / name for name in ("unpacked", "unpacking", "old"))
        shutil.rmtree(old, ignore_errors=True)  # left by a killed job
        shutil.rmtree(partial, ignore_errors=True)
        note = _read(whole / "archive.json")
        version = None if self.remote else self._local_version()
        right = self.source.sha256 in (None, note.get("sha256"))
        if note and note.get("version") == version and right:
            return whole / "files"
        path, digest = Path(self.source.path or ""), ""
        if self.remote:
            path, digest = folder / "archive", self._download(self.remote, folder / "archive")
        digest = digest or sha256_of(path)
        if self.source.sha256 not in (None, digest):
            where = "delete" if self.remote else "replace"
            raise ArchiveError(
                f"the archive's SHA-256 is {digest}, expected {self.source.sha256}; {where} {path} to use another one"
            )
        try:
            with output_errors(partial):
                (partial / "files").mkdir(parents=True)
            largest = self.source.max_bytes, self.source.max_archive_bytes
            unpack(path, partial / "files", *largest, self.stopped)
            write_json(partial / "archive.json", {"version": version, "sha256": digest, "name": self.name})
            os.sync()  # the files must be on the disk before their folder has its name
            with output_errors(folder):
                if whole.exists():
                    whole.rename(old)
                partial.rename(whole)
        finally:
            shutil.rmtree(old, ignore_errors=True)
            shutil.rmtree(partial, ignore_errors=True)
        if self.remote and not self.source.sha256:
            _log.warning(
                "%s: the archive's content was not checked; if it is right, add `sha256: %s` to the source",
                self.name,
                digest,
            )
        return whole / "files"

    def _local_version(self) -> list[int]:
        """Size and time of the local archive, by which a change is noticed."""
        path = Path(self.source.path or "")
        if not path.is_file():
            raise ArchiveError(f"the archive {path} is not there")
        return [path.stat().st_size, path.stat().st_mtime_ns]

    def _download(self, remote: Remote, path: Path) -> str:
        """Download the archive unless it is there. Gives its SHA-256; "" if it was there."""
        if path.is_file():
            return ""
        try:
            return download(remote, path, self.limits, self.stopped).sha256
        except DownloadFailed as failure:
            if failure.status is Status.TOO_LARGE:
                raise ArchiveError(f"{failure.reason}; raise the source's `max_archive_bytes`") from failure
            raise


def _remote(source: ArchiveSource) -> Remote | None:
    """The archive's address, if it is not on this machine."""
    if source.drive:
        return drive_file(source.drive, sha256=source.sha256, allow_private=source.allow_private)
    if source.url:
        return Remote(source.url, sha256=source.sha256, allow_private=source.allow_private)
    return None


class _Files:
    """The regular files below a folder, by name. Links are not followed, and names with control characters are ignored."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for parent, _, names in os.walk(folder):
            for name in names:
                path = f"{parent}/{name}"
                if stat.S_ISREG(os.lstat(path).st_mode) and path[len(str(folder)) :].isprintable():
                    self._by_name[name].append(path[len(str(folder)) :])

    def find(self, wanted: str) -> list[str]:
        """Paths below the folder that end with the parts of `wanted`, in order."""
        name = wanted.rpartition("/")[2]
        return sorted(path[1:] for path in self._by_name.get(name, []) if path.endswith(f"/{wanted}"))


def _read(path: Path) -> dict[str, Any]:
    """A note that this module wrote, or nothing."""
    try:
        note = read_json(path)
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}
