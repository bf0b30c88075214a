"""What every stage knows of a clip: its name, its row in every array, where its file may lie, its length, and its status."""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.container import InputContainer

from avpipe.files import read_json, sha256_of

CLIP_NAME = r"[A-Za-z0-9_-][A-Za-z0-9_~-]{0,127}"
"""Pattern of a clip's whole name: safe in a path, and without a dot, at which a WebDataset key would end."""

# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".264", ".265", ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".evo", ".f4v", ".flv", ".h264", ".h265", ".hevc", ".ivf", ".lrv",
    ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mj2", ".mjpeg", ".mjpg", ".mk3d", ".mkv", ".mod", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg",
    ".mpv", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".ogx", ".qt", ".rm", ".rmvb", ".tod", ".tp", ".trp", ".ts", ".vob", ".webm", ".wmv",
    ".y4m",
))
AUDIO_SUFFIXES = frozenset((
    ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".ape", ".au", ".caf", ".ec3", ".eac3", ".flac", ".m4a", ".m4b", ".mka", ".mp2",
    ".mp3", ".mpa", ".oga", ".ogg", ".opus", ".ra", ".snd", ".spx", ".tta", ".w64", ".wav", ".weba", ".wma", ".wv",
))
# fmt: on
MEDIA_SUFFIXES = VIDEO_SUFFIXES | AUDIO_SUFFIXES
"""Names of files that may be clips. A downloaded file keeps such an extension (ffmpeg looks at the content anyway)."""

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,mpeg,mpegts,mpegvideo,asf,ogg,rm,dv,mxf,nut,ivf,"
    "h264,hevc,m4v,mjpeg,yuv4mpegpipe,mp3,wav,w64,flac,aac,ac3,eac3,aiff,caf,amr,ape,au,wv,tta"
)
"""Container formats that are opened. Not among them: still images, and playlists and scripts (hls, concat, dash, ...), with
which ffmpeg would read other files.
"""
PROTOCOLS = "file,pipe"
OPENING = {"protocol_whitelist": PROTOCOLS, "format_whitelist": CONTAINERS}
"""ffmpeg's options for opening a file that nobody has checked."""

INDEXED = frozenset(("mp4", "matroska", "avi", "wav", "flac"))
"""Containers in which seeking finds the key frame before a time. In others it may land before or after it."""
_TIMED = INDEXED | {"ogg", "asf", "flv"}  # with a length in the header, and true times after a seek
_DISCONTINUOUS = frozenset(("mpegts", "mpeg"))  # time stamps may start again where recordings were joined
_TAIL = 1.0  # seconds before the end that are read to check the header
_FEWEST_BYTES = 10  # a second; a file with fewer has a wrong time stamp

ROWS_FILE = "rows.csv"
"""Clip names in row order (line n + 2 = row n). Rows are appended, never renumbered."""


class Status(StrEnum):
    """Why a clip is there, or why not.

    `final` tells whether asking again is pointless: a deleted video stays deleted, a busy server does not stay
    busy. `meaning` is one sentence for the reader of a table.
    """

    final: bool
    meaning: str

    def __new__(cls, value: str, final: bool = True, meaning: str = "") -> "Status":
        member = str.__new__(cls, value)
        member._value_, member.final, member.meaning = value, final, meaning
        return member

    PRESENT = "present", True, "The clip is there, with audio and video."
    NO_AUDIO = (
        "no_audio",
        True,
        "The file has no audio that can be decoded in the clip's interval; its video is there.",
    )
    NO_VIDEO = (
        "no_video",
        True,
        "The file has no video that can be decoded in the clip's interval; its audio is there.",
    )
    TOO_SHORT = (
        "too_short",
        True,
        "The file ends before the clip's interval begins, or has next to nothing in it.",
    )
    CORRUPT = (
        "corrupt",
        True,
        "The file is not a media file, or a good part of the interval cannot be decoded.",
    )
    MISSING = "missing", False, "No source has a file for the clip."
    UNAVAILABLE = "unavailable", True, "The source says that the clip does not exist, or no longer."
    WEB_PAGE = (
        "web_page",
        False,
        "The source sent a web page in place of the file: a check, a sign-in, or an address that is wrong.",
    )
    PRIVATE = "private", True, "The source has the clip, but does not show it to us."
    AGE_BLOCKED = "age_blocked", True, "The source asks for a signed-in adult."
    REGION_BLOCKED = "region_blocked", True, "The source does not show the clip in this country."
    BOT_CHECK = (
        "bot_check",
        False,
        "The source takes us for a robot; it may answer later or from another address.",
    )
    RATE_LIMITED = "rate_limited", False, "We asked the source too often; it will answer later."
    NOT_YET = "not_yet", False, "The source will have the clip later: a premiere, or a stream still running."
    NETWORK_ERROR = "network_error", False, "The connection or the server failed."
    TIMED_OUT = "timed_out", False, "The work took longer than allowed."
    TOO_LARGE = "too_large", True, "The file is larger than allowed."
    REFUSED_ID = (
        "refused_id",
        True,
        "The clip's id is unsafe as a file name or leads out of the source's folder.",
    )
    NOT_FETCHED = (
        "not_fetched",
        False,
        "No source was asked: all features of the study are imported.",
    )
    REFUSED_URL = "refused_url", True, "The source sent us to an address that we do not open."
    NO_TOOL = (
        "no_tool",
        False,
        "A program that the source needs is missing or too old; avpipe doctor says which.",
    )
    EXCLUDED = "excluded", True, "The clip could be used, but the study's frozen list leaves it out."

    @property
    def in_shard(self) -> bool:
        """Whether the clip, or the modality that it has, is in the tar of canonical clips."""
        return self in (Status.PRESENT, Status.NO_AUDIO, Status.NO_VIDEO)

    @property
    def usable(self) -> bool:
        """Whether a clip can have features; those of a clip that was not fetched may be imported."""
        return self.in_shard or self == Status.NOT_FETCHED


def local_file(root: Path, pattern: str, clip: str, source: str) -> Path | None:
    """Where the file of a clip would lie below `root`, or None if it must not be asked for.

    None: the pattern wants a source that was refused (""), or the result would leave `root` (an absolute path, `..`, a
    NUL). Links are followed: whoever put them below `root` meant them.

    Args:
        root: the source's folder.
        pattern: path below it with {source} or {clip} in it.
        clip: the clip's name.
        source: its id in the source, or its path relative to the folder.

    Raises:
        ValueError: for a pattern with other fields, an absolute one, or one with `..`.
    """
    relative = relative_path(pattern, clip, source)
    return None if relative is None else root / relative


def relative_path(pattern: str, clip: str, source: str) -> str | None:
    """The path below a source's folder, or None, as in `local_file`."""
    if check_pattern(pattern) and not source:
        return None
    relative = pattern.format(source=source, clip=clip)
    unsafe = (
        relative.startswith("/") or "\0" in relative or (".." in relative and ".." in relative.split("/"))
    )
    return None if unsafe else relative


@cache
def check_pattern(pattern: str) -> bool:
    """Whether a source's pattern has {source} in it. Raises ValueError if it is not one that `local_file` takes."""
    try:
        parts = list(Formatter().parse(pattern))
    except ValueError as error:
        raise ValueError(f"pattern {pattern!r}: {error}; write {{source}} or {{clip}}") from error
    fields = [name for _, name, _, _ in parts if name is not None]
    plain = all(not spec and not conversion for _, _, spec, conversion in parts)
    if not fields or not set(fields) <= {"source", "clip"} or not plain:
        raise ValueError(f"pattern {pattern!r}: needs {{source}} or {{clip}}, and may have no other {{...}}")
    if pattern.startswith("/") or ".." in pattern.split("/"):
        raise ValueError(
            f"pattern {pattern!r}: is below the source's folder, so it has no leading / and no .."
        )
    return "source" in fields


def manifest_file(results: Path, name: str) -> Path:
    """The path of a file that was written together with manifest.json: rows.csv, events.parquet or categories.csv.

    Raises:
        ValueError: if the file is damaged: manifest.json has another SHA-256 of it.
    """
    path, index = results / name, results / "manifest.json"
    expected = read_json(index).get("sha256", {}).get(name) if index.is_file() else None
    if expected and sha256_of(path) != expected:
        raise ValueError(
            f"{path} is damaged: its SHA-256 is not the one in {index}. Restore it from a copy, or delete {index} and run "
            "again: the manifest is then made anew"
        )
    return path


def manifest_digest(results: Path) -> str | None:
    """Sixteen hex digits that change with the clips, their local files or their labels; None without manifest.json."""
    index = results / "manifest.json"
    if not index.is_file():
        return None
    parts = {name: value for name, value in read_json(index).items() if name in ("shards", "labels")}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class RowsError(ValueError):
    """rows.csv is not what avpipe wrote; going on would renumber the clips of features that exist."""


def read_rows(path: Path) -> list[str]:
    """The clip of each row, from `rows.csv`; an empty list if there is no such file.

    Raises:
        RowsError: if the last line is cut off, the header is another, or a name is repeated or impossible.
    """
    if not path.exists():
        return []
    header, *clips = path.read_text(encoding="utf-8", errors="replace").split("\n")
    advice = (
        "restore it from a copy; or, to start anew, delete it together with the manifest, the segments and the "
        "features beside it, because their rows would get other numbers"
    )
    if header != "clip" or not clips or clips.pop() != "":
        raise RowsError(f"{path} is cut off or not written by avpipe: {advice}")
    for number, clip in enumerate(clips, start=2):
        if not re.fullmatch(r"[A-Za-z0-9_~-]+", clip):
            raise RowsError(f"{path}, line {number}: {clip!r} is no clip's name: {advice}")
    if len(set(clips)) != len(clips):
        twice = Counter(clips).most_common(1)[0][0]
        raise RowsError(f"{path}: {twice!r} has two rows: {advice}")
    return clips


def noisy_clip(row: int) -> str:
    """The clip name of row `row` of AVE's noisy set, whose YouTube ids are lost."""
    return f"noisy~{row}"


@dataclass(frozen=True)
class Ends:
    """Where the streams of a file end.

    Args:
        seconds: index of a video or audio stream -> where its last packet ends, on the file's time axis, which begins
            with the first stream. Streams without a packet are left out.
        claimed: the file's length by its header; NaN for formats whose header does not tell it.
        joined: whether time stamps start again in the middle.
    """

    seconds: dict[int, float]
    claimed: float = math.nan
    joined: bool = False

    @property
    def longest(self) -> float:
        """Seconds of the longest stream; 0 without a packet."""
        return max(self.seconds.values(), default=0.0)


def stream_ends(path: Path, *, each: bool = False) -> Ends:
    """Where the streams of a file end, by its packets; nothing is decoded.

    The header is believed if the file has packets where the header says that it ends; only the last second is read then.
    All packets are read if the header is wrong or says nothing, or if time stamps may start again.

    Args:
        path: a media file; nothing in it is trusted.
        each: read all packets also if a stream has none in the last second.

    Raises:
        av.FFmpegError, ValueError: if the file cannot be opened.
    """
    import av

    with av.open(f"file:{path}", metadata_errors="replace", options=OPENING) as container:
        names = set(container.format.name.split(","))
        header = container.duration / av.time_base if container.duration else math.nan
        claimed = header if names & _TIMED else math.nan
        if claimed > 2 * _TAIL:
            try:
                container.seek(round((header - _TAIL) * av.time_base) + (container.start_time or 0))
                found = _read_packets(container, joined=False)
            except (av.FFmpegError, OverflowError):
                found = Ends({})
            whole = len(found.seconds) == len(_streams(container)) or not each
            if found.longest >= header - _TAIL and whole and _plausible(found, path):
                return Ends(found.seconds, claimed)
    with av.open(f"file:{path}", metadata_errors="replace", options=OPENING) as container:
        found = _read_packets(container, joined=bool(names & _DISCONTINUOUS))
    return Ends(found.seconds if _plausible(found, path) else {}, claimed, found.joined)


def _plausible(found: Ends, path: Path) -> bool:
    return found.longest * _FEWEST_BYTES <= path.stat().st_size


def _streams(container: "InputContainer") -> list[int]:
    """Indices of the video and audio streams, without cover art."""
    from av.stream import Disposition

    streams = [*container.streams.video, *container.streams.audio]
    return [stream.index for stream in streams if not stream.disposition & Disposition.attached_pic]


def _read_packets(container: "InputContainer", *, joined: bool) -> Ends:
    """Read the packets from here to the end of the file, or to where it cannot be read.

    Args:
        container: an open file.
        joined: let time go on where time stamps start again, as ffmpeg does: after a jump of over 10 s, or back.
    """
    import av

    origin = (container.start_time or 0) / av.time_base
    ends: dict[int, float] = {}
    last: dict[int, float] = {}
    shift: dict[int, float] = {}
    jumped = False
    try:
        packets: Iterable[av.Packet] = container.demux(_streams(container))
        for packet in packets:
            if not packet.size or packet.time_base is None:
                continue
            index, unit = packet.stream.index, float(packet.time_base)
            end = ends.get(index, 0.0)
            if packet.pts is None and packet.dts is None:
                ends[index] = end + (packet.duration or 0) * unit
                continue
            decoded = (packet.dts if packet.dts is not None else packet.pts or 0) * unit
            shown = (packet.pts if packet.pts is not None else packet.dts or 0) * unit
            if joined and index in last and not -0.1 <= decoded - last[index] <= 10:
                shift[index] = end + origin - decoded
                jumped = True
            last[index] = decoded
            ends[index] = max(end, shown + shift.get(index, 0.0) - origin + (packet.duration or 0) * unit)
    except (av.FFmpegError, OverflowError):
        pass  # what was read until here counts
    return Ends(ends, joined=jumped)
