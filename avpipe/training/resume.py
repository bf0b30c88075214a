"""Save a training's state, so that a killed job continues with the same numbers.

A training has a folder, `runs/{experiment}/.resume/seed{n}`, outside the outputs that Snakemake deletes when a job fails.
It is kept until every seed of the job is written, so a job killed at its third seed keeps the first two.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from avpipe.files import whole_file
from avpipe.models.checkpoint import UNREADABLE, load_whole
from avpipe.training.logs import say

KEPT = 2
"""Newest states that are kept: if one cannot be read, the one before it is used."""


@dataclass(frozen=True)
class States:
    """The saved states of one training.

    Args:
        folder: gets one file a state.
        identity: what the numbers depend on; a state of another identity is not used.
        seconds: between two states; None: only after the last epoch.
        steps: of the optimizer between two states, besides; None: time alone decides.
    """

    folder: Path
    identity: dict[str, Any]
    seconds: float | None = 30.0
    steps: int | None = None

    def save(self, at: tuple[int, int], state: dict[str, Any]) -> None:
        """Write `state` (tensors, numbers, strings, lists and dictionaries) at (epoch, step) in one piece."""
        with (
            whole_file(self.folder / "{:06}-{:06}.pt".format(*at)) as temporary,
            temporary.open("wb") as file,
        ):
            # Given a path, torch.save would write its temporary name into the file, and hide that the disk is full.
            torch.save({"identity": self.identity, "state": state}, file)
        for old in self._files()[KEPT:]:
            old.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The newest readable state of this very training, if any. Says why a state is not used."""
        for path in self._files():
            state, problem = _load(path, self.identity)
            if not problem:
                return state
            say(f"not used: {problem}")
        return None

    def forget(self) -> None:
        """Remove all states."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob("*.pt"), reverse=True)


def _load(path: Path, identity: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The state saved for exactly this `identity`, or None and why there is none."""
    try:
        saved = load_whole(path)
        found, state = saved["identity"], saved["state"]
    except UNREADABLE as error:
        return None, f"{path} cannot be read ({type(error).__name__})"
    different = sorted(key for key in identity.keys() | found.keys() if identity.get(key) != found.get(key))
    if different:
        return None, f"{path} belongs to another {', '.join(different)}"
    return state, ""
