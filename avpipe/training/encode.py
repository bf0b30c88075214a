"""Features by the network of a run: the one way back from training to features (docs/decisions/020).

The task's `segments` reads a clip, and the model's `encode` turns a batch of clips into features.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avpipe.clips import manifest_file, read_rows
from avpipe.features.device import claim_device, default_locks
from avpipe.features.spec import feature_shape
from avpipe.features.store import write_shard
from avpipe.files import read_json
from avpipe.models import MODELS, load_model
from avpipe.plan import fingerprint, registry
from avpipe.plan.extractor import LearnedConfig
from avpipe.training import TASKS
from avpipe.training.data import in_order
from avpipe.training.pretrained import weights_digest
from avpipe.training.raw import RawClips, raw_clips


def encode_shard(
    segments: Path,
    manifest: Path,
    shard: int,
    configs: Mapping[str, LearnedConfig],
    out: Path,
    *,
    device: str = "auto",
    threads: int = 1,
) -> dict[str, Any]:
    """Compute one shard of the features that networks of runs give, and write its file in each array.

    Each clip is decoded once for all networks.

    Args:
        segments: the shard's tar of canonical clips.
        manifest: manifest.json; rows.csv lies beside it.
        shard: its number.
        configs: name of the array -> the run and which of its outputs; all of one task and one preset.
        out: the folder features/; an array is out/{name}.zarr.
        device: "auto", "cpu", "cuda" or "cuda:N".
        threads: of the processor; all but one decode.

    Returns:
        Counts for the log.

    Raises:
        FileNotFoundError: the run is missing.
        ValueError: the run failed, a clip cannot be decoded, or the network's output has another shape or numbers that
            are not finite.
    """
    index = read_json(manifest)
    ((task_name, preset),) = {(each.task, each.preset) for each in configs.values()}
    together = min(each.batch_size for each in configs.values())
    models: dict[str, Any] = {each.checkpoint: load_model(Path(each.checkpoint)) for each in configs.values()}
    task = registry.load(TASKS, task_name, "task")
    first, size = shard * int(index["shard_size"]), int(index["shard_size"])
    rows = {clip: row for row, clip in enumerate(read_rows(manifest_file(manifest.parent, "rows.csv")))}
    usable = set(task.parts)
    clips = [c for c in raw_clips([segments], preset).values() if c.parts.keys() >= usable]
    values = {name: np.full((size, *feature_shape(c)), np.nan, c.dtype) for name, c in configs.items()}
    sha256, done = {run: weights_digest(model.state_dict()) for run, model in models.items()}, 0
    torch.set_num_threads(threads)
    with claim_device(device, default_locks()) as place, torch.inference_mode():
        for model in models.values():
            model.to(place)
        for batch in in_order(RawClips(clips, task.segments, 0, threads - 1), place, together):
            found = {run: model.encode(batch) for run, model in models.items()}
            these = clips[done : done + together]
            for name, each in configs.items():
                features = found[each.checkpoint][each.output].float().cpu().numpy()
                for clip, feature in zip(these, features, strict=True):
                    values[name][rows[clip.clip] - first] = _checked(feature, clip.clip, each)
            done += len(these)
    environment = {**fingerprint.environment(), "device": place.type}
    environment.pop("cores")
    for name, each in configs.items():
        identity = {
            "fps": None,
            "weights_files": {},
            "preprocessing": f"{each.task}.segments, {each.model}.encode",
            "dataset": index["dataset"],
            "config": each.model_dump(mode="json", exclude={"batch_size", "study"}),
            "extractor": name,
            "weights": f"run {Path(each.checkpoint).parts[-3]}, seed {each.seed}",
            "sha256": sha256[each.checkpoint],
        }
        named = registry.target(TASKS, each.task, "task"), registry.target(MODELS, each.model, "model")
        code = fingerprint.fingerprint(__name__, *(target.split(":")[0] for target in named))
        about = {"environment": environment, "code": code}
        write_shard(out / f"{name}.zarr", each, shard, int(index["rows"]), values[name], identity, about)
    return {"clips": len(clips), "device": str(place)}


def _checked(feature: np.ndarray, clip: str, config: LearnedConfig) -> np.ndarray:
    """One clip's feature in the type to store. Raises ValueError if it cannot be stored."""
    where, shape = f"{config.output} of {config.model}, clip {clip}", feature_shape(config)
    if feature.shape != shape:
        raise ValueError(f"{where}: `encode` gives {feature.shape}, and {shape} was planned (`outputs`)")
    with np.errstate(over="ignore"):
        stored = feature.astype(config.dtype, copy=False)
    if not np.isfinite(stored).all():
        raise ValueError(f"{where}: a number is not finite, or too large for {config.dtype}")
    return stored
