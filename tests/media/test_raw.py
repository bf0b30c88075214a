"""Clips read from tars: only what is asked for, and the same with any number of workers."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from avpipe.features.store import open_features
from avpipe.files import write_json
from avpipe.media.logmel import SAMPLE_RATE, log_mel
from avpipe.media.normalise import normalise_shard
from avpipe.media.presets import CANONICAL
from avpipe.media.segments import VideoFrames, decode_audio, decode_frames, read_shard
from avpipe.models import MODELS
from avpipe.plan.extractor import LearnedConfig
from avpipe.training import TASKS, encode
from avpipe.training.raw import RawClip, RawClips, raw_clips
from tests.predicting import Net

SECONDS = 10


@dataclass
class Item:
    frames: Tensor
    sound: Tensor


def read(clip: RawClip) -> Item:
    return Item(torch.from_numpy(clip.random_frames()), clip.log_mel)


def joined(items: list[Item]) -> Item:
    return Item(torch.stack([item.frames for item in items]), torch.stack([item.sound for item in items]))


@pytest.fixture(scope="module")
def tar(media, shard_of, tmp_path_factory) -> Path:
    """Three clips of which each frame has its own grey level; the last one has no sound."""
    folder = tmp_path_factory.mktemp("raw")
    files = {}
    for number, name in enumerate(("a", "b", "mute")):
        sound = None if name == "mute" else 0.3 * np.sin(np.arange(160_000) * (number + 1) / 9)[None]
        files[name] = media.write(
            folder / f"{name}.mkv",
            times=media.times(16, SECONDS),
            level=lambda time: 20 + int(time * 16),
            sound=sound,
        )
    manifest, downloads = shard_of(folder, files)
    normalise_shard(downloads, manifest, 0, CANONICAL, folder / "0.tar", folder / "0.parquet", 60, 1)
    return folder / "0.tar"


def test_a_clip_gives_the_frames_and_the_sound_of_the_shard(tar):
    clips = raw_clips([tar], CANONICAL)
    for whole in read_shard(tar):
        clip = clips[whole.clip]
        assert whole.video is not None
        np.testing.assert_array_equal(clip.frames.at(np.arange(160)), decode_frames(whole.video, 16))
        if whole.audio is not None:
            waveform = decode_audio(whole.audio)
            np.testing.assert_array_equal(clip.waveform, waveform)
            assert torch.equal(clip.log_mel, log_mel(torch.from_numpy(waveform), SAMPLE_RATE))


def test_random_frames_are_one_of_each_second_and_all_of_them_occur(tar, monkeypatch):
    asked = []
    monkeypatch.setattr(VideoFrames, "at", lambda self, indices: asked.append(indices))
    clip = raw_clips([tar], CANONICAL)["a"]
    for _ in range(200):
        clip.random_frames()
    numbers = np.array(asked)
    assert (numbers // 16 == np.arange(SECONDS)).all()
    assert set((numbers % 16).ravel().tolist()) == set(range(16))


def test_any_number_of_workers_gives_the_same_batches_and_each_epoch_others(tar):
    clips = raw_clips([tar], CANONICAL)
    both = [clips["a"], clips["b"]] * 2

    def batches(workers: int, epoch: int) -> list[Item]:
        dataset = RawClips(both, read, seed=3, workers=workers)
        dataset.epoch = epoch
        loader = DataLoader(dataset, batch_sampler=[[1, 0], [3, 2]], collate_fn=joined, num_workers=workers)
        return list(loader)

    alone = batches(0, 1)
    for mine, theirs in zip(alone, batches(2, 1), strict=True):
        for name in (field.name for field in dataclasses.fields(Item)):
            assert torch.equal(getattr(mine, name), getattr(theirs, name))
    assert not torch.equal(alone[0].frames, batches(0, 2)[0].frames)
    assert not torch.equal(alone[0].frames[0], alone[1].frames[0]), "one clip at two places is drawn anew"


def test_an_item_leaves_no_decoder_behind(tar):
    clips = list(raw_clips([tar], CANONICAL).values())[:2]
    dataset = RawClips(clips, read, seed=0)
    dataset[0], dataset[1]
    assert all("frames" not in vars(clip) and "waveform" not in vars(clip) for clip in clips)


def test_clips_that_are_kept_are_decoded_once_and_give_the_same_items(tar, monkeypatch):
    clips = list(raw_clips([tar], CANONICAL).values())[:2]
    kept = [dataclasses.replace(clip, kept=True) for clip in clips]
    plain, in_memory = RawClips(clips, read, seed=0), RawClips(kept, read, seed=0)
    in_memory[0], in_memory[1]
    expected = [plain[0], plain[1]]
    monkeypatch.setattr(RawClip, "_decoded", lambda *_: pytest.fail("decoded again"))
    for mine, theirs in zip((in_memory[0], in_memory[1]), expected, strict=True):
        for name in (field.name for field in dataclasses.fields(Item)):
            assert torch.equal(getattr(mine, name), getattr(theirs, name))


def test_reading_leaves_the_callers_random_numbers_alone(tar):
    dataset = RawClips(list(raw_clips([tar], CANONICAL).values())[:2], read, seed=0)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    dataset[0]
    assert torch.equal(torch.rand(3), expected)


def test_what_is_missing_or_damaged_is_named(tar, tmp_path):
    mute = raw_clips([tar], CANONICAL)["mute"]
    assert isinstance(mute.frames, VideoFrames)
    with pytest.raises(ValueError, match=r"clip mute .* has no flac"):
        _ = mute.log_mel
    begin, size = mute.parts["mp4"]
    content = bytearray(tar.read_bytes())
    content[begin : begin + size] = b"\0" * size
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(ValueError, match=r"clip mute .*normalise the shard again"):
        raw_clips([tmp_path / "0.tar"], CANONICAL)["mute"].random_frames()
    (tmp_path / "1.tar").write_bytes(tar.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"1\.tar"):
        raw_clips([tmp_path / "1.tar"], CANONICAL)


def learned(run: str, width: int) -> LearnedConfig:
    return LearnedConfig(
        run=run, output="visual", seed=0, task="predicting", model="predicting", preset=CANONICAL, width=width, checkpoint=f"{run}/seed0/c.pt"
    )  # fmt: skip


def test_networks_of_several_runs_share_a_job_and_give_what_each_gives_alone(tar, tmp_path, monkeypatch):
    nets = {name: Net(width=width) for name, width in (("p", 4), ("q", 6))}
    monkeypatch.setitem(TASKS, "predicting", "tests.predicting:Predicting")
    monkeypatch.setitem(MODELS, "predicting", "tests.predicting:Net")
    monkeypatch.setattr(encode, "load_model", lambda checkpoint: nets[checkpoint.parts[-3]])
    asked = {"p_visual": learned("p", 4), "q_visual": learned("q", 6)}
    for jobs, folder in (([asked], "together"), ([{n: c} for n, c in asked.items()], "alone")):
        root = tmp_path / folder
        write_json(root / "manifest.json", {"rows": 3, "shard_size": 3, "dataset": "d", "shards": {"0": ""}})
        (root / "rows.csv").write_text("clip\na\nb\nmute\n")
        for job in jobs:
            encode.encode_shard(tar, root / "manifest.json", 0, job, root / "features")
    for name, config in asked.items():
        together, alone = (
            open_features(tmp_path / f / "features" / f"{name}.zarr") for f in ("together", "alone")
        )
        assert together.array.shape == (3, SECONDS, config.width)
        assert together.valid.tolist() == [True, True, False]
        np.testing.assert_array_equal(together.array[:2], alone.array[:2])
        assert together.array.attrs["weights"] == f"run {config.run}, seed 0"


@pytest.mark.parametrize(
    ("width", "message"), [(5, r"gives \(10, 4\), and \(10, 5\) was planned"), (4, "finite")]
)
def test_a_feature_that_cannot_be_stored_is_refused(tar, tmp_path, monkeypatch, width, message):
    """By the network of a run: another size than its class says, or numbers that are not finite."""
    net = Net()
    torch.nn.init.constant_(net.encoder.bias, torch.nan)
    monkeypatch.setitem(TASKS, "predicting", "tests.predicting:Predicting")
    monkeypatch.setattr(encode, "load_model", lambda checkpoint: net)
    write_json(tmp_path / "manifest.json", {"rows": 3, "shard_size": 3, "dataset": "d"})
    (tmp_path / "rows.csv").write_text("clip\na\nb\nmute\n")
    config = learned("p", width)
    with pytest.raises(ValueError, match=f"visual of predicting, clip a: .*{message}"):
        encode.encode_shard(tar, tmp_path / "manifest.json", 0, {"seen": config}, tmp_path)
