"""Save a trained model's test-set embeddings, for t-SNE figures."""

from pathlib import Path

import numpy as np
import torch

from avpipe.features.device import claim_device, default_locks
from avpipe.files import read_json, whole_file
from avpipe.models.checkpoint import load_model
from avpipe.plan import registry
from avpipe.plan.experiment import Experiment
from avpipe.training import TASKS
from avpipe.training.data import open_data
from avpipe.training.loop import EVALUATION_BATCH, deterministic


def embed_run(
    experiment: Experiment, results: Path, seed: int, device: str = "auto", threads: int | None = None
) -> None:
    """Write runs/{experiment.id}/seed{n}/embeddings.npz: `clips` (N,) and `embeddings` (N, T, D) float32.

    The file of a failed run has no clips.

    Args:
        experiment: what was trained.
        results: R, the dataset's folder.
        seed: of the run.
        device: as for training.
        threads: of the processor; None leaves torch's choice.

    Raises:
        FileNotFoundError: the run is missing.
        ValueError: the model gives no embeddings.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    folder = results / "runs" / experiment.id / f"seed{seed}"
    arrays: dict[str, np.ndarray] = {"clips": np.array([], dtype=str)}
    if read_json(folder / "metrics.json")["status"] == "ok":
        arrays = embeddings_of(experiment, results, folder / "checkpoint.pt", device)
    with whole_file(folder / "embeddings.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def embeddings_of(
    experiment: Experiment, results: Path, checkpoint: Path, device: str
) -> dict[str, np.ndarray]:
    """`clips` (N,), the test split's usable clips in its order, and the embeddings (N, T, D) of their segments."""
    split_set = registry.load(TASKS, experiment.task, "task").split_set
    parts: dict[str, list[torch.Tensor]] = {}
    with claim_device(device, default_locks()) as place, deterministic(place), torch.inference_mode():
        data, reader = open_data(experiment.features, results, place, split_set=split_set)
        model, split = load_model(checkpoint).to(place), data.splits["test"]
        order = torch.arange(split.start, split.start + len(split)).split(EVALUATION_BATCH)
        for batch in reader.batches(order):
            for name, embedding in model(batch).embeddings.items():
                parts.setdefault(name, []).append(embedding.float().cpu())
    if not parts:
        raise ValueError(
            f"the model {experiment.model} shows no embeddings; set `embeddings` of its AVOutput, as models/tacma.py does"
        )
    clips = split.clips["clip"].to_numpy(dtype=str)
    return {"clips": clips} | {name: torch.cat(tensors).numpy() for name, tensors in parts.items()}
