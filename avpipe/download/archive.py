"""Clips out of one archive: brought here and unpacked once for all jobs of the machine, then a folder of files."""

import hashlib
import logging
import os
import shutil
import threading
import urllib.parse
from collections import defaultdict
from collections.abc import Iterator
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
"""Below the folder of downloaded files: an archive that was downloaded, and the files of any archive."""
GLANCE = 0.5
"""Seconds between looks whether this job was told to stop while another one unpacks."""
SECONDS = 86_400.0
"""Time limit of the download of an archive, where the source gives none."""

_log = logging.getLogger(__name__)


class ArchiveFetcher:
    """Files of one archive that is on this machine or behind http(s).

    In {files}/archives/{digest}/ lie `archive` (if it was downloaded; it may be deleted), `unpacked/files`, and a lock for
    the jobs that want it at the same time.

    Args:
        source: the archive.
        remote: instead of the source's `url` or `drive`, for example with a token.
        limits: of the download; default: the source's.
    """

    def __init__(
        self, source: ArchiveSource, *, remote: Remote | None = None, limits: Limits | None = None
    ) -> None:
        self.source = source
        self.remote = remote or _remote(source)
        self.limits = limits or Limits(largest=source.max_archive_bytes, seconds=source.timeout or SECONDS)
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._files: _Files | ArchiveError | DownloadFailed | None = None

    @property
    def name(self) -> str:
        """The kind and the host or file, without what a URL may carry of secrets."""
        if self.remote is None:
            return f"archive {Path(self.source.path or '').name}"
        if self.source.drive:
            return "archive Google Drive"
        return f"archive {urllib.parse.urlsplit(self.remote.url).hostname}"

    def key(self, clip: WantedClip) -> None:
        """Looking into the unpacked folder again costs nothing."""

    def fetch(self, clip: WantedClip, destination: Path) -> Outcome:
        """Point to the clip's file in the unpacked archive, which lies in `destination`'s folder; nothing is copied."""
        wanted = local_file(Path(), self.source.pattern, clip.clip, clip.source)
        if wanted is None:
            return Outcome(Status.REFUSED_ID, f"{clip.source!r} leads out of the archive", attempts=1)
        try:
            files = self._unpacked(destination.parent / FOLDER)
        except DownloadFailed as failure:
            outcome = outcome_of(failure)
            # nothing final is known of a clip: the archive may come back, or be another one
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
        """The archive's files. The first thread that asks unpacks it; a failure is not tried again in this job."""
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
        """The folder of the archive's files; unpacks it, or waits until another job has done so."""
        while True:
            try:
                with locked(folder / "lock", timeout=GLANCE):
                    return self._prepare_alone(folder)
            except Timeout:
                if self.stopped.is_set():
                    raise CancelledError from None

    def _prepare_alone(self, folder: Path) -> Path:
        """As `_prepare`, while no other job or thread does so."""
        whole, partial, old = (folder / name for name in ("unpacked", "unpacking", "old"))
        shutil.rmtree(old, ignore_errors=True)  # what a kill left
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
                "%s: nothing vouches for the archive's content; if it is right, add `sha256: %s` to the source",
                self.name,
                digest,
            )
        return whole / "files"

    def _local_version(self) -> list[int]:
        """What tells whether an archive on this machine is still the same."""
        path = Path(self.source.path or "")
        if not path.is_file():
            raise ArchiveError(f"the archive {path} is not there")
        return [path.stat().st_size, path.stat().st_mtime_ns]

    def _download(self, remote: Remote, path: Path) -> str:
        """Download the archive if it is not here. Gives its SHA-256; "" if it was here."""
        if path.is_file():
            return ""
        try:
            return download(remote, path, self.limits, self.stopped).sha256
        except DownloadFailed as failure:
            if failure.status is Status.TOO_LARGE:
                raise ArchiveError(f"{failure.reason}; raise the source's `max_archive_bytes`") from failure
            raise


def _remote(source: ArchiveSource) -> Remote | None:
    """Where the archive is to be had, if it is not on this machine."""
    if source.drive:
        return drive_file(source.drive, sha256=source.sha256, allow_private=source.allow_private)
    if source.url:
        return Remote(source.url, sha256=source.sha256, allow_private=source.allow_private)
    return None


class _Files:
    """The regular files below a folder, by name. No link is followed; names with control characters do not count."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in _regular_files(str(folder)):
            relative = path[len(str(folder)) :]
            if relative.isprintable():
                self._by_name[relative.rpartition("/")[2]].append(relative)

    def find(self, wanted: str) -> list[str]:
        """Paths below the folder that end with the parts of `wanted`, in order."""
        name = wanted.rpartition("/")[2]
        return sorted(path[1:] for path in self._by_name.get(name, []) if path.endswith(f"/{wanted}"))


def _regular_files(folder: str) -> Iterator[str]:
    folders = [folder]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield entry.path


def _read(path: Path) -> dict[str, Any]:
    """A note that this module wrote, or nothing."""
    try:
        note = read_json(path)
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}
