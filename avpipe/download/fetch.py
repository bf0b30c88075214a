"""Fetch the clips of one shard from a dataset's sources, in order, and write what became of each."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from avpipe import lazy
from avpipe.config.source import Source
from avpipe.download import FETCHERS
from avpipe.download.base import CLIP_NAME, Fetcher, WantedClip, sha256_of
from avpipe.download.outcome import Outcome, Status
from avpipe.files import output_errors, whole_file

SCHEMA = pa.schema(
    [
        ("clip", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("path", pa.string()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("attempts", pa.int64()),
        ("seconds", pa.float64()),
        ("found_in", pa.string()),
    ]
)


def fetch_shard(
    manifest: Path, shard: int, sources: Sequence[Source], out: Path, files: Path, workers: int = 8
) -> Counter[str]:
    """Fetch every clip of a shard; one row a clip, present or not.

    A source is asked only if those before it did not have the clip. Answers of sources that cost something to
    ask are kept in `files`/journal/{shard}.jsonl: a file that was downloaded, or a final refusal, is not asked
    for again, also after kill -9. Delete the journal to ask anew.

    Args:
        manifest: parquet of the manifest stage.
        shard: which shard of it.
        sources: where to look, in this order.
        out: parquet to write: columns of `SCHEMA`, rows in the manifest's order.
        files: folder for downloaded files, {clip}.{extension}.
        workers: clips fetched at once.

    Returns:
        How many clips ended with each status.

    Raises:
        OutputError: on a full disk or an unwritable folder.
        ValueError: without sources.
    """
    if not sources:
        raise ValueError("the dataset has no sources: say in the configuration where its clips can be found")
    fetchers: list[Fetcher] = [lazy.load(FETCHERS, source.kind, "source")(source) for source in sources]
    with output_errors(files):
        files.mkdir(parents=True, exist_ok=True)
    rows = []
    journal = _Journal(files, shard)
    wanted = list(wanted_clips(manifest, shard))
    with ThreadPoolExecutor(workers) as pool:
        outcomes = pool.map(lambda clip: _fetch(clip, fetchers, files, journal), wanted)
        try:
            for clip, outcome in zip(wanted, outcomes, strict=True):
                rows.append({"clip": clip.clip, **asdict(outcome), "status": outcome.status.value})
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    with whole_file(out) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), temporary)
    return Counter(row["status"] for row in rows)


def wanted_clips(manifest: Path, shard: int) -> Iterator[WantedClip]:
    """The clips of a shard, in the manifest's order of rows."""
    columns = ["clip", "source", "start", "end", "row"]
    table = pq.read_table(manifest, columns=columns, filters=[("shard", "=", shard)]).sort_by("row")
    for row in table.to_pylist():
        start, end = (math.nan if row[side] is None else row[side] for side in ("start", "end"))
        yield WantedClip(row["clip"], row["source"], start, end)


def _fetch(clip: WantedClip, fetchers: Sequence[Fetcher], files: Path, journal: "_Journal") -> Outcome:
    """Ask the sources in order until one has the clip."""
    if not CLIP_NAME.fullmatch(clip.clip):
        return Outcome(Status.REFUSED_ID, f"the name {clip.clip!r} is unsafe as a file name")
    if not clip.source:
        return Outcome(Status.REFUSED_ID, "the annotations give an id that is unsafe; issues.csv shows it")
    outcomes = []
    for fetcher in fetchers:
        key = fetcher.key(clip)
        outcome = journal.find(clip, key) if key is not None else None
        if outcome is None:
            outcome = fetcher.fetch(clip, files / clip.clip)
            if key is not None:
                journal.add(clip, key, outcome)
        if outcome.status is Status.PRESENT:
            return outcome
        outcomes.append((fetcher.name, outcome))
    return _all_failed(outcomes)


def _all_failed(outcomes: list[tuple[str, Outcome]]) -> Outcome:
    """One outcome for several sources that did not have the clip: the one that gives most hope, all reasons."""
    if len(outcomes) == 1:
        return outcomes[0][1]
    asked = [outcome for _, outcome in outcomes]
    later = [
        outcome for outcome in asked if not outcome.status.final and outcome.status is not Status.MISSING
    ]
    refused = [outcome for outcome in asked if outcome.status is not Status.MISSING]
    return replace(
        (later or refused or asked)[-1],
        reason="; ".join(f"{name}: {outcome.reason or outcome.status}" for name, outcome in outcomes),
        attempts=sum(outcome.attempts for outcome in asked),
        seconds=round(sum(outcome.seconds for outcome in asked), 3),
    )


class _Journal:
    """What was asked before, one JSON line an answer, appended as answers come.

    Paths in it are names inside `files`, so that copied results stay valid. A line cut off by a kill is ignored.
    """

    def __init__(self, files: Path, shard: int) -> None:
        self.files = files
        self.path = files / "journal" / f"{shard}.jsonl"
        self.known: dict[tuple[str, str], dict[str, Any]] = {}

        with output_errors(self.path):
            lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        for line in lines:
            try:
                answer = json.loads(line)
            except ValueError:
                continue
            self.known[answer["clip"], answer["key"]] = answer

    def find(self, clip: WantedClip, key: str) -> Outcome | None:
        """The answer to `key` if it still holds: final, and for a file, still there with the same content."""
        answer = self.known.get((clip.clip, _digest(key)))
        if answer is None:
            return None
        fields = {name: value for name, value in answer.items() if name not in ("clip", "key")}
        outcome = Outcome(**{**fields, "status": Status(answer["status"])})
        if outcome.status is not Status.PRESENT:
            return outcome if outcome.status.final else None
        path = self.files / str(outcome.path)
        if not path.is_file() or sha256_of(path) != outcome.sha256:
            return None
        return replace(outcome, path=str(path))

    def add(self, clip: WantedClip, key: str, outcome: Outcome) -> None:
        """Append an answer. Each line starts with its line break, so that a line cut off by a kill stays alone."""
        name = Path(outcome.path).name if outcome.path else None
        fields = {**asdict(outcome), "status": outcome.status.value, "path": name}
        with output_errors(self.path):
            self.path.parent.mkdir(exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps({"clip": clip.clip, "key": _digest(key), **fields}))


def _digest(key: str) -> str:
    """A key without its secrets (a URL may hold a token)."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]
