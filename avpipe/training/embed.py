"""Save a trained model's test-set embeddings, for t-SNE figures."""

from pathlib import Path

import numpy as np
import torch

from avpipe.features.device import claim_device, default_locks
from avpipe.files import read_json, whole_file
from avpipe.models.checkpoint import load_model
from avpipe.plan.experiment import Experiment
from avpipe.training.data import in_order
from avpipe.training.run import deterministic, open_task


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
        arrays = embeddings_of(experiment.at(seed), results, folder / "checkpoint.pt", device)
    with whole_file(folder / "embeddings.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def embeddings_of(
    experiment: Experiment, results: Path, checkpoint: Path, device: str
) -> dict[str, np.ndarray]:
    """`clips` (N,), the test split's usable clips in its order, and the embeddings (N, T, D) of their segments."""
    parts: dict[str, list[torch.Tensor]] = {}
    clips: list[str] = []
    with claim_device(device, default_locks()) as place, deterministic(place), torch.inference_mode():
        _, task = open_task(experiment, results, place)
        model = load_model(checkpoint).to(place)
        for batch in in_order(task.datasets()["test"], place):
            clips += batch.clips
            for name, embedding in model(batch.unlabelled()).embeddings.items():
                parts.setdefault(name, []).append(embedding.float().cpu())
    if not parts:
        raise ValueError(
            f"the model {experiment.model} shows no embeddings; set `embeddings` of its output, as models/tacma.py does"
        )
    return {"clips": np.array(clips, dtype=str)} | {
        name: torch.cat(tensors).numpy() for name, tensors in parts.items()
    }
