"""Any folder of videos: every file below it with the extension of a video or audio container, in windows of fixed length.

A file that is at most half a second longer than a window is one clip. A longer file becomes several clips: windows that
begin every `stride` seconds. The last one is shifted so that it ends with the file; a rest of less than half a second is
left out. How long a file is, is read from its header and checked against its packets (`avpipe.clips.stream_ends`); a
file that cannot be opened is one clip, and converting it says why.

A clip's name is its path with `~` for `/` and before the extension, and `_` for other characters than letters, digits, `-`
and `_`: `my talks/day 1.mp4` becomes `my_talks~day_1~mp4`. The first ten digits of the path's SHA-256 follow where two files
would have one name (`day 1.mp4` beside `day_1.mp4`, which keeps its name), and where a path has over 100 characters or no
readable one. So a name stays the same when other files come and go, except such twins. A window's name ends with the second at
which it begins: `talk~mp4~w0050` begins at 50 s, `talk~mp4~w0054_300` at 54.3 s. The `source` is the path itself,
relative to the folder.

Symbolic links are followed, to files and to folders; each real folder is entered once. Hidden folders and the results
(`list_files`) are left out. The split is "none"; there are no
events and no categories.

Issue codes: `ignored_files` (one issue with counts by extension), `ignored_folders`, `broken_link`, `unreadable_folder`, `refused_id` (a
file name that is not UTF-8: the clip is listed, its source is ""), `shifted_window`,
`wrong_length` (the header says that the file is longer than what can be read of it).
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from avpipe.clips import MEDIA_SUFFIXES, Ends, stream_ends
from avpipe.datasets.base import AnnotationError, Annotations, Issue, digest_of
from avpipe.datasets.manifest import list_files

REST = 0.5  # seconds at the end of a file that are worth a window of their own
SLACK = 0.05  # seconds that a file may lack for its last window without that being shifted
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(/[A-Za-z0-9_-]+)*\.[A-Za-z0-9]+")
_LONGEST = 100
_LONGEST_WITH_WINDOW = 128  # as avpipe.datasets.base.CLIP_NAME allows
_READERS = 8  # files whose length is read at a time


def read_folder(annotations: Path, *, window: float = 10.0, stride: float = 10.0) -> Annotations:
    """List the video and audio files below the folder `annotations`, sorted by path.

    Args:
        annotations: the folder.
        window: length of a clip, seconds; 0: each file is one clip, whatever its length.
        stride: seconds from the begin of one window to the begin of the next.

    Raises:
        AnnotationError: if it is no folder, cannot be read, or has no such file; or for a negative window, or a stride
            that is not positive.
    """
    if window < 0 or stride <= 0:
        raise AnnotationError(
            f"window is 0 or more seconds and stride more than 0, not {window:g} and {stride:g}"
        )
    if not annotations.is_dir():
        raise AnnotationError(f"{annotations} is not a folder; expected the folder of videos")
    try:
        listing = list_files(annotations)
    except OSError as error:
        raise AnnotationError(f"cannot list {annotations}: {error.strerror}; make it readable") from error
    issues: list[Issue] = [
        ("unreadable_folder", "", f"{folder!r} cannot be listed: {why}; its files are left out")
        for folder, why in sorted(listing.closed.items())
    ]
    if listing.skipped:
        named = ", ".join(map(repr, sorted(listing.skipped)[:20]))
        issues.append(("ignored_folders", "", f"results and hidden folders are not read: {named}"))
    ignored: Counter[str] = Counter()
    names = []
    for relative, state in sorted(listing.files.items()):
        extension = _extension(relative)
        if relative.rpartition("/")[2].startswith(
            "._"
        ):  # what macOS keeps beside a file on other systems' disks
            ignored["._*"] += 1
        elif f".{extension}" not in MEDIA_SUFFIXES:
            ignored[f".{extension}" if extension else "no extension"] += 1
        elif state is None:
            target = str((annotations / relative).readlink()) if relative in listing.links else "?"
            issues.append(("broken_link", "", f"{relative!r} links to {target!r}; left out"))
        else:
            names.append(relative)
    if ignored:
        counts = ", ".join(f"{count} {extension}" for extension, count in ignored.most_common(20))
        message = f"{ignored.total()} files are neither video nor audio: {counts!a}"
        issues.append(("ignored_files", "", message))
    if not names:
        known = " ".join(sorted(suffix[1:] for suffix in MEDIA_SUFFIXES))
        raise AnnotationError(
            f"{annotations} has no video or audio file (extensions: {known}); other files: {ignored.total()}"
        )
    clips = []
    lengths = _lengths(annotations, names, window)
    for relative, name, ends in zip(names, clip_names(names), lengths, strict=True):
        source = relative
        if re.search("[\ud800-\udfff]", relative):  # Python's stand-ins for bytes that are not UTF-8
            issues.append(("refused_id", name, f"{relative!r} is not UTF-8; rename the file"))
            source, ends = "", Ends({})
        clips += _windows(name, source, ends.longest, window, stride)
        issues += _remarks(name, ends, clips[-1], stride)
    return Annotations.from_rows((), clips, (), issues)


def _lengths(folder: Path, names: Sequence[str], window: float) -> Iterator[Ends]:
    """How long each file is; without a stream if that is not asked for, or the file cannot be opened."""

    def read(relative: str) -> Ends:
        try:
            return stream_ends(folder / relative)
        except (OSError, ValueError, OverflowError):  # PyAV's errors are among them
            return Ends({})

    if not window:
        return iter([Ends({})] * len(names))
    with ThreadPoolExecutor(min(_READERS, 2 * (os.cpu_count() or 1))) as pool:
        return pool.map(read, names)


_Clip = tuple[str, str, str, float, float]  # clip, split, source, start, end


def _windows(name: str, source: str, length: float, window: float, stride: float) -> list[_Clip]:
    """The clips of a file: its windows, or the file itself."""
    if not window or length < window + REST:
        return [(name, "none", source, float("nan"), float("nan"))]
    starts: list[float] = []
    while (start := len(starts) * stride) < length:
        if start + window > length + SLACK:
            covered = starts[-1] + window
            if length - max(covered, start) >= REST:
                starts.append(round(length - window, 3))
            break
        starts.append(round(start, 3))
    return [(window_name(name, start), "none", source, start, start + window) for start in starts]


def window_name(name: str, start: float) -> str:
    """The name of the window of the clip `name` that begins at `start` seconds; its end from `~w` on tells the second."""
    seconds, thousandths = divmod(round(1000 * start), 1000)
    suffix = f"~w{seconds:04d}" + (f"_{thousandths:03d}" if thousandths else "")
    return f"{name[-(_LONGEST_WITH_WINDOW - len(suffix)) :].lstrip('-')}{suffix}"


def _remarks(name: str, ends: Ends, last: _Clip, stride: float) -> Iterator[Issue]:
    """What is worth knowing of a file's windows."""
    clip, _, _, start, end = last
    if ends.claimed - ends.longest > 1:
        message = f"the header says {ends.claimed:.2f} s, {ends.longest:.2f} s can be read"
        yield "wrong_length", name, message
    if start % stride > 1e-6 and stride - start % stride > 1e-6:
        yield "shifted_window", clip, f"begins at {start:g} s, so that it ends with the file, at {end:g} s"


def clip_names(paths: Sequence[str]) -> list[str]:
    """The clip names of relative paths with `/` between their parts and a known extension; they differ as the paths do."""
    readable = [_readable_name(path) for path in paths]
    taken = Counter(readable)
    names = []
    for path, name in zip(paths, readable, strict=True):
        stem = name.rpartition("~")[0]
        if (not _PLAIN.fullmatch(path) and (taken[name] > 1 or not stem)) or len(stem) > _LONGEST:
            name = f"{stem[-_LONGEST:].strip('_-~') or 'clip'}~{_extension(path)}~{digest_of(path)[:10]}"
        names.append(name)
    return names


def _readable_name(path: str) -> str:
    """The path in characters that are safe in a clip's name; other paths may have the same."""
    if _PLAIN.fullmatch(path):
        return path.replace("/", "~").replace(".", "~")
    parts = [re.sub(r"[^A-Za-z0-9-]+", "_", part).strip("_-") for part in path.rpartition(".")[0].split("/")]
    return "~".join([*filter(None, parts), _extension(path)])


def _extension(relative: str) -> str:
    """The part after the last dot of the file's name, in lower case; "" without a dot."""
    name = relative.rpartition("/")[2]
    return name.rpartition(".")[2].lower() if "." in name else ""
