"""Canonical clips as frames and waveforms, in segments of one second."""

import contextlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import soundfile

from avpipe.files import sha256_of
from avpipe.media.presets import CANONICAL, Preset

TAR_SHA256 = b"tar_sha256"
"""Key in the metadata of a shard's table of outcomes, {shard}.parquet beside {shard}.tar."""


@dataclass
class Clip:
    """A clip of a shard, still encoded.

    Args:
        clip: its name.
        row: its row in the manifest and in every feature array.
        video: mp4; None for a clip without pictures.
        audio: flac; None for a clip without sound.
        meta: content of {clip}.json: the clip's source and original format.
    """

    clip: str
    row: int
    video: bytes | None
    audio: bytes | None
    meta: dict[str, Any] = field(default_factory=dict)


def read_shard(tar: Path) -> Iterator[Clip]:
    """The clips of a shard in order, one at a time in memory.

    The tar is first compared with its SHA-256, where the table of outcomes is beside it.

    Raises:
        ValueError: if the file is damaged, or no tar of `normalise_shard`; it names the file and the member.
    """
    table = tar.with_suffix(".parquet")
    if table.is_file():
        expected = (pq.read_schema(table).metadata or {}).get(TAR_SHA256, b"").decode()
        if sha256_of(tar) != expected:
            raise ValueError(
                f"{tar} is damaged: its SHA-256 is not the one that {table.name} has; delete it and run the same command "
                "again, the shard is then normalised anew"
            )
    parts: dict[str, bytes] = {}
    try:
        with tarfile.open(tar, "r|") as archive:
            for member in archive:
                clip, _, extension = member.name.partition(".")
                content = archive.extractfile(member)
                if extension not in ("mp4", "flac", "json") or content is None:
                    raise ValueError(f"{tar}: {member.name!r} is no part of a shard; normalise it again")
                parts[extension] = content.read()
                if extension == "json":
                    meta = json.loads(parts["json"])
                    yield Clip(clip, meta["row"], parts.get("mp4"), parts.get("flac"), meta)
                    parts = {}
    except tarfile.TarError as error:
        raise ValueError(f"{tar} is not a whole tar file: {error}; normalise the shard again") from error


SPARSE = 4
"""Where less than one frame of so many is asked for, PyAV decodes."""

Rule = Literal["middle", "linspace"]  # how `frame_indices` selects frames at a lower rate


def frame_indices(fps: int, preset: Preset = CANONICAL, rule: Rule = "middle") -> npt.NDArray[np.int64]:
    """Indices of the frames of a padded clip at a lower rate, (T * fps,) int64.

    "middle": picture k of segment t is the frame at the middle of its own interval, the frame shown at t + (k + 1/2) / fps.
    At 1 of 16 fps it is frame 8 of each 16. So the pictures of a segment lie inside its second, as far from its start as
    from its end.

    "linspace": round(linspace(0, F T - 1, T * fps)), halves to even: evenly from the clip's first frame to its last, as in
    the scripts of LLP's published features (AVVP-ECCV20, scripts/).

    Args:
        fps: pictures a second; divides the preset's rate F, or is less where F is no whole number.
        preset: the clip's format.
        rule: "middle" or "linspace".

    Raises:
        ValueError: for such an `fps`, or a preset that does not pad: its clips have no fixed number of segments.
    """
    preset.check_picks(fps)
    pictures = preset.segments * fps
    if rule == "linspace":
        return np.linspace(0, preset.frames - 1, pictures).round().astype(np.int64)
    numerator, denominator = preset.fps.numerator, preset.fps.denominator
    return (2 * np.arange(pictures) + 1) * numerator // (2 * fps * denominator)


def decode_frames(
    video: bytes, fps: int, preset: Preset = CANONICAL, rule: Rule = "middle"
) -> npt.NDArray[np.uint8]:
    """Pictures of a padded canonical clip, (T * fps, H, W, 3) uint8 RGB.

    Args:
        video: the mp4 of a `Clip`.
        fps, preset, rule: see `frame_indices`; picture k of segment t is row t * fps + k.

    Raises:
        ValueError: if it is no canonical clip.
    """
    indices = frame_indices(fps, preset, rule)
    return VideoFrames(video, preset).at(indices)


class VideoFrames:
    """The frames of a canonical clip, decoded when asked for: a frame needs at most those of its second before it.

    Decoded by decord. PyAV decodes single frames, which it does faster; those of a width that decord cannot copy (48 or 72
    pixels); and all where decord has no wheel (macOS, ARM). On canonical clips both give the same bytes.

    Args:
        video: the mp4 of a `Clip`.
        preset: the clip's format.

    Raises:
        ValueError: if it is no canonical clip.
    """

    def __init__(self, video: bytes, preset: Preset = CANONICAL) -> None:
        self.video, self.preset = video, preset
        self.decoded: npt.NDArray[np.uint8] | None = None
        self.count = _count_with_pyav(video)
        if self.count != preset.frames if preset.pad else self.count > preset.frames:
            raise ValueError(f"not a canonical clip: {self.count} frames instead of {preset.frames}")

    def at(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """The frames at these indices, (len(indices), H, W, 3) uint8 RGB. Raises ValueError as the class does."""
        if self.decoded is not None:
            return self.decoded[indices]
        if SPARSE * len(indices) > self.count:
            with contextlib.suppress(ImportError):
                import decord

                with contextlib.suppress(
                    decord.DECORDError, RuntimeError
                ):  # PyAV decodes it, or says what is wrong
                    reader = decord.VideoReader(io.BytesIO(self.video), num_threads=1)
                    return cast(npt.NDArray[np.uint8], reader.get_batch(indices).asnumpy())
        return decode_with_pyav(self.video, indices)

    def keep(self) -> None:
        """Decode all frames, once for all, and keep them in memory. Raises ValueError as the class does."""
        self.decoded = self.at(np.arange(self.count))


def decode_with_pyav(video: bytes, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """The frames at `indices`, (len(indices), H, W, 3) uint8 RGB. Raises ValueError as `VideoFrames`."""
    import av

    wanted = set(indices.tolist())
    frames: dict[int, npt.NDArray[Any]] = {}
    try:
        with av.open(io.BytesIO(video), "r") as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            packets = [packet for packet in container.demux(stream) if packet.size]
            number = {packet.pts: place for place, packet in enumerate(packets)}
            for packet in [*_needed(packets, wanted), None]:  # None: what the decoder still holds
                for frame in stream.decode(packet):
                    if number.get(frame.pts) in wanted:
                        frames[number[frame.pts]] = frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"not a canonical clip: {error}") from error
    if len(frames) < len(wanted):
        raise ValueError(f"not a canonical clip: {len(wanted) - len(frames)} frames are missing")
    return np.stack([frames[int(index)] for index in indices])


def _needed(packets: list[Any], wanted: set[int]) -> Iterator[Any]:
    """The packets, a frame each, from each key frame up to the last wanted frame before the next key frame."""
    needed, later = [], False
    for place in reversed(range(len(packets))):
        later = later or place in wanted
        if later:
            needed.append(packets[place])
        if packets[place].is_keyframe:
            later = False
    return reversed(needed)


def _count_with_pyav(video: bytes) -> int:
    import av

    try:
        with av.open(io.BytesIO(video), "r") as container:
            return sum(1 for packet in container.demux(video=0) if packet.size)
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"not a canonical clip: {error}") from error


def decode_audio(audio: bytes, preset: Preset = CANONICAL) -> npt.NDArray[np.float32]:
    """The waveform of a canonical clip, (samples,) float32 in [-1, 1), or (samples, channels) if the preset has several.

    Segment t is samples S t .. S (t + 1) - 1, with S the preset's sample rate.

    Raises:
        ValueError: if it is no canonical clip.
    """
    try:
        waveform, rate = soundfile.read(io.BytesIO(audio), dtype="float32")
    except soundfile.LibsndfileError as error:
        raise ValueError(f"not a canonical clip: {error}") from error
    fits = len(waveform) == preset.samples if preset.pad else len(waveform) <= preset.samples
    if rate != preset.sample_rate or not fits:
        raise ValueError(
            f"not a canonical clip: {len(waveform)} samples at {rate} Hz instead of {preset.samples} at {preset.sample_rate} Hz"
        )
    samples: npt.NDArray[np.float32] = waveform
    return samples
