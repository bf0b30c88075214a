"""What is in a media file, without trusting it."""

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,mpeg,mpegts,mpegvideo,asf,ogg,rm,dv,mxf,nut,ivf,"
    "h264,hevc,m4v,mjpeg,yuv4mpegpipe,mp3,wav,w64,flac,aac,ac3,eac3,aiff,caf,amr,ape,au,wv,tta"
)
"""Container formats that are opened. Not among them: still images, and playlists and scripts (hls, concat, dash, ...), with
which ffmpeg would read other files.
"""
PROTOCOLS = "file,pipe"


class ProbeError(ValueError):
    """The file is no media file, or a broken one; the message is PyAV's."""


@dataclass(frozen=True)
class Video:
    """The chosen video stream of a file.

    Args:
        index: of the stream in the file.
        width, height: as displayed, after rotation and with square pixels.
        fps: average frames a second; NaN if unknown.
        rotation: counter-clockwise degrees by which a player turns the stored picture: 0, 90, 180 or 270.
        start, end: seconds on the file's time axis, which begins with its first stream; NaN if unknown.
    """

    index: int
    width: int
    height: int
    fps: float
    rotation: int
    start: float
    end: float


@dataclass(frozen=True)
class Audio:
    """The chosen audio stream of a file; `index`, `start` and `end` as for `Video`."""

    index: int
    sample_rate: int
    channels: int
    start: float
    end: float


@dataclass(frozen=True)
class Media:
    """A media file.

    Args:
        container: names of its format.
        duration: seconds by its header; NaN if unknown.
        video, audio: None if there is no stream that can be decoded.
        notes: why a stream of the file was not chosen.
    """

    container: str
    duration: float
    video: Video | None
    audio: Audio | None
    notes: tuple[str, ...] = ()


def probe(path: Path) -> Media:
    """Read a file's headers and its first picture.

    Cover art (an attached picture, as in mp3 files) is no video. Among several streams the default one is chosen; among
    several of these the largest picture, or the most channels (then the highest sample rate).

    Raises:
        ProbeError: if it is no media file of a format in `CONTAINERS`.
        FileNotFoundError, PermissionError: if it cannot be opened.
    """
    options = {"protocol_whitelist": PROTOCOLS, "format_whitelist": CONTAINERS}
    try:
        with av.open(f"file:{path}", metadata_errors="replace", options=options) as container:
            return _media(container)
    except (FileNotFoundError, PermissionError):
        raise
    except (av.FFmpegError, ValueError, OverflowError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise ProbeError(f"not a media file that can be read: {text}") from error


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
        rate = stream.average_rate or stream.guessed_rate
        video = Video(stream.index, width, height, float(rate) if rate else math.nan, rotation, begin, end)
    if sounds:
        sound = max(sounds, key=lambda s: (_default(s), s.channels, s.sample_rate, -s.index))
        begin, end = _interval(sound, start)
        audio = Audio(sound.index, sound.sample_rate, sound.channels, begin, end)
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
