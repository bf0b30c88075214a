"""Members of a rar archive, by a program of this machine (Python's libraries for the format call one too)."""

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from avpipe.clips import Status
from avpipe.download.members import (
    CHUNK,
    ArchiveError,
    Contents,
    Member,
    MemberError,
    clean_name,
    growth_limit,
)

LIST_SECONDS, READ_SECONDS = 600.0, 600.0
_PATTERN = re.compile(r"[*?\[\]{}\\]")


@dataclass(frozen=True)
class Tool:
    """A program that reads rar files.

    Args:
        name: of the program.
        listing: arguments before the archive that print one name a line.
        reading: arguments before the archive and the member that write the member to standard output.
        prefix: what a line with a name begins with.
    """

    name: str
    listing: tuple[str, ...]
    reading: tuple[str, ...]
    prefix: str = ""


TOOLS = (
    Tool("unrar", ("lb", "-p-", "--"), ("p", "-inul", "-p-", "--")),
    Tool("bsdtar", ("-tf",), ("-xOf",)),
    Tool("7zz", ("l", "-slt", "-ba", "-p-", "--"), ("e", "-so", "-spd", "-p-", "--"), "Path = "),
    Tool("7z", ("l", "-slt", "-ba", "-p-", "--"), ("e", "-so", "-spd", "-p-", "--"), "Path = "),
)


class RarArchive:
    """A rar file, read by the first of `TOOLS` that is there.

    Raises:
        ArchiveError: if there is none, or it cannot read the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        found = ((tool, shutil.which(tool.name)) for tool in TOOLS)
        self._tool, self._program = next(((t, p) for t, p in found if p), (TOOLS[0], ""))
        if not self._program:
            names = ", ".join(tool.name for tool in TOOLS)
            reason = f"{path} is a rar file: install one of {names}, or pack it anew as zip or tar"
            raise ArchiveError(reason, Status.NO_TOOL)
        self._left = growth_limit(path.stat().st_size)
        self._contents = Contents(Member(name, raw, None) for raw in self._list() if (name := _ordinary(raw)))

    def _list(self) -> list[str]:
        command = [self._program, *self._tool.listing, str(self.path.absolute())]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIST_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise ArchiveError(f"{self.path}: {self._tool.name} did not list it in time") from None
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip()[-200:]
            raise ArchiveError(f"{self.path}: {self._tool.name} cannot read it ({said}): fetch it anew")
        lines = done.stdout.decode("utf-8", "replace").splitlines()
        prefix = self._tool.prefix
        return [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]

    def find(self, wanted: str) -> list[Member]:
        """As `Archive.find`."""
        return self._contents.find(wanted)

    def read(self, member: Member, largest: int) -> Iterator[bytes]:
        """As `Archive.read`; the program checks the checksum."""
        command = [self._program, *self._tool.reading, str(self.path.absolute()), member.place]
        size, late = 0, threading.Event()
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:

            def stop() -> None:
                late.set()
                process.kill()

            timer = threading.Timer(READ_SECONDS, stop)
            timer.start()
            try:
                assert process.stdout is not None
                while chunk := process.stdout.read(CHUNK):
                    size += len(chunk)
                    self._left -= len(chunk)
                    if size > largest or self._left < 0:
                        raise MemberError(
                            Status.TOO_LARGE, f"{member.name} unpacks to more than {size} bytes"
                        )
                    yield chunk
                code = process.wait()
            finally:
                timer.cancel()
                process.kill()
        if late.is_set():
            raise MemberError(Status.TIMED_OUT, f"{self._tool.name} did not unpack {member.name} in time")
        if code or not size:
            reason = f"{self._tool.name} cannot unpack {member.name} (damaged or encrypted; status {code})"
            raise MemberError(Status.CORRUPT, reason)


def _ordinary(raw: str) -> str | None:
    """The cleaned name; none where the program would take it for a pattern, an option or a list of names."""
    return None if _PATTERN.search(raw) or raw.startswith(("-", "@")) else clean_name(raw)
