"""What was asked before, so that nothing is downloaded twice and no final refusal is asked for again."""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from avpipe.clips import Status
from avpipe.download.base import WantedClip, digest_of
from avpipe.download.outcome import Outcome
from avpipe.files import move_whole, output_errors, sha256_of
from avpipe.locking import locked_if_free
from avpipe.transfer import forget


class Journal:
    """One JSON line an answer, appended as answers come; of several to one question the last counts.

    Paths in it are names inside `files`, so that copied results stay valid. A line cut off by a kill is ignored. A file
    that came from far gets its name after its line was written: whatever a kill leaves, the two find each other.

    Args:
        files: folder of downloaded files; the journal is `files`/journal/{shard}.jsonl.
        shard: which one.
    """

    def __init__(self, files: Path, shard: int) -> None:
        self.files = files
        self.path = files / "journal" / f"{shard}.jsonl"
        self.known: dict[tuple[str, str], Outcome] = {}

    @contextmanager
    def ours(self) -> Iterator[None]:
        """Read it and hold the shard, so that no other process downloads the same clips. Raises ValueError if one does."""
        with locked_if_free(self.path.with_suffix(".lock")) as free:
            if not free:
                raise ValueError(
                    f"another process downloads the clips of {self.path.stem}: wait for it, or stop it"
                )
            self.known = dict(_answers(self.path))
            yield

    def adopt(self, clips: Collection[str]) -> None:
        """Learn what is final of these clips from other shards' journals, if this one has nothing of them.

        A study whose shards have another size asked for them there. Of several answers a file counts most.
        """
        strangers = set(clips) - {clip for clip, _ in self.known}
        if not strangers:
            return
        learned: dict[tuple[str, str], Outcome] = {}
        for path in sorted(self.path.parent.glob("*.jsonl")):
            for asked, outcome in _answers(path):
                before = learned.get(asked)
                better = before is None or before.status is not Status.PRESENT
                if asked[0] in strangers and outcome.status.final and better:
                    learned[asked] = outcome
        for asked, outcome in learned.items():
            self._write(asked, outcome)

    def asked(self, clip: WantedClip, key: str) -> bool:
        """Whether there was any answer to `key`."""
        return (clip.clip, digest_of(key)) in self.known

    def find(self, clip: WantedClip, key: str) -> Outcome | None:
        """The answer to `key` if it still holds: final, and for a file, still there with the same content."""
        outcome = self.known.get((clip.clip, digest_of(key)))
        if outcome is None or not outcome.status.final:
            return None
        if outcome.status is not Status.PRESENT:
            return outcome
        path = self.files / str(outcome.path)
        part = self.files / outcome.part if outcome.part else None
        if not _is(path, outcome.sha256):
            if part is None or not _is(part, outcome.sha256):
                return None
            move_whole(part, path)
        if part:
            forget(part)
        return replace(outcome, path=str(path), part=None)

    def add(self, clip: WantedClip, key: str, outcome: Outcome) -> Outcome:
        """Append an answer, and give it with the attempts and seconds of all before it; its file gets its name.

        Each line starts with its line break, so that a line cut off by a kill stays alone. What was not asked (no
        attempt) is no answer and is not kept.
        """
        digest = digest_of(key)
        before = self.known.get((clip.clip, digest), Outcome(outcome.status))
        if not outcome.attempts:
            return replace(outcome, attempts=before.attempts, seconds=before.seconds)
        seconds = round(before.seconds + outcome.seconds, 3)
        outcome = replace(outcome, attempts=before.attempts + outcome.attempts, seconds=seconds)
        path, part = (Path(name).name if name else None for name in (outcome.path, outcome.part))
        self._write((clip.clip, digest), replace(outcome, path=path, part=part))
        if outcome.path and outcome.part:
            move_whole(Path(outcome.part), Path(outcome.path))
            forget(Path(outcome.part))
        return replace(outcome, part=None)

    def _write(self, asked: tuple[str, str], outcome: Outcome) -> None:
        """Append a line: clip and key's digest, and the outcome with names for paths."""
        self.known[asked] = outcome
        line = {"clip": asked[0], "key": asked[1], **asdict(outcome), "status": outcome.status.value}
        with output_errors(self.path):
            self.path.parent.mkdir(exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps(line))


def _is(path: Path, sha256: str | None) -> bool:
    return path.is_file() and sha256_of(path) == sha256


def _answers(path: Path) -> Iterator[tuple[tuple[str, str], Outcome]]:
    """Clip and key, and the answer, of each line that can be read, in their order."""
    with output_errors(path):
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in lines:
        try:
            answer = json.loads(line)
            yield (answer.pop("clip"), answer.pop("key")), _outcome(answer)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue


def _outcome(answer: dict[str, Any]) -> Outcome:
    """An outcome as a line of the journal has it, which an earlier version may have written."""
    known = {field.name for field in fields(Outcome)}
    if not known.issuperset(answer):
        raise ValueError
    return Outcome(**{**answer, "status": Status(answer["status"])})
