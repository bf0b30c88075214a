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
"""Container formats that are opened. Not among them: playlists and scripts (hls, concat, dash, ...), which would
make ffmpeg read other files, and still images."""
PROTOCOLS = "file,pipe"


class ProbeError(ValueError):
    """The file is no media file, or a broken one; the message is the library's own."""


@dataclass(frozen=True)
class Video:
    """The video stream that stands for the file.

    Args:
        index: of the stream in the file.
        width, height: as displayed, after rotation and with square pixels.
        fps: average frames a second; NaN if unknown.
        rotation: counter-clockwise degrees by which a player turns the stored picture: 0, 90, 180 or 270.
        start, end: seconds on the file's time axis, which begins where its first stream does; NaN if unknown.
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
    """The audio stream that stands for the file; `index`, `start` and `end` as for `Video`."""

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
        duration: seconds, as its header says; NaN if it does not.
        video, audio: None where there is no stream that this installation can decode.
        notes: why a stream that is there does not count.
    """

    container: str
    duration: float
    video: Video | None
    audio: Audio | None
    notes: tuple[str, ...] = ()


def probe(path: Path) -> Media:
    """Read a file's headers and its first picture.

    Cover art (one attached picture, as in mp3 files) is no video. Of several streams the default one counts, of
    several default ones the largest picture and the most channels (then the highest sample rate).

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
    """Whether a stream can be decoded and is more than cover art; says in `notes` why not."""
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
    """A stream's start and end on the file's time axis, as far as its header says them."""
    if stream.time_base is None or stream.start_time is None:
        return math.nan, math.nan
    start = float(stream.start_time * stream.time_base) - origin
    return start, start + float(stream.duration * stream.time_base) if stream.duration else math.nan


def _display_size(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """The size with square pixels: the stored height, the width stretched by the pixel's aspect ratio."""
    return (max(1, round(width * aspect)), height) if aspect else (width, height)


def _rotation(container: InputContainer, index: int) -> int:
    """How far a player turns the picture; it stands with the first picture. 0 where that cannot be decoded."""
    stream = container.streams[index]
    stream.codec_context.thread_type = "NONE"
    try:
        for frame in container.decode(stream):
            return round(getattr(frame, "rotation", 0) / 90) * 90 % 360
    except av.FFmpegError:
        return 0
    return 0
