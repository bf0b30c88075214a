"""One clip: from a downloaded file to the canonical clip, with one run of ffmpeg."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import av
import ffmpeg
import soundfile

from avpipe.clips import Status
from avpipe.media.ffmpeg import FFmpegGroup, Finished
from avpipe.media.presets import Preset
from avpipe.media.probe import CONTAINERS, PROTOCOLS, Media, ProbeError, probe

TOLERANCE = 0.5  # seconds of a stream that may be undecodable before the clip counts as corrupt
INDEXED = frozenset(("mp4", "matroska", "avi", "wav", "flac"))
"""Containers in which seeking finds the key frame before a time. In others it may land before or after it."""
MARGIN = 30.0  # seconds before the interval at which reading starts in other containers with video
LARGEST_PICTURE = 8192 * 4608  # pixels


@dataclass(frozen=True)
class Converted:
    """The outcome of one clip.

    Args:
        status, reason: see `Status`; the reason also mentions padding, damage and missing streams.
        duration: seconds inside the clip's interval, without padding.
        fps, width, height, sample_rate, channels: of the source; None if it has no such stream.
        bytes, sha256: of the source; None if there was nothing to convert.
        video, audio: the canonical files; None if the clip lacks this modality or is not in the shard.
    """

    status: Status
    reason: str
    duration: float | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    sample_rate: int | None = None
    channels: int | None = None
    bytes: int | None = None
    sha256: str | None = None
    video: Path | None = None
    audio: Path | None = None


@dataclass(frozen=True)
class Cut:
    """What `convert_clip` converts; `start` and `length` in seconds on the file's time axis."""

    source: Path
    start: float
    length: float
    preset: Preset
    target: Path

    def file(self, extension: str) -> Path:
        """The output with this extension."""
        return self.target.with_name(f"{self.target.name}.{extension}")


def convert_clip(
    source: Path, start: float, end: float, preset: Preset, target: Path, group: FFmpegGroup, timeout: float
) -> Converted:
    """Make the canonical clip of `source` between `start` and `end`, at `target` + ".mp4" and ".flac".

    Frame i of the clip is the picture that a player shows at start + (i + 1/2) / fps, the middle of the frame's interval;
    sample j is the sound at start + j / sample_rate. Time 0 of a file is where its first stream begins. Before a later
    stream begins, its first picture, or silence, is used; after a stream ends, its last picture, or silence. Anything
    beyond the preset's length is cut.

    Args:
        source: a media file of any kind; nothing in it is trusted.
        start, end: seconds in the source; NaN = its beginning, its end.
        preset: the canonical format.
        target: path without extension; must not come from outside.
        group: runs ffmpeg.
        timeout: seconds for ffmpeg.

    Raises:
        OSError: on a full disk.
    """
    start = 0.0 if math.isnan(start) else max(0.0, start)
    length = float(preset.seconds) if math.isnan(end) else min(float(preset.seconds), end - start)
    try:
        media = probe(source)
    except ProbeError as error:
        return Converted(Status.CORRUPT, str(error))
    except OSError as error:
        return Converted(Status.MISSING, f"the file cannot be read: {error.strerror}")
    facts = _facts(media)
    if media.video is None and media.audio is None:
        reason = "; ".join(media.notes) or "the file has neither video nor audio"
        return replace(facts, status=Status.CORRUPT, reason=reason)
    if length <= 0:
        reason = f"the annotations' interval is empty: {start:g} to {end:g} s"
        return replace(facts, status=Status.TOO_SHORT, reason=reason)
    cut = Cut(source, start, length, preset, target)
    finished = group.run(arguments(cut, media), timeout)
    usable = _without_failed_stream(media, finished)
    if usable != media:
        media, finished = usable, group.run(arguments(cut, usable), timeout)
    if finished.timed_out:
        return replace(facts, status=Status.TIMED_OUT, reason=f"ffmpeg was stopped after {timeout:g} s")
    return _judge(cut, media, finished, facts)


def arguments(cut: Cut, media: Media) -> list[str]:
    """ffmpeg's arguments for both outputs of one decoding."""
    begin = _begin(cut, media)
    # Without accurate seeking ffmpeg also decodes what is before `begin`, at negative times. So the filters cut
    # exactly, and know which picture is on screen at `start`.
    seek = {"ss": f"{begin:.6f}", "noaccurate_seek": None} if begin > 0 else {}
    limits = {"protocol_whitelist": PROTOCOLS, "format_whitelist": CONTAINERS, "max_pixels": LARGEST_PICTURE}
    # If the picture's size changes, keep the same filters: new ones would start at time 0 again.
    steady = {"reinit_filter:v": 0}
    opened = ffmpeg.input(f"file:{cut.source}", threads=1, **steady, **limits, **seek)
    shift = f"PTS-{cut.start - begin:.6f}/TB"
    plain = {"threads": 1, "map_metadata": -1, "map_chapters": -1, "fflags": "+bitexact"}
    preset = cut.preset
    outputs = []
    if media.video is not None:
        pictures = _video_filters(opened[str(media.video.index)].filter("setpts", shift), cut.length, preset)
        coding = {"c:v": "libx264", "preset": preset.x264, "crf": preset.crf, "flags:v": "+bitexact"}
        groups = {"g": preset.fps, "keyint_min": preset.fps, "sc_threshold": 0, "bf": 0}
        path = f"file:{cut.file('mp4')}"
        outputs.append(ffmpeg.output(pictures, path, format="mp4", **plain, **coding, **groups))
    if media.audio is not None:
        sound = _audio_filters(opened[str(media.audio.index)].filter("asetpts", shift), cut.length, preset)
        coding = {"c:a": "flac", "sample_fmt": "s16", "flags:a": "+bitexact"}
        outputs.append(ffmpeg.output(sound, f"file:{cut.file('flac')}", format="flac", **plain, **coding))
    both = ffmpeg.merge_outputs(*outputs).global_args("-filter_complex_threads", "1")
    command: list[str] = ffmpeg.compile(both, cmd=[], overwrite_output=True)
    return command


def _begin(cut: Cut, media: Media) -> float:
    """Seconds to seek to. Files without video are read from the start, because times after a seek are estimates there."""
    if INDEXED.intersection(media.container.split(",")):
        return cut.start
    return max(0.0, cut.start - MARGIN) if media.video else 0.0


def _video_filters(stream: ffmpeg.nodes.FilterableStream, length: float, preset: Preset) -> ffmpeg.Stream:
    """Cut; constant rate (`fps` also counts the frames); size and colours; then repeat the last picture."""
    colours = {"out_color_matrix": "bt601", "out_range": "tv"}
    return (
        stream.filter("trim", end=f"{length:.6f}")
        .filter("fps", fps=preset.fps, start_time=0, round="near")
        .filter("scale", preset.width, preset.height, flags="bicubic+accurate_rnd+bitexact", **colours)
        .filter("setsar", 1)
        .filter("format", "yuv420p")
        .filter("tpad", stop_mode="clone", stop=-1)
        .filter("trim", end_frame=preset.frames)
    )


def _audio_filters(stream: ffmpeg.nodes.FilterableStream, length: float, preset: Preset) -> ffmpeg.Stream:
    """Cut; rate and channels, with gaps filled; count the samples (`ashowinfo`); then silence."""
    layout = {1: "mono", 2: "stereo"}[preset.channels]
    return (
        stream.filter("atrim", start=0, end=f"{length:.6f}")
        .filter("aresample", preset.sample_rate, **{"async": 1}, first_pts=0, rematrix_maxval=1)
        .filter("aformat", sample_fmts="s16", channel_layouts=layout)
        .filter("asetnsamples", n=preset.sample_rate, p=0)  # with small pieces the run takes a tenth longer
        .filter("ashowinfo")
        .filter("apad", whole_len=preset.samples)
        .filter("atrim", end_sample=preset.samples)
    )


def _facts(media: Media) -> Converted:
    """What the table says of the source; the status is decided later."""
    video, audio = media.video, media.audio
    return Converted(
        Status.PRESENT,
        "",
        fps=round(video.fps, 4) if video and not math.isnan(video.fps) else None,
        width=video.width if video else None,
        height=video.height if video else None,
        sample_rate=audio.sample_rate if audio else None,
        channels=audio.channels if audio else None,
    )


def _without_failed_stream(media: Media, finished: Finished) -> Media:
    """`media` without the stream that gave nothing, if ffmpeg failed although the other one gave something."""
    gave_up = finished.code != 0 and not finished.timed_out
    why = finished.message() if finished.errors else "in the interval"
    if gave_up and media.video and media.audio:
        if finished.samples and not finished.frames:
            return replace(media, video=None, notes=(*media.notes, f"no picture {why}"))
        if finished.frames and not finished.samples:
            return replace(media, audio=None, notes=(*media.notes, f"no sound {why}"))
    return media


def _judge(cut: Cut, media: Media, finished: Finished, facts: Converted) -> Converted:
    """Decide the outcome from what ffmpeg counted, what the headers say and what was written."""
    video_seconds = min(cut.preset.frames, finished.frames) / cut.preset.fps
    audio_seconds = finished.samples / cut.preset.sample_rate
    duration = round(min(cut.length, max(video_seconds, audio_seconds)), 3)
    facts = replace(facts, duration=duration)
    if not finished.errors and duration < cut.preset.shortest:
        reason = f"{duration:g} s of the file are left after {cut.start:g} s"
        return replace(facts, status=Status.TOO_SHORT, reason=reason)
    empty = finished.code or duration < cut.preset.shortest
    damage = finished.message() if empty else _undecodable(cut, media, finished, video_seconds, audio_seconds)
    video = cut.file("mp4") if media.video and video_seconds else None
    audio = cut.file("flac") if media.audio and audio_seconds else None
    damage = damage or _output_error(video, audio, cut.preset)
    if damage:
        return replace(facts, status=Status.CORRUPT, reason=damage)
    status = Status.PRESENT if video and audio else Status.NO_AUDIO if video else Status.NO_VIDEO
    reason = (
        "; ".join(_remarks(status, media, finished, video_seconds, audio_seconds, cut.preset)) or "complete"
    )
    return replace(facts, status=status, reason=reason, video=video, audio=audio)


def _undecodable(
    cut: Cut, media: Media, finished: Finished, video_seconds: float, audio_seconds: float
) -> str | None:
    """How much of the interval could not be decoded, if that is more than `TOLERANCE`."""
    if not finished.errors:
        return None
    claims = [("file", media.duration, max(video_seconds, audio_seconds))]
    if media.video:
        claims.append(("video", media.video.end, video_seconds))
    if media.audio:
        claims.append(("audio", media.audio.end, audio_seconds))
    for what, end, got in claims:
        expected = min(cut.length, end - cut.start)  # NaN if unknown: the comparison is then false
        if expected - got > TOLERANCE:
            return f"{got:.2f} of {expected:.2f} s of {what} can be decoded: {finished.message()}"
    return None


def _output_error(video: Path | None, audio: Path | None, preset: Preset) -> str | None:
    """What is wrong with the files that were made, if anything."""
    if video is not None:
        with av.open(f"file:{video}") as container:
            stream = container.streams.video[0]
            keys = [packet.is_keyframe for packet in container.demux(stream) if packet.size]
            size = stream.width, stream.height
        if keys != [frame % preset.fps == 0 for frame in range(preset.frames)]:
            return f"the converted clip has {len(keys)} frames, {sum(keys)} key frames"
        if size != (preset.width, preset.height):
            return f"the converted clip is {size[0]}x{size[1]}"
    if audio is not None:
        sound = soundfile.info(audio)
        found = sound.frames, sound.samplerate, sound.channels
        if found != (preset.samples, preset.sample_rate, preset.channels):
            return "the converted clip has {} samples, {} Hz, {} channels".format(*found)
    return None


def _remarks(
    status: Status,
    media: Media,
    finished: Finished,
    video_seconds: float,
    audio_seconds: float,
    preset: Preset,
) -> Iterator[str]:
    """Parts of the reason: missing streams, padding, damage."""
    if status is Status.NO_AUDIO:
        yield "; ".join(media.notes) or ("no sound in the interval" if media.audio else "no audio stream")
    if status is Status.NO_VIDEO:
        yield "; ".join(media.notes) or ("no picture in the interval" if media.video else "no video stream")
    if status is not Status.NO_VIDEO and video_seconds < preset.seconds:
        yield f"last picture held from {video_seconds:.2f} s"
    if status is not Status.NO_AUDIO and audio_seconds < preset.seconds:
        yield f"silence from {audio_seconds:.2f} s"
    if finished.errors:
        yield f"{finished.errors.total()} decoding errors: {finished.message()}"
