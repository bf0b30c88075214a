"""avpipe: from the annotation files of audio-visual datasets to the tables of papers.

One folder a stage, in the way the data flows::

    datasets -> download -> media -> features -> models + training + metrics -> tables, report

Vocabulary used everywhere: B batch, T segments (10), F frames a segment (16), C classes, D feature width,
M mel bands (64). A *clip* is a 10 s excerpt, a *segment* one second of it, a *shard* the clips of one job,
an *extractor* backbone + preprocessing + pooling, an *experiment* the recipe behind a table's row, a *run*
an experiment with a seed, a *setting* supervised, weakly- or self-supervised, a *protocol* how the checkpoint is
chosen.

In a notebook, `avpipe.open_study(path)` opens what a study wrote (docs/notebook.py). The names below are imported when they
are first used: importing avpipe is cheap on purpose, because the Snakefile and every shell job do it.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from avpipe.features.store import open_features
    from avpipe.models import create_model, list_models, load_model
    from avpipe.notebook import open_study, score, train

__all__ = ["create_model", "list_models", "load_model", "open_features", "open_study", "score", "train"]

_HOMES = {"open_features": "avpipe.features.store"}
_HOMES |= dict.fromkeys(("create_model", "list_models", "load_model"), "avpipe.models")
_HOMES |= dict.fromkeys(("open_study", "score", "train"), "avpipe.notebook")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'avpipe' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
