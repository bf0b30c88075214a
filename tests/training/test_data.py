"""Which clips can be used, and batches that do not depend on where features are kept."""

import numpy as np
import pandas as pd
import pytest
import torch

from avpipe.download import Status
from avpipe.features.store import FeaturesError, open_features
from avpipe.models.base import CrossModalityBatch, FeatureBatch
from avpipe.training.data import FeatureClips, Loader, collate, feature_scales, open_data, read_tables

from .conftest import AUDIO_DIM, MAP, write_features

CPU = torch.device("cpu")
BOTH = {"audio": "ears", "visual": "eyes"}


def clips_of(data, split="train") -> FeatureClips:
    """A split without labels."""
    return FeatureClips(data.store, data.splits[split], FeatureBatch, {})


def test_splits_follow_each_other_in_the_order_of_the_annotations(study):
    data = read_tables(BOTH, study.results)
    assert [(name, split.start, len(split)) for name, split in data.splits.items()] == [
        ("train", 0, 48),
        ("val", 48, 16),
        ("test", 64, 16),
    ]
    assert data.splits["val"].clips["clip"].tolist() == [f"clip{i}" for i in range(48, 64)]
    assert data.store.rows.tolist() == list(range(80))


def test_sizes_for_a_model_are_those_of_the_data(study):
    data = read_tables(BOTH, study.results)
    dims = {"audio_dim": 6, "audio_cells": 1, "visual_dim": 8, "visual_cells": 4}
    assert data.sizes() == {"num_classes": 3, "motion_dim": 0, **dims}
    assert data.segments == 10


@pytest.mark.parametrize(
    ("shape", "dim", "cells"),
    [((5, 8), 8, 1), ((3, 4, 8), 8, 12), ((2, 3, 4, 8), 8, 12)],
    ids=["frames", "map", "frames of maps"],
)
def test_sizes_of_features_with_more_axes(make_study, shape, dim, cells):
    study = make_study(splits=[("train", 4), ("val", 2), ("test", 2)])
    write_features(study.results, "eyes", np.ones((8, 10, *shape), np.float32))
    sizes = read_tables({"visual": "eyes"}, study.results).sizes()
    assert (sizes["visual_dim"], sizes["visual_cells"]) == (dim, cells)


def test_clips_without_a_needed_feature_are_left_out_and_counted(make_study):
    study = make_study(splits=[("train", 10), ("val", 4), ("test", 4), ("none", 2)])
    audio = np.ones((20, 10, 6), np.float32)
    audio[[1, 3, 11]] = np.nan
    write_features(study.results, "ears", audio)
    visual = np.ones((20, 10, 8), np.float32)
    visual[[3, 17]] = np.nan
    write_features(study.results, "eyes", visual)
    both = read_tables(BOTH, study.results)
    named = {"train_named": 10, "val_named": 4, "test_named": 4}
    assert both.counts() == {"train": 8, "val": 3, "test": 3, **named}
    assert both.store.rows.tolist() == [0, 2, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16]
    assert read_tables({"visual": "eyes"}, study.results).counts()["train"] == 9


def test_a_clip_beyond_the_end_of_the_array_is_not_usable(make_study):
    study = make_study(splits=[("train", 20), ("val", 4), ("test", 4)])
    write_features(study.results, "ears", np.ones((16, 10, 6), np.float32))
    assert read_tables({"audio": "ears"}, study.results).counts()["train"] == 16


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_batches_are_the_same_from_memory_and_from_disk(make_study, dtype):
    study = make_study(splits=[("train", 30), ("val", 5), ("test", 5)], dtype=dtype)
    data, on_disk = open_data(BOTH, study.results, CPU), open_data(BOTH, study.results, CPU, resident_bytes=0)
    assert data.store.tensors["visual"].dtype == getattr(torch, dtype)
    assert on_disk.store.tensors is None
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0)).split(7)
    loaders = [Loader(clips_of(each), [p.tolist() for p in order], CPU) for each in (data, on_disk)]
    pairs = list(zip(*loaders, strict=True))
    assert len(pairs) == 5
    for positions, (one, other) in zip(order, pairs, strict=True):
        assert one.clips == other.clips == [f"clip{i}" for i in positions]
        assert one.audio.dtype == other.audio.dtype == torch.float32
        assert torch.equal(one.audio, other.audio)
        assert torch.equal(one.visual, other.visual)
        expected = np.asarray(data.features["audio"].array[:])[positions.numpy()].astype(np.float32)
        assert np.array_equal(one.audio.numpy(), expected)
        assert one.motion is None


@pytest.mark.parametrize("limit", [None, 0], ids=["memory", "disk"])
def test_a_clip_with_a_value_that_is_not_finite_is_not_usable(make_study, limit):
    study = make_study(splits=[("train", 6), ("val", 2), ("test", 2)])
    audio, visual = np.ones((10, 10, 6), np.float32), np.ones((10, 10, 8), np.float16)
    audio[:, 0, 0] = np.arange(10)
    audio[4, 3, 2] = np.nan
    visual[7, 9, 7] = np.inf
    write_features(study.results, "ears", audio)
    write_features(study.results, "eyes", visual)
    data = open_data(BOTH, study.results, CPU, limit)
    assert [(split.start, len(split), split.named) for split in data.splits.values()] == [
        (0, 5, 6),
        (5, 1, 2),
        (6, 2, 2),
    ]
    assert data.store.rows.tolist() == [0, 1, 2, 3, 5, 6, 8, 9]
    assert data.store.read(torch.arange(8))["audio"][:, 0, 0].tolist() == [0, 1, 2, 3, 5, 6, 8, 9]


def test_the_digest_changes_with_annotations_and_features(make_study):
    study = make_study(splits=[("train", 4), ("val", 2), ("test", 2)])
    seen = [read_tables(BOTH, study.results).digest]
    assert read_tables(BOTH, study.results).digest == seen[0]
    write_features(study.results, "ears", np.ones((8, 10, 6), np.float32))
    seen.append(read_tables(BOTH, study.results).digest)
    (study.results / "categories.csv").write_text("index,category\n0,Bark\n1,Bell\n2,Horn\n3,New\n")
    seen.append(read_tables(BOTH, study.results).digest)
    assert len(set(seen)) == 3


def test_what_is_missing_is_named(make_study):
    study = make_study(splits=[("train", 4), ("val", 2), ("test", 2)])
    with pytest.raises(FeaturesError, match="extraction of nose"):
        read_tables({"audio": "nose"}, study.results)
    with pytest.raises(ValueError, match="names no features"):
        read_tables({}, study.results)
    write_features(study.results, "eyes", np.ones((8, 9, 8), np.float32))
    with pytest.raises(ValueError, match=r"'audio': 10, 'visual': 9"):
        read_tables(BOTH, study.results)
    (study.results / "events.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"events\.parquet"):
        read_tables({"audio": "ears"}, study.results)


def test_excluded_clips_are_not_used_even_if_they_have_features(make_study):
    study = make_study(splits=[("train", 4), ("val", 2), ("test", 2)])
    clips = pd.read_parquet(study.results / "clips.parquet")
    clips.loc[[1, 7], "status"] = Status.EXCLUDED.value
    clips.to_parquet(study.results / "clips.parquet", index=False)
    data = read_tables(BOTH, study.results)
    assert data.store.rows.tolist() == [0, 2, 3, 4, 5, 6]
    counts = data.counts()
    assert (counts["train"], counts["train_named"], counts["test"], counts["test_named"]) == (3, 4, 1, 2)


def test_clips_come_in_the_order_of_their_split_s_file(make_study):
    study = make_study(splits=(("train", 16), ("test", 8)))
    manifest = pd.read_parquet(study.results / "manifest.parquet")
    order = [*np.random.default_rng(0).permutation(16), *range(8)]
    manifest.assign(split_order=order).to_parquet(study.results / "manifest.parquet")
    data = open_data({"audio": "ears"}, study.results, CPU)
    by_file = np.argsort(order[:16])
    assert data.splits["train"].clips["clip"].tolist() == [f"clip{i}" for i in by_file]
    assert data.splits["test"].clips["clip"].tolist() == [f"clip{i}" for i in range(16, 24)]
    stored = open_features(study.results / "features" / "ears.zarr").load(by_file)
    assert np.array_equal(clips_of(data).__getitems__(range(16)).audio.numpy(), stored)


def test_only_weakly_supervised_experiments_train_on_the_clips_of_the_split_weak(make_study):
    study = make_study(splits=(("train", 4), ("weak", 3), ("val", 2), ("test", 2)))
    plain, weak = (read_tables(BOTH, study.results, weak=weak) for weak in (False, True))
    assert plain.splits["train"].clips["clip"].tolist() == [f"clip{i}" for i in range(4)]
    assert weak.splits["train"].clips["clip"].tolist() == [f"clip{i}" for i in range(7)]
    assert weak.store.rows.tolist() == list(range(11))
    assert (plain.counts()["train_named"], weak.counts()["train_named"]) == (4, 7)


def test_the_scales_are_those_of_the_training_splits_features(study):
    data = open_data({"audio": "ears", "visual": "eyes"}, study.results, torch.device("cpu"))
    scales = feature_scales(data, "train")
    rows = data.store.rows[: len(data.splits["train"])]
    for role, dim in (("audio", AUDIO_DIM), ("visual", MAP[-1])):
        values = data.features[role].load(rows).reshape(-1, dim).astype(np.float64)
        mean, sd = scales[role]
        np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(sd, values.std(axis=0), rtol=1e-5)


def test_items_carry_their_labels_and_make_the_batch_that_is_read_at_once(study):
    data = open_data(BOTH, study.results, CPU)
    event = torch.rand(48, 10)
    clips = FeatureClips(data.store, data.splits["train"], CrossModalityBatch, {"event": event})
    one = clips[7]
    assert (one.clips, one.audio.shape, one.motion) == ("clip7", (10, AUDIO_DIM), None)
    assert torch.equal(one.event, event[7])
    together, alone = clips.__getitems__([7, 2]), collate([clips[7], clips[2]])
    assert together.clips == alone.clips == ["clip7", "clip2"]
    for name in ("audio", "visual", "event"):
        assert torch.equal(getattr(together, name), getattr(alone, name))


class Squares(torch.utils.data.Dataset):
    """A dataset of plain items, read in processes."""

    workers = 2

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> FeatureBatch:
        return FeatureBatch(torch.tensor([[float(index**2)]]), clips=f"clip{index}")


def test_a_loader_takes_any_dataset_and_leaves_torchs_generator_alone():
    before = torch.get_rng_state()
    batches = list(Loader(Squares(), [[3, 1], [5]], CPU))
    assert [batch.clips for batch in batches] == [["clip3", "clip1"], ["clip5"]]
    assert [batch.audio.flatten().tolist() for batch in batches] == [[9.0, 1.0], [25.0]]
    assert torch.equal(torch.get_rng_state(), before)
