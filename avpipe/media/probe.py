"""What is in a media file, without trusting it."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from avpipe.clips import OPENING, Ends, stream_ends

HDR = {16: "PQ", 18: "HLG"}
"""Transfer characteristics (ITU-T H.273) of pictures with a high dynamic range."""
_REFUSED = {
    b"GIF8": "a GIF picture",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"BM": "a BMP picture",
    b"#EXTM3U": "a playlist (m3u8), which only names other files",
    b"ffconcat": "a list of files for ffmpeg",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"PK\3\4": "a zip archive",
}
"""How files begin that often carry a video's name but are none."""


class ProbeError(ValueError):
    """The file is no media file, or a broken one; the message is PyAV's."""


@dataclass(frozen=True)
class Track:
    """The chosen video or audio stream of a file.

    Args:
        index: of the stream in the file.
        start, end: seconds on the file's time axis, which begins with its first stream, by the header; NaN if unknown.
        seconds: where the last packet ends on that axis; NaN without one.
    """

    index: int
    start: float
    end: float
    seconds: float

    @property
    def claimed(self) -> float:
        """Where the stream ends by the header, else by its packets; NaN if both are unknown."""
        return self.seconds if math.isnan(self.end) else self.end


@dataclass(frozen=True)
class Video(Track):
    """The video.

    Args:
        width, height: as displayed, after rotation and with square pixels.
        fps: average frames a second by the header; NaN if unknown.
        rotation: counter-clockwise degrees by which a player turns the stored picture: 0, 90, 180 or 270.
        hdr: "PQ" or "HLG" for pictures with a high dynamic range, else "".
    """

    width: int
    height: int
    fps: float
    rotation: int
    hdr: str


@dataclass(frozen=True)
class Audio(Track):
    """The audio."""

    sample_rate: int
    channels: int


@dataclass(frozen=True)
class Media:
    """A media file.

    Args:
        container: names of its format.
        duration: seconds by its header; NaN if unknown.
        video, audio: None if there is no stream that can be decoded.
        notes: why a stream of the file was not chosen.
        joined: whether time stamps start again in the middle, as in recordings that were joined.
    """

    container: str
    duration: float
    video: Video | None
    audio: Audio | None
    notes: tuple[str, ...] = ()
    joined: bool = False


def probe(path: Path) -> Media:
    """Read a file's headers, its first picture and its last packets.

    Cover art (an attached picture, as in mp3 files) is no video. Among several streams the default one is chosen; among
    several of these the largest picture, or the most channels (then the highest sample rate).

    Args:
        path: the file.

    Raises:
        ProbeError: if it is no media file of a format in `CONTAINERS`.
        FileNotFoundError, PermissionError: if it cannot be opened.
    """
    try:
        with av.open(f"file:{path}", metadata_errors="replace", options=OPENING) as container:
            media = _media(container)
        state = path.stat()
        ends = _ends(path, state.st_size, state.st_mtime_ns)
    except (FileNotFoundError, PermissionError):
        raise
    except (av.FFmpegError, ValueError, OverflowError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise ProbeError(_refusal(path) or f"not a media file that can be read: {text}") from error
    video, audio = media.video, media.audio
    if video:
        video = replace(video, seconds=ends.seconds.get(video.index, math.nan))
    if audio:
        audio = replace(audio, seconds=ends.seconds.get(audio.index, math.nan))
    return replace(media, video=video, audio=audio, joined=ends.joined)


@lru_cache(maxsize=256)
def _ends(path: Path, size: int, modified: int) -> Ends:
    """`stream_ends` of a file that did not change since; a long file has many clips."""
    return stream_ends(path, each=True)


def _refusal(path: Path) -> str:
    """What a file is that is not opened, if its first bytes tell it."""
    with path.open("rb") as file:
        head = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head:
        return "not a media file: it is empty"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "not a media file: a WebP picture"
    found = (what for begin, what in _REFUSED.items() if head[: len(begin)].lower() == begin.lower())
    return next((f"not a media file: {what}" for what in found), "")


def _media(container: InputContainer) -> Media:
    notes: list[str] = []
    duration = container.duration / av.time_base if container.duration is not None else math.nan
    start = (container.start_time or 0) / av.time_base
    pictures = [stream for stream in container.streams.video if _usable(stream, notes)]
    sounds = [stream for stream in container.streams.audio if _usable(stream, notes)]
    video = audio = None
    if pictures:
        stream = max(pictures, key=lambda s: (_default(s), s.width * s.height, -s.index))
        begin, end = _interval(stream, start)
        width, height = _display_size(stream.width, stream.height, stream.sample_aspect_ratio)
        rotation = _rotation(container, stream.index)
        if rotation % 180:
            width, height = height, width
        rate = float(stream.average_rate or stream.guessed_rate or math.nan)
        hdr = HDR.get(int(stream.codec_context.color_trc), "")
        video = Video(stream.index, begin, end, math.nan, width, height, rate, rotation, hdr)
    if sounds:
        sound = max(sounds, key=lambda s: (_default(s), s.channels, s.sample_rate, -s.index))
        begin, end = _interval(sound, start)
        audio = Audio(sound.index, begin, end, math.nan, sound.sample_rate, sound.channels)
    return Media(container.format.name, duration, video, audio, tuple(notes))


def _usable(stream: VideoStream | AudioStream, notes: list[str]) -> bool:
    """Whether a stream can be decoded and is no cover art; appends the reason to `notes` if not."""
    if stream.disposition & Disposition.attached_pic:
        notes.append("the only picture is cover art")
    elif stream.codec_context is None:
        notes.append(f"{stream.type} stream {stream.index} has a codec that cannot be decoded")
    elif isinstance(stream, VideoStream) and not (stream.width and stream.height):
        notes.append(f"video stream {stream.index} has no picture size")
    elif isinstance(stream, AudioStream) and not (stream.sample_rate and stream.channels):
        notes.append(f"audio stream {stream.index} has no sample rate")
    else:
        return True
    return False


def _default(stream: Stream) -> bool:
    return bool(stream.disposition & Disposition.default)


def _interval(stream: Stream, origin: float) -> tuple[float, float]:
    """A stream's start and end on the file's time axis by its header; NaN if unknown."""
    if stream.time_base is None or stream.start_time is None:
        return math.nan, math.nan
    start = float(stream.start_time * stream.time_base) - origin
    return start, start + float(stream.duration * stream.time_base) if stream.duration else math.nan


def _display_size(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """The size with square pixels: the stored height, and the width times the pixels' aspect ratio."""
    return (max(1, round(width * aspect)), height) if aspect else (width, height)


def _rotation(container: InputContainer, index: int) -> int:
    """By how much a player turns the picture, read from the first frame; 0 if that cannot be decoded."""
    stream = container.streams[index]
    stream.codec_context.thread_type = "NONE"
    try:
        for frame in container.decode(stream):
            return round(getattr(frame, "rotation", 0) / 90) * 90 % 360
    except av.FFmpegError:
        return 0
    return 0
