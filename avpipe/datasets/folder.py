"""Any folder of videos: every file below it with the extension of a video or audio container is a clip.

A clip's name depends on its own path only, so it stays the same when other files come and go: `edge/rotated.mov`
becomes `edge~rotated~mov`. If that would be unsafe or ambiguous (spaces, other letters, further dots, a leading dash,
over 100 characters), the name is the end of the path with such characters replaced by `_`, the extension, and the first
ten digits of the path's SHA-256: `-rf.mp4` becomes `rf~mp4~` and ten digits. The `source` is the path itself, relative
to the folder.

Symbolic links to folders are not followed, nor links to files outside the folder. The split is "none"; there are no
events and no categories.

Issue codes: `ignored_files` (one issue with counts by extension), `outside_link`, `broken_link`, `refused_id` (a file
name that is not UTF-8: the clip is listed under a name with a hash, its source is "").
"""

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from avpipe.datasets.base import AnnotationError, Annotations, Issue

# fmt: off
VIDEO = frozenset((
    "3g2", "3gp", "asf", "avi", "f4v", "flv", "h264", "hevc", "m2ts", "m2v", "m4v", "mjpeg", "mkv", "mov", "mp4", "mpeg", "mpg",
    "mts", "mxf", "ogm", "ogv", "qt", "rm", "rmvb", "ts", "vob", "webm", "wmv", "y4m",
))
AUDIO = frozenset((
    "aac", "ac3", "aif", "aiff", "amr", "ape", "au", "flac", "m4a", "mka", "mp2", "mp3", "oga", "ogg", "opus", "wav", "wma",
))
# fmt: on

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(/[A-Za-z0-9_-]+)*\.[A-Za-z0-9]+")
_LONGEST = 100


def read_folder(annotations: Path) -> Annotations:
    """List the video and audio files below the folder `annotations`, sorted by path.

    Raises:
        AnnotationError: if it is no folder, a folder in it cannot be read, or it has no such file.
    """
    if not annotations.is_dir():
        raise AnnotationError(f"{annotations} is not a folder; expected the folder of videos")
    issues: list[Issue] = []
    ignored: Counter[str] = Counter()
    clips = []
    root = os.path.realpath(annotations)
    for relative, is_link in sorted(_files(annotations)):
        extension = _extension(relative)
        if extension not in VIDEO | AUDIO:
            ignored[f".{extension}" if extension else "no extension"] += 1
            continue
        name, source = clip_name(relative), relative
        problem = _link_problem(annotations / relative, root) if is_link else None
        if problem:
            target = str((annotations / relative).readlink())
            issues.append((problem, "", f"{relative!r} links to {target!r}; left out"))
            continue
        if re.search("[\ud800-\udfff]", relative):  # Python's stand-ins for bytes that are not UTF-8
            issues.append(("refused_id", name, f"{relative!r} is not UTF-8; rename the file"))
            source = ""
        clips.append((name, "none", source, float("nan"), float("nan")))
    if ignored:
        counts = ", ".join(f"{count} {extension}" for extension, count in ignored.most_common(20))
        message = f"{ignored.total()} files are neither video nor audio: {counts!a}"
        issues.append(("ignored_files", "", message))
    if not clips:
        known = " ".join(sorted(VIDEO | AUDIO))
        raise AnnotationError(
            f"{annotations} has no video or audio file (extensions: {known}); other files: {ignored.total()}"
        )
    return Annotations.from_rows((), clips, (), issues)


def clip_name(relative: str) -> str:
    """The clip name of a relative path with `/` between its parts and a known extension."""
    if _PLAIN.fullmatch(relative) and len(relative) <= _LONGEST:
        return relative.replace("/", "~").replace(".", "~")
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", relative.rpartition(".")[0])
    rest = plain[-_LONGEST:].strip("_-") or "clip"
    digest = hashlib.sha256(relative.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{rest}~{_extension(relative)}~{digest[:10]}"


def _files(folder: Path) -> Iterator[tuple[str, bool]]:
    """Relative path (with `/`) of every regular file or symbolic link below `folder`, and whether it is a link."""
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        try:
            with os.scandir(folder / inside) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{inside}{entry.name}/")
                    elif entry.is_symlink() or stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                        yield f"{inside}{entry.name}", entry.is_symlink()
        except OSError as error:
            raise AnnotationError(
                f"cannot list {folder / inside}: {error.strerror}; make it readable or move it away"
            ) from error


def _extension(relative: str) -> str:
    """The part after the last dot of the file's name, in lower case; "" without a dot."""
    name = relative.rpartition("/")[2]
    return name.rpartition(".")[2].lower() if "." in name else ""


def _link_problem(path: Path, root: str) -> str | None:
    """Issue code of a link that is not followed: its target is no file, or lies outside the folder."""
    target = os.path.realpath(path)
    if os.path.commonpath([target, root]) != root:
        return "outside_link"
    return None if Path(target).is_file() else "broken_link"
