"""Canonical clips come back as the frames and samples of each second."""

import io
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from avpipe.media.normalise import normalise_shard
from avpipe.media.presets import CANONICAL, Preset
from avpipe.media.segments import VideoFrames, decode_audio, decode_frames, frame_indices, read_shard
from tests.builders import encode_video


@pytest.fixture(scope="module")
def tar(shared: Path, shard_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard of real clips: H.264 at 29.97 Hz, VP8, and sound only."""
    folder = tmp_path_factory.mktemp("shard")
    clips = shared / "data" / "clips"
    files = {
        "a": clips / "nasa_13013.mp4",
        "b": clips / "stream-of-water.webm",
        "c": clips / "edge/nasa_audio_only.mp3",
    }
    manifest, downloads = shard_of(folder, files, row=[256, 257, 300])
    normalise_shard(downloads, manifest, 0, CANONICAL, folder / "0.tar", folder / "0.parquet", 60, 2)
    return folder / "0.tar"


def with_pyav(video: bytes) -> np.ndarray:
    """All frames, decoded as where decord has no wheel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "decord", None)
        return decode_frames(video, 16)


def test_a_shard_gives_its_clips_in_order_with_their_rows(tar):
    clips = list(read_shard(tar))
    assert [(clip.clip, clip.row) for clip in clips] == [("a", 256), ("b", 257), ("c", 300)]
    assert [clip.video is None for clip in clips] == [False, False, True]
    assert clips[2].meta["status"] == "no_video"
    assert clips[0].meta["start"] is None


def test_the_tar_holds_webdataset_samples(tar):
    with tarfile.open(tar) as archive:
        assert " ".join(archive.getnames()) == "a.mp4 a.flac a.json b.mp4 b.flac b.json c.flac c.json"


def test_decord_gives_the_same_bytes_as_pyav(tar):
    pytest.importorskip("decord")
    for clip in read_shard(tar):
        if clip.video is not None:
            every = with_pyav(clip.video)
            assert every.shape == (160, 256, 256, 3)
            np.testing.assert_array_equal(decode_frames(clip.video, 16), every)
            np.testing.assert_array_equal(decode_frames(clip.video, 4), every[frame_indices(4)])


def test_without_decord_pyav_decodes(tar, monkeypatch):
    video = next(read_shard(tar)).video
    assert video is not None
    usual = decode_frames(video, 2)
    monkeypatch.setitem(sys.modules, "decord", None)
    np.testing.assert_array_equal(decode_frames(video, 2), usual)


@pytest.mark.parametrize("fps", [1, 2, 4, 8, 16])
def test_the_pictures_of_a_segment_lie_evenly_inside_its_second(fps):
    indices = frame_indices(fps)
    assert len(indices) == 10 * fps
    assert indices[0] == 8 // fps  # in the middle of the first of fps equal parts
    assert (indices // 16 == np.repeat(np.arange(10), fps)).all()
    assert set(np.diff(indices)) == {16 // fps}
    middles = (np.arange(10 * fps) + 0.5) / fps
    shown = (indices + 0.5) / 16  # frame i is shown in the middle of its own 1/16 s
    assert np.abs(shown - middles).max() <= 0.5 / 16


def test_llps_rule_goes_evenly_from_the_first_frame_to_the_last():
    evenly = frame_indices(8, rule="linspace")
    assert evenly[:3].tolist() == [0, 2, 4]
    assert evenly[40] == 81, "40 * 159 / 79 = 80.506"
    assert (evenly[-1], len(evenly)) == (159, 80)


@pytest.mark.parametrize("fps", [0, 3, 32])
def test_a_rate_that_does_not_divide_is_refused(fps):
    with pytest.raises(ValueError, match="must divide 16"):
        frame_indices(fps)


def test_the_waveform_is_mono_float_at_16_khz(tar):
    audio = next(read_shard(tar)).audio
    assert audio is not None
    waveform = decode_audio(audio)
    assert waveform.dtype == np.float32
    assert waveform.shape == (160_000,)
    assert 0.01 < np.abs(waveform).max() < 1


def test_other_files_than_canonical_clips_are_refused(tmp_path, media):
    other = media.write(tmp_path / "a.mp4", times=media.times(10, 2)).read_bytes()
    for decode in (lambda: decode_frames(other, 1), lambda: with_pyav(other)):
        with pytest.raises(ValueError, match="20 frames instead of 160"):
            decode()
    for junk in (b"", b"junk" * 100):
        for decode, *options in ((decode_frames, 1), (with_pyav,), (decode_audio,)):
            with pytest.raises(ValueError, match="not a canonical clip"):
                decode(junk, *options)
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(8_000), 8_000, format="FLAC")
    with pytest.raises(ValueError, match="8000 samples at 8000 Hz"):
        decode_audio(buffer.getvalue())


def test_a_file_that_is_no_shard_is_named(tmp_path):
    (tmp_path / "0.tar").write_bytes(b"junk" * 1000)
    with pytest.raises(ValueError, match=r"0\.tar"):
        list(read_shard(tmp_path / "0.tar"))
    with tarfile.open(tmp_path / "1.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("readme.txt"), io.BytesIO())
    with pytest.raises(ValueError, match=r"readme\.txt"):
        list(read_shard(tmp_path / "1.tar"))


def test_a_changed_byte_of_the_tar_is_noticed_before_a_clip_is_read(tar, tmp_path):
    whole = tar.read_bytes()
    shutil.copy(tar.with_suffix(".parquet"), tmp_path / "0.parquet")
    damaged = tmp_path / "0.tar"
    for place in (
        600,
        len(whole) // 2,
        len(whole) - 1,
    ):  # in a clip's video, further on, in the padding at the end
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"0\.tar is damaged.*delete it"):
            next(read_shard(damaged))
    damaged.write_bytes(whole)
    assert next(read_shard(damaged)).clip == "a"


@pytest.mark.parametrize("width", [48, 64])
def test_pyav_decodes_frames_of_widths_that_decord_cannot_copy(width):
    pictures = np.random.default_rng(0).integers(0, 256, (20, 64, width, 3), np.uint8)
    preset = Preset(name="narrow", seconds=10, fps=2, width=width, height=64, sample_rate=16_000)
    frames = VideoFrames(encode_video(pictures, 2), preset).at(np.arange(20))
    assert frames.shape == (20, 64, width, 3)


def test_single_frames_are_those_of_the_whole_clip(tar):
    video = next(read_shard(tar)).video
    assert video is not None
    every = VideoFrames(video).at(np.arange(160))
    for indices in ([0], [15, 16], [159, 3, 40], [31, 30, 100, 101]):
        np.testing.assert_array_equal(VideoFrames(video).at(np.array(indices)), every[indices])
