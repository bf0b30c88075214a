"""What tests of several folders write: archives, small videos, a trained run's files."""

import io
import json
import tarfile
import zipfile
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pandas as pd

from avpipe.plan.experiment import Experiment


def tar_of(members: dict[str, bytes], mode: str = "w") -> bytes:
    """A tar file with these members, in this order; mode "w:gz" compresses it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def zip_of(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file with these members, in this order."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def encode_video(
    pictures: Iterable[npt.NDArray[np.uint8]], fps: int = 16, options: dict[str, str] | None = None
) -> bytes:
    """An H.264 mp4 of (H, W, 3) RGB pictures, with a key frame every second, as canonical clips have it."""
    out, stream = io.BytesIO(), None
    with av.open(out, "w", format="mp4") as container:
        for picture in pictures:
            if stream is None:
                given = {"g": str(fps), "bf": "0", "preset": "ultrafast", **(options or {})}
                stream = container.add_stream("libx264", rate=Fraction(fps), options=given)
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        assert stream is not None, "no pictures"
        container.mux(stream.encode())
    return out.getvalue()


def write_run(
    results: Path,
    experiment: Experiment,
    seed: int,
    accuracy: float = 0.5,
    predictions: pd.DataFrame | None = None,
    **changes: Any,
) -> Path:
    """Write metrics.json (and predictions.parquet) as training does; returns the seed's folder.

    Args:
        accuracy: of the checkpoint that is best on the validation split, 0 to 1.
        predictions: the content of predictions.parquet.
        changes: parts of metrics.json to replace.
    """
    folder = results / "runs" / experiment.id / f"seed{seed}"
    folder.mkdir(parents=True)
    record = {
        "experiment": experiment.model_dump(mode="json"), "experiment_id": experiment.id, "seed": seed,
        "status": "ok", "reason": None,
        "metrics": {"validation": {"accuracy": accuracy}, "last": {"accuracy": 0.25}, "best_test": {"accuracy": 0.75}},
        "epochs": {"validation": 3, "last": 9, "best_test": 5},
        "counts": {"train": 30, "train_named": 30, "val": 8, "val_named": 8, "test": 8, "test_named": 8},
        "parameters": 1234, "seconds": 12.0, "device": "cpu", "code": "0123456789abcdef",
        "environment": {"python": "3.11.9"},
        "features": {"audio": {"extractor": "vggish", "weights": "pretrained", "sha256": "ab" * 32}},
        "log": "logs/train.log",
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(record | changes), encoding="utf-8")
    if predictions is not None:
        predictions.to_parquet(folder / "predictions.parquet", index=False)
    return folder
