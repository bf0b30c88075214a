"""A shard through extractors: the right features in the right rows, whatever the batches and the company."""

import io
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from avpipe.features import extract, open_features, runtime
from avpipe.features.backbones import create_extractor
from avpipe.features.extract import ExtractionError, extract_shard
from avpipe.media.segments import VideoFrames, decode_frames, read_shard
from avpipe.plan.extractor import ExtractorConfig
from avpipe.plan.section import ConfigError

pytestmark = pytest.mark.usefixtures("drawn_once")

LOOK = ExtractorConfig(backbone="resnet18", weights="random", image_size=32)
SOUND = ExtractorConfig(backbone="vggish", weights="random")
MAPS = LOOK.model_copy(update={"pooling": "map", "fps": 2, "dtype": "float16", "batch_size": 7})


def run(
    study: Any, extractors: dict[str, ExtractorConfig], shards: tuple[int, ...] = (0, 1)
) -> dict[str, Any]:
    for shard in shards:
        timings = extract_shard(
            study.tar(shard), study.manifest, shard, extractors, study.features, device="cpu", threads=1
        )
    return timings


def values(study: Any, name: str) -> np.ndarray:
    return zarr.open_array(study.features / f"{name}.zarr", mode="r")[:]


def test_each_clip_gets_its_own_features_in_its_own_row(study: Any) -> None:
    run(study, {"look": LOOK, "sound": SOUND})
    look, sound = open_features(study.features / "look.zarr"), open_features(study.features / "sound.zarr")
    assert look.clips == sound.clips == tuple(study.names)
    assert np.flatnonzero(~look.valid).tolist() == [study.missing, study.dark]
    assert np.flatnonzero(~sound.valid).tolist() == [study.missing, study.silent]
    networks = {
        name: create_extractor(c, torch.device("cpu"), None) for name, c in (("look", LOOK), ("sound", SOUND))
    }
    for shard in (0, 1):
        for clip in read_shard(study.tar(shard)):
            with torch.inference_mode():
                if clip.video is not None:
                    frames = torch.from_numpy(decode_frames(clip.video, 1))[:, None]
                    expected = networks["look"](frames).numpy()
                    np.testing.assert_allclose(look.array[clip.row], expected, rtol=1e-3, atol=1e-4)
                if clip.audio is not None:
                    seconds = torch.from_numpy(study.samples[clip.row].reshape(10, 16_000))
                    expected = networks["sound"](seconds).numpy()
                    np.testing.assert_allclose(sound.array[clip.row], expected, rtol=1e-3, atol=1e-4)


def test_batches_and_company_change_nothing(study: Any) -> None:
    """Batches of 1, 3 (across clips' borders) and 64; alone, and with extractors of other rates."""
    alone = {f"b{size}": LOOK.model_copy(update={"batch_size": size}) for size in (1, 3, 64)}
    for name, config in alone.items():
        run(study, {name: config}, (0,))
    run(study, {"maps": MAPS}, (0,))
    run(study, {"look2": LOOK, "maps2": MAPS}, (0,))
    expected = values(study, "b1")
    for name in ("b3", "b64", "look2"):
        np.testing.assert_allclose(values(study, name), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(values(study, "maps2"), values(study, "maps"))
    assert values(study, "maps").shape == (study.rows, 10, 1, 1, 512)


def test_a_clip_is_decoded_once_for_all_extractors(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []

    class Counting(VideoFrames):
        def at(self, indices: np.ndarray) -> np.ndarray:
            decoded.append(len(indices))
            return super().at(indices)

    monkeypatch.setattr(extract, "VideoFrames", Counting)
    timings = run(study, {"look": LOOK, "maps": MAPS, "sound": SOUND}, (0,))
    assert len(decoded) == 3, "rows 0, 2 and 3 have pictures"
    assert timings["clips"] == 3
    assert timings["segments"] == {"look": 30, "maps": 30, "sound": 20}


def test_the_rule_by_which_frames_are_picked_is_an_option(study: Any) -> None:
    evenly = LOOK.model_copy(update={"fps": 2, "frames": "linspace"})
    run(study, {"middle": LOOK.model_copy(update={"fps": 2}), "evenly": evenly})
    run(study, {"alone": evenly})
    np.testing.assert_array_equal(values(study, "alone"), values(study, "evenly"))
    assert not np.array_equal(values(study, "middle"), values(study, "evenly"), equal_nan=True)


def test_again_gives_the_same_bytes(study: Any) -> None:
    run(study, {"look": LOOK, "maps": MAPS})
    first = {f: f.read_bytes() for f in study.features.rglob("*") if f.is_file()}
    shutil.rmtree(study.features)
    run(study, {"look": LOOK, "maps": MAPS}, (1, 0))
    assert {f: f.read_bytes() for f in study.features.rglob("*") if f.is_file()} == first


def test_attributes_say_where_features_come_from(study: Any) -> None:
    run(study, {"sound": SOUND}, (0,))
    attributes = zarr.open_array(study.features / "sound.zarr", mode="r").attrs.asdict()
    assert attributes["weights"] == "random, seed 0"
    assert len(attributes["sha256"]) == 64
    assert attributes["dataset"] == "tiny"
    assert attributes["config"]["last_relu"] is True
    assert "log(mel + 0.01)" in attributes["preprocessing"]
    (environment,) = attributes["environments"]
    assert "torch" in environment["libraries"]
    assert (environment["device"], environment["runtime"].split()[0]) == ("cpu", "torch")
    assert environment["drift_from_float32"]["cosine"] > 0.99999


def test_shards_of_two_runtimes_make_one_array_that_names_both(
    study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = [run(study, {"look": LOOK}, (0,))]
    monkeypatch.setattr(runtime, "WORTH_CONVERTING", 1)
    monkeypatch.setattr(runtime, "_on_openvino", lambda network, *_: (network, "openvino 1"))
    logged += [run(study, {"look": LOOK}, (shard,)) for shard in (1, 1)]
    attributes = open_features(study.features / "look.zarr").array.attrs.asdict()
    named = [environment["runtime"] for environment in attributes["environments"]]
    assert named == [f"torch {torch.__version__}", "openvino 1"]
    assert [timings["runtimes"]["look"] for timings in logged] == [*named, named[1]]
    assert [timings["drift_from_float32"]["look"]["cosine"] for timings in logged] == [1, 1, 1]


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from avpipe.plan.extractor import ExtractorConfig
from avpipe.features.extract import extract_shard

rename, count = Path.replace, [0]
def killed_at_the_fourth_file(self, target):
    count[0] += 1
    if count[0] == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.replace = killed_at_the_fourth_file

root = Path(sys.argv[1])
extractors = {n: ExtractorConfig.model_validate_json(j) for n, j in zip(sys.argv[2::2], sys.argv[3::2])}
extract_shard(root / "segments/canonical/0.tar", root / "manifest.json", 0, extractors, root / "features",
              device="cpu", threads=1)
"""


def test_killed_and_run_again_gives_the_same_bytes(study: Any) -> None:
    extractors = {"look": LOOK, "maps": MAPS}
    run(study, extractors, (0,))
    expected = {f: f.read_bytes() for f in study.features.rglob("*") if f.is_file()}
    shutil.rmtree(study.features)
    arguments = [part for name, config in extractors.items() for part in (name, config.model_dump_json())]
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(study.root), *arguments], timeout=120, check=False
    )
    assert child.returncode == -signal.SIGKILL
    assert (study.features / "look.zarr/c/0/0/0").is_file()  # the first extractor's file is whole
    assert not (study.features / "maps.zarr/c/0/0/0/0/0").exists()
    run(study, extractors, (0,))
    left = {
        f: f.read_bytes() for f in study.features.rglob("*") if f.is_file() and not f.name.endswith(".tmp")
    }
    assert left == expected


def replaced(study: Any, extension: str, content: bytes) -> Path:
    """Shard 0 with clip c3's part replaced."""
    path = study.root / "other.tar"
    with tarfile.open(study.tar(0)) as old, tarfile.open(path, "w") as new:
        for member in old:
            file = old.extractfile(member)
            assert file is not None
            part = content if member.name == f"c3.{extension}" else file.read()
            member.size = len(part)
            new.addfile(member, io.BytesIO(part))
    return path


@pytest.mark.parametrize(
    ("extension", "content", "message"),
    [
        ("mp4", b"no video", r"other\.tar: clip c3: not a canonical clip"),
        ("json", b'{"row": 4}', "clip c3 has row 4, which is not in shard 0 of 4 clips"),
    ],
)
def test_a_broken_shard_is_an_error_that_names_the_clip(
    extension: str, content: bytes, message: str, study: Any
) -> None:
    tar = replaced(study, extension, content)
    with pytest.raises(ExtractionError, match=message):
        extract_shard(tar, study.manifest, 0, {"look": LOOK}, study.features, device="cpu", threads=1)
    assert not study.features.exists()


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (1e6, "float16", "look, clip c0, segment 0: 1e\\+06 is too large for float16; set `dtype: float32`"),
        (float("nan"), "float32", "gave a value that is not a number; set `precision: float32`"),
    ],
)
def test_features_that_cannot_be_stored_are_an_error(
    value: float, dtype: str, message: str, study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "avpipe.features.visual.VisualExtractor.__call__",
        lambda self, segments: torch.full((len(segments), 512), value),
    )
    config = LOOK.model_copy(update={"dtype": dtype})
    with pytest.raises(ExtractionError, match=message):
        run(study, {"look": config}, (0,))


def test_options_are_checked_before_anything_is_read(study: Any) -> None:
    with pytest.raises(ConfigError, match=r"extractors\.x\.backbone: unknown backbone 'resnet'"):
        run(study, {"x": ExtractorConfig(backbone="resnet")})


def test_a_shard_of_silent_clips_gives_a_file_for_vggish(study: Any) -> None:
    with tarfile.open(study.tar(0)) as old, tarfile.open(study.root / "silent.tar", "w") as new:
        for member in old:
            if not member.name.endswith(".flac"):
                new.addfile(member, old.extractfile(member))
    timings = extract_shard(
        study.root / "silent.tar",
        study.manifest,
        0,
        {"sound": SOUND},
        study.features,
        device="cpu",
        threads=1,
    )
    assert timings["segments"] == {}
    assert np.isnan(values(study, "sound")[: study.shard_size]).all()
