"""Save a run's state, so that a killed job continues with the same numbers.

One file a seed, `runs/{experiment}/.resume/seed{n}.pt`, outside the outputs that Snakemake deletes when a job fails. It
is kept until every seed of the job is written, so a job killed at its third seed keeps the first two.
"""

from pathlib import Path
from typing import Any

import torch

from avpipe.files import whole_file
from avpipe.models.checkpoint import UNREADABLE, load_whole


def save_state(path: Path, identity: dict[str, Any], state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists and dictionaries) and the `identity` of its run in one piece."""
    with whole_file(path) as temporary, temporary.open("wb") as file:  # see `write_run`
        torch.save({"identity": identity, "state": state}, file)


def load_state(path: Path, identity: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Load the state saved for exactly this `identity`.

    Returns:
        (state, "") or (None, why there is none); the reason is empty if there is no file.
    """
    if not path.is_file():
        return None, ""
    try:
        saved = load_whole(path)
        found, state = saved["identity"], saved["state"]
    except UNREADABLE as error:
        return None, f"{path} cannot be read ({type(error).__name__})"
    different = sorted(key for key in identity.keys() | found.keys() if identity.get(key) != found.get(key))
    if different:
        return None, f"{path} belongs to another {', '.join(different)}"
    return state, ""
