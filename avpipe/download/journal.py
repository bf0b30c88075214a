"""Results of earlier runs: a note beside each downloaded file, and a journal of refusals."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import Timeout

from avpipe.clips import Status
from avpipe.download.base import WantedClip
from avpipe.download.outcome import Outcome
from avpipe.files import locked, output_errors, sha256_of, write_json


@dataclass(frozen=True)
class Note:
    """{clip}.json beside a file: the proof that the file is whole, for it is written after the file has its name.

    Args:
        key: digest of the key under which the file was asked for.
        outcome: with the file's path.
    """

    key: str
    outcome: Outcome

    def holds(self) -> bool:
        """Whether the file is unchanged since it was downloaded."""
        path = Path(str(self.outcome.path))
        if not path.is_file() or path.stat().st_size != self.outcome.bytes:
            return False
        return sha256_of(path) == self.outcome.sha256

    def write(self, files: Path, clip: WantedClip) -> None:
        """Write the note. It has the file's name without folders, so that results can be moved."""
        facts = asdict(self.outcome) | {"path": Path(str(self.outcome.path)).name, "source": clip.source}
        write_json(files / f"{clip.clip}.json", {**facts, "key": self.key})


def read_note(files: Path, clip: WantedClip) -> Note | None:
    """The note of a clip's file, if there is one that can be read."""
    try:
        found = json.loads((files / f"{clip.clip}.json").read_text(encoding="utf-8"))
        return Note(str(found.pop("key")), replace(_outcome(found), path=str(files / found["path"])))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


class Journal:
    """The refusals of one shard, one JSON line each. If several lines have the same clip and key, the last one counts.

    Args:
        files: folder of downloaded files; the journal is `files`/journal/{shard}.jsonl.
        shard: its number.

    Attributes:
        refusals: clip and digest of the key -> the outcome.
    """

    def __init__(self, files: Path, shard: int) -> None:
        self.path = files / "journal" / f"{shard}.jsonl"
        self.refusals: dict[tuple[str, str], Outcome] = {}

    @contextmanager
    def ours(self) -> Iterator[None]:
        """Read it and hold the shard, so that no other process downloads the same clips. Raises ValueError if one does."""
        try:
            lock = locked(self.path.with_suffix(".lock"), timeout=0)
        except Timeout:
            raise ValueError(
                f"another process downloads the clips of shard {self.path.stem}: wait for it, or stop it"
            ) from None
        with lock:
            for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
                try:
                    found = json.loads(line)
                    asked = found.pop("clip"), found.pop("key")
                    self.refusals[asked] = _outcome(found)
                except (ValueError, TypeError, KeyError, AttributeError):  # cut off by a kill
                    continue
            yield

    def add(self, clip: WantedClip, key: str, outcome: Outcome) -> None:
        """Append a refusal, unless no source was asked.

        Each line starts with its line break, so that a line cut off by a kill does not spoil the next.
        """
        if outcome.attempts:
            self.refusals[clip.clip, key] = outcome
            line = {"clip": clip.clip, "key": key, "status": outcome.status, "reason": outcome.reason}
            with output_errors(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps(line | {"attempts": outcome.attempts}))


def _outcome(facts: dict[str, Any]) -> Outcome:
    """An outcome as it stands in a file. Raises ValueError, TypeError or KeyError for anything else."""
    facts = {name: value for name, value in facts.items() if name != "source"}
    return Outcome(**{**facts, "status": Status(facts["status"])})
