"""Clips as they are in the segments' tars, for training without extracted features.

A clip is found by one seek, only the frames that are asked for are decoded, and all randomness of an item follows from the
seed, the epoch and the clip's position. So any number of worker processes gives the same batches.
"""

import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from avpipe.media.logmel import SAMPLE_RATE, log_mel, seconds_of
from avpipe.media.presets import Preset
from avpipe.media.segments import VideoFrames, decode_audio
from avpipe.training.data import EVALUATION_BATCH

Part = tuple[int, int]
"""Where a file begins in its tar, and how many bytes it has."""


@dataclass(frozen=True)
class RawClip:
    """A clip of a shard, read and decoded when asked for; its sound and its spectrograms are kept as long as the object.

    Args:
        clip: its name.
        tar: the shard's file.
        preset: its format.
        parts: "mp4" and "flac", if the clip has pictures and sound.
        kept: whether all frames are decoded at once, and pictures and sound stay in memory.
    """

    clip: str
    tar: Path
    preset: Preset
    parts: dict[str, Part]
    kept: bool = False

    def for_one_item(self) -> "RawClip":
        """The clip itself if it is kept; else a copy, with which goes what is decoded for it."""
        return self if self.kept else replace(self)

    @cached_property
    def frames(self) -> VideoFrames:
        """The pictures; raises ValueError without any."""
        frames: VideoFrames = self._decoded("mp4", VideoFrames)
        if self.kept:
            frames.keep()
        return frames

    @cached_property
    def waveform(self) -> npt.NDArray[np.float32]:
        """(samples,), or (samples, channels) if the preset has several; raises ValueError without sound."""
        return self._decoded("flac", decode_audio)

    def random_frames(self) -> npt.NDArray[np.uint8]:
        """One frame of each segment, drawn by torch's global generator, (T, H, W, 3)."""
        rate = self.preset.fps
        edges = np.array(
            [-(-second * rate.numerator // rate.denominator) for second in range(self.seconds + 1)]
        )
        drawn = torch.rand(self.seconds, dtype=torch.float64).numpy()
        return self.frames.at(edges[:-1] + (drawn * np.diff(edges)).astype(np.int64))

    @cached_property
    def log_mel(self) -> Tensor:
        """Log-mel spectrograms of the whole seconds, (T, 96, 64) float32."""
        seconds = seconds_of(self.waveform, self.preset.sample_rate)
        return log_mel(torch.from_numpy(seconds.reshape(-1)), SAMPLE_RATE)

    @property
    def seconds(self) -> int:
        """T, whole seconds of pictures."""
        return int(self.frames.count / self.preset.fps)

    def _decoded(self, extension: str, decode: Callable[[bytes, Preset], Any]) -> Any:
        where = f"clip {self.clip} of {self.tar}"
        if extension not in self.parts:
            raise ValueError(f"{where} has no {extension}")
        begin, size = self.parts[extension]
        with self.tar.open("rb") as file:
            file.seek(begin)
            content = file.read(size)
        try:
            return decode(content, self.preset)
        except ValueError as error:
            raise ValueError(f"{where}: {error}; normalise the shard again") from error


def raw_clips(tars: Iterable[Path], preset: Preset) -> dict[str, RawClip]:
    """The clips of these shards by name. Reads the tars' headers only, about 50 microseconds a file in them.

    Raises:
        ValueError: if a file is damaged.
    """
    found = {}
    for tar in tars:
        parts: dict[str, Part] = {}
        try:
            with tarfile.open(tar, "r:") as archive:
                for member in archive:
                    clip, _, extension = member.name.partition(".")
                    if extension == "json":  # the last file of a clip
                        found[clip] = RawClip(clip, tar, preset, parts)
                        parts = {}
                    else:
                        parts[extension] = (member.offset_data, member.size)
        except tarfile.TarError as error:
            raise ValueError(f"{tar} is not a whole tar file: {error}; normalise the shard again") from error
    return found


class RawClips(Dataset[Any]):
    """Clips for training from pictures and sound.

    Args:
        clips: in the order of the dataset.
        read: a clip -> an item, a dataclass of tensors. In it torch's random numbers (also those of torchvision's
            transforms) follow from `seed`, the epoch and the clip's position.
        seed: of the run.
        workers: processes that read.
        together: clips that are evaluated together.
    """

    epoch = 0
    """Set by `fit`; 0 for evaluation."""

    def __init__(
        self,
        clips: Sequence[RawClip],
        read: Callable[[RawClip], Any],
        seed: int,
        workers: int = 0,
        together: int = EVALUATION_BATCH,
    ) -> None:
        self.clips, self.read, self.seed, self.workers, self.together = clips, read, seed, workers, together

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Any:
        index = range(len(self))[index]
        state = np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would keep a stack trace of each call for a GPU that is not in use yet.
            torch.default_generator.manual_seed(int(state[0] >> np.uint64(1)))
            return self.read(self.clips[index].for_one_item())
