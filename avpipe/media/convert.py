"""One clip: from a downloaded file to the canonical clip, nearly always with one run of ffmpeg."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import eq, ge
from pathlib import Path
from typing import Literal

import av
import numpy as np
import numpy.typing as npt
import soundfile

from avpipe.clips import Status
from avpipe.media.command import Cut, arguments, steady_arguments, unmixed_arguments
from avpipe.media.ffmpeg import FFmpegGroup, Finished
from avpipe.media.presets import Preset
from avpipe.media.probe import Media, ProbeError, probe

TOLERANCE = 0.5  # seconds of a stream that may be undecodable before the clip counts as corrupt
SILENCE = -50.0  # decibels; a quieter mix is compared with the channels that were mixed
CANCELLED = 20.0  # decibels by which the mix is quieter than its channels if these cancel each other


@dataclass(frozen=True)
class Converted:
    """The outcome of one clip.

    Args:
        status, reason: see `Status`; the reason also mentions padding, damage and missing streams.
        duration: seconds inside the clip's interval, without padding.
        video_seconds, audio_seconds: how long the pictures and the sound are inside the interval, without padding.
        source_video_seconds, source_audio_seconds: how long they are in the whole file, by its packets.
        fps, width, height, sample_rate, channels: of the source; None if it has no such stream.
        bytes, sha256: of the source; None if there was nothing to convert.
        video, audio: the canonical files; None if the clip lacks this modality or is not in the shard.
    """

    status: Status
    reason: str
    duration: float | None = None
    video_seconds: float | None = None
    audio_seconds: float | None = None
    source_video_seconds: float | None = None
    source_audio_seconds: float | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    sample_rate: int | None = None
    channels: int | None = None
    bytes: int | None = None
    sha256: str | None = None
    video: Path | None = None
    audio: Path | None = None


def convert_clip(
    source: Path, start: float, end: float, preset: Preset, target: Path, group: FFmpegGroup, timeout: float
) -> Converted:
    """Make the canonical clip of `source` between `start` and `end`, at `target` + ".mp4" and ".flac".

    Frame i of the clip is the picture that a player shows at start + (i + 1/2) / fps, the middle of the frame's interval;
    sample j is the sound at start + j / sample_rate. Time 0 of a file is where its first stream begins. Before a later
    stream begins, its first picture, or silence, is used; after a stream ends, its last picture, or silence. Anything
    beyond the preset's length is cut. With a preset that does not pad, the clip begins with the stream that begins last
    and ends with the one that ends first, and nothing is held or silent.

    Args:
        source: a media file of any kind; nothing in it is trusted.
        start, end: seconds in the source; NaN = its beginning, its end.
        preset: the canonical format.
        target: path without extension; must not come from outside.
        group: runs ffmpeg.
        timeout: seconds for ffmpeg.

    Raises:
        FFmpegKilledError: if ffmpeg was ended by a signal, twice.
        OSError: on a full disk.
    """
    start = 0.0 if math.isnan(start) else max(0.0, start)
    length = preset.seconds if math.isnan(end) else min(preset.seconds, end - start)
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
    if not preset.pad:
        cut = _common(cut, media)
    media, finished = _converted(cut, media, group, timeout)
    if not preset.pad and (shorter := _least(cut, media, finished)) < cut.length - 1 / preset.fps:
        cut = replace(cut, length=shorter)
        media, finished = _converted(cut, media, group, timeout)
    if finished.timed_out:
        return replace(facts, status=Status.TIMED_OUT, reason=f"ffmpeg was stopped after {timeout:g} s")
    media = _without_garbage(cut, media, finished)
    made = _judge(cut, media, finished, facts)
    notes = [_left_out(cut, media, end)]
    if made.audio and media.audio and media.audio.channels > 1 and preset.channels == 1:
        notes.append(_cancelled(cut, media, made.audio, group, timeout))
    if made.status.in_shard and any(notes):
        parts = ["" if made.reason == "complete" else made.reason, *notes]
        made = replace(made, reason="; ".join(part for part in parts if part))
    return made


def _left_out(cut: Cut, media: Media, end: float) -> str:
    """What to say if the preset takes less than the clip, or than the whole file if `end` is NaN."""
    lengths = [
        stream.seconds for stream in (media.video, media.audio) if stream and not math.isnan(stream.seconds)
    ]
    whole = max(lengths, default=0.0) if math.isnan(end) else end
    if whole - cut.start - cut.preset.seconds < TOLERANCE:
        return ""
    return f"the first {cut.preset.seconds:g} s of {whole - cut.start:.2f} s"


def _common(cut: Cut, media: Media) -> Cut:
    """The part of the interval in which the file has both streams, by its headers and packets."""
    streams = [stream for stream in (media.video, media.audio) if stream]
    begins = [stream.start for stream in streams if not math.isnan(stream.start)]
    ends = [stream.seconds for stream in streams if not math.isnan(stream.seconds)]
    start = max([cut.start, *begins])
    return replace(cut, start=start, length=min([cut.start + cut.length, *ends]) - start)


def _least(cut: Cut, media: Media, finished: Finished) -> float:
    """Seconds of the stream of which less was decoded."""
    pictures = float(finished.frames / cut.preset.fps) if media.video else cut.length
    return min(pictures, finished.samples / cut.preset.sample_rate if media.audio else cut.length)


def _converted(cut: Cut, media: Media, group: FFmpegGroup, timeout: float) -> tuple[Media, Finished]:
    """Convert, sound whose form changes too; the media without a stream that cannot be converted."""
    media, finished = _run(cut, media, group, timeout)
    if finished.sounds > 1 and not finished.timed_out:
        media = _steady_sound(cut, media, finished, group, timeout)
    return media, finished


def _run(cut: Cut, media: Media, group: FFmpegGroup, timeout: float) -> tuple[Media, Finished]:
    """Convert; if ffmpeg gives up, convert each stream alone, because one without content stops the other one, too.

    Returns:
        The media without the stream that cannot be converted, if the other one can; and the result.
    """
    both = group.run(arguments(cut, media), timeout)
    if not both.gave_up or media.video is None or media.audio is None:
        return media, both
    pictures, sound = replace(media, audio=None), replace(media, video=None)
    of_pictures, of_sound = (group.run(arguments(cut, one), timeout) for one in (pictures, sound))
    if of_sound.sounds > 1:
        of_sound.code = 0  # it is converted again
    if of_sound.gave_up and of_pictures.code == 0:
        return _without(media, "audio", of_sound), of_pictures
    if of_pictures.gave_up and of_sound.code == 0:
        return _without(media, "video", of_pictures), of_sound
    of_sound.frames = of_pictures.frames
    of_sound.code = of_pictures.code or of_sound.code
    of_sound.timed_out = of_pictures.timed_out or of_sound.timed_out
    of_sound.errors += of_pictures.errors
    of_sound.first |= of_pictures.first
    return media, of_sound


def _steady_sound(cut: Cut, media: Media, finished: Finished, group: FFmpegGroup, timeout: float) -> Media:
    """Convert sound whose layout or rate changes, in two steps, and put its samples into `finished`.

    Returns:
        The media; without the sound if that cannot be converted and there are pictures.
    """
    to_steady, to_clip = steady_arguments(cut, media)
    try:
        done = group.run(to_steady, timeout)
        if not done.code:
            done = group.run(to_clip, timeout)
    finally:
        cut.file("nut").unlink(missing_ok=True)
    finished.samples, finished.timed_out = done.samples, done.timed_out
    if not done.gave_up:
        return media
    finished.samples = 0
    if media.video is None:
        finished.code, finished.first = done.code, done.first
        return media
    return _without(media, "audio", done)


def _cancelled(cut: Cut, media: Media, audio: Path, group: FFmpegGroup, timeout: float) -> str:
    """What to say if the channels of the sound cancel each other when they are mixed to one, as in antiphase."""
    assert media.audio is not None
    mixed = _decibels(soundfile.read(audio)[0])
    if mixed > SILENCE:
        return ""
    apart = cut.file("wav")
    try:
        if group.run(unmixed_arguments(cut, media), timeout).code:
            return ""
        loudest = _decibels(soundfile.read(apart)[0])
    except soundfile.LibsndfileError:
        return ""
    finally:
        apart.unlink(missing_ok=True)
    if loudest - mixed < CANCELLED:
        return ""
    return (
        f"the {media.audio.channels} channels cancel each other: {mixed:.0f} dB mixed, {loudest:.0f} dB apart"
    )


def _decibels(samples: npt.NDArray[np.float64]) -> float:
    """Mean power in decibels of full scale; at least -99."""
    power = float(np.mean(np.square(samples))) if samples.size else 0.0
    return max(-99.0, 10 * math.log10(power)) if power else -99.0


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
        source_video_seconds=_rounded(video.seconds) if video else None,
        source_audio_seconds=_rounded(audio.seconds) if audio else None,
    )


def _rounded(seconds: float) -> float | None:
    """To milliseconds; None for NaN."""
    return None if math.isnan(seconds) else round(seconds, 3)


def _judge(cut: Cut, media: Media, finished: Finished, facts: Converted) -> Converted:
    """Decide the outcome from what ffmpeg counted, what the headers say and what was written."""
    video_seconds = float(min(cut.frames, finished.frames) / cut.preset.fps)
    audio_seconds = finished.samples / cut.preset.sample_rate
    duration = round(min(cut.length, max(video_seconds, audio_seconds)), 3)
    facts = replace(
        facts,
        duration=duration,
        video_seconds=_video_length(cut, media, video_seconds) if facts.width else None,
        audio_seconds=_rounded(min(cut.length, audio_seconds)) if facts.channels else None,
    )
    if not finished.errors and duration < cut.preset.shortest:
        reason = f"{duration:g} s of the file are left after {cut.start:g} s"
        return replace(facts, status=Status.TOO_SHORT, reason=reason)
    empty = finished.code or duration < cut.preset.shortest
    damage = finished.message() if empty else _undecodable(cut, media, finished, video_seconds, audio_seconds)
    video = cut.file("mp4") if media.video and video_seconds else None
    audio = cut.file("flac") if media.audio and audio_seconds else None
    damage = damage or _output_error(video, audio, cut)
    if damage:
        return replace(facts, status=Status.CORRUPT, reason=damage)
    status = Status.PRESENT if video and audio else Status.NO_AUDIO if video else Status.NO_VIDEO
    reason = "; ".join(_remarks(status, media, finished, video_seconds, audio_seconds, cut)) or "complete"
    return replace(facts, status=status, reason=reason, video=video, audio=audio)


def _video_length(cut: Cut, media: Media, counted: float) -> float | None:
    """Seconds of pictures: those counted, which are whole frames of the clip, or the file's if these round to as many."""
    packets = _expected(cut, media.video.seconds) if media.video else math.nan
    return _rounded(packets if abs(packets - counted) <= 1 / cut.preset.fps else min(cut.length, counted))


def _undecodable(
    cut: Cut, media: Media, finished: Finished, video_seconds: float, audio_seconds: float
) -> str | None:
    """How much of the interval could not be decoded, if that is more than `TOLERANCE`."""
    if not finished.errors:
        return None
    claims = [("file", media.duration, max(video_seconds, audio_seconds))]
    if media.video:
        claims.append(("video", media.video.claimed, video_seconds))
    if media.audio:
        claims.append(("audio", media.audio.claimed, audio_seconds))
    for what, end, got in claims:
        expected = _expected(cut, end)
        if expected - got > TOLERANCE:
            return f"{got:.2f} of {expected:.2f} s of {what} can be decoded: {finished.message()}"
    return None


def _expected(cut: Cut, end: float) -> float:
    """Seconds of the interval before `end`; NaN if that is unknown, and then every comparison is false."""
    return min(end - cut.start, cut.length)


def _without_garbage(cut: Cut, media: Media, finished: Finished) -> Media:
    """The media without a stream of which next to nothing can be decoded although it is there; zero its count in `finished`."""
    video, audio = media.video, media.audio
    if not finished.errors or video is None or audio is None:
        return media
    got = finished.frames / cut.preset.fps, finished.samples / cut.preset.sample_rate
    shortest = cut.preset.shortest
    if got[0] < shortest <= got[1] and _expected(cut, video.claimed) > TOLERANCE:
        finished.frames = 0
        return _without(media, "video", finished)
    if got[1] < shortest <= got[0] and _expected(cut, audio.claimed) > TOLERANCE:
        finished.samples = 0
        return _without(media, "audio", finished)
    return media


def _without(media: Media, kind: Literal["video", "audio"], finished: Finished) -> Media:
    """The media without the stream that could not be decoded in a run."""
    note = f"no {'picture' if kind == 'video' else 'sound'} can be decoded: {finished.message()}"
    rest = replace(media, video=None) if kind == "video" else replace(media, audio=None)
    return replace(rest, notes=(*media.notes, note))


def _output_error(video: Path | None, audio: Path | None, cut: Cut) -> str | None:
    """What is wrong with the files that were made, if anything."""
    preset = cut.preset
    if video is not None:
        with av.open(f"file:{video}") as container:
            stream = container.streams.video[0]
            keys = [packet.is_keyframe for packet in container.demux(stream) if packet.size]
            size = stream.width, stream.height
        if keys != [frame % preset.group == 0 for frame in range(cut.frames)]:
            return f"the converted clip has {len(keys)} frames, {sum(keys)} key frames"
        wanted = preset.width, preset.height
        covers = preset.aspect == "keep" and all(map(ge, size, wanted)) and any(map(eq, size, wanted))
        if size != wanted and not covers:
            return f"the converted clip is {size[0]}x{size[1]}"
    if audio is not None:
        sound = soundfile.info(audio)
        found = sound.frames, sound.samplerate, sound.channels
        if found != (cut.samples, preset.sample_rate, preset.channels):
            return "the converted clip has {} samples, {} Hz, {} channels".format(*found)
    return None


def _remarks(
    status: Status,
    media: Media,
    finished: Finished,
    video_seconds: float,
    audio_seconds: float,
    cut: Cut,
) -> Iterator[str]:
    """Parts of the reason: missing streams, padding, damage."""
    if status is Status.NO_AUDIO:
        yield "; ".join(media.notes) or ("no sound in the interval" if media.audio else "no audio stream")
    if status is Status.NO_VIDEO:
        yield "; ".join(media.notes) or ("no picture in the interval" if media.video else "no video stream")
    pads = cut.preset.pad
    if pads and status is not Status.NO_VIDEO and round(video_seconds, 2) < cut.preset.seconds:
        yield f"last picture held from {video_seconds:.2f} s"
    if pads and status is not Status.NO_AUDIO and round(audio_seconds, 2) < cut.preset.seconds:
        yield f"silence from {audio_seconds:.2f} s"
    if status is not Status.NO_VIDEO and media.video and media.video.hdr:
        yield f"HDR pictures ({media.video.hdr}) are not tone-mapped: their colours are pale"
    if finished.errors:
        yield f"{finished.errors.total()} decoding errors: {finished.message()}"
