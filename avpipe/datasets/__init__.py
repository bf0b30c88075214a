"""Datasets: which clips exist and what is annotated. Importing this package loads this table only."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from avpipe.plan import registry
from avpipe.plan.registry import LazyTable

if TYPE_CHECKING:
    from avpipe.datasets.base import Annotations

__all__ = ["DATASETS", "RENDERERS", "clip_seconds", "read_annotations"]

DATASETS: LazyTable = {
    "audioset": "avpipe.datasets.audioset:read_audioset",
    "ave": "avpipe.datasets.ave:read_ave",
    "demo": "avpipe.datasets.demo:read_demo",
    "demo_motion": "avpipe.datasets.demo_motion:read_demo_motion",
    "folder": "avpipe.datasets.folder:read_folder",
    "kinetics_sounds": "avpipe.datasets.kinetics_sounds:read_kinetics_sounds",
    "llp": "avpipe.datasets.llp:read_llp",
    "ucf101": "avpipe.datasets.ucf101:read_ucf101",
    "voxceleb": "avpipe.datasets.voxceleb:read_voxceleb",
}

RENDERERS: LazyTable = {
    "demo": "avpipe.datasets.demo:render_demo",
    "demo_motion": "avpipe.datasets.demo_motion:render_demo_motion",
}
"""The kinds whose clips and annotations are rendered. A study's options of such a dataset are those of its renderer."""


def read_annotations(kind: str, annotations: str | Path, **options: Any) -> "Annotations":
    """Read a dataset's own annotation files.

    Args:
        kind: the format, a name of `DATASETS`, or "package.module:function" of a reader like those.
        annotations: folder of the annotation files; for `folder`, the folder of videos itself.
        options: keyword-only arguments of the format's reader.

    Raises:
        UnknownNameError: for an unknown format or option.
        AnnotationError: for a missing or broken file; it names the file, the line and what was expected.
    """
    qualified = registry.target(DATASETS, kind, "kind of dataset")
    registry.check_options(qualified, options, f"the reader of {kind} annotations")
    annotations_of: Annotations = registry.load(DATASETS, kind, "kind of dataset")(
        Path(annotations), **options
    )
    return annotations_of


def clip_seconds(kind: str, options: dict[str, Any]) -> float:
    """How long a dataset's clips are: 10 s, or what an option of the kind says; infinite where that is not known."""
    if ":" in kind:
        return float("inf")
    named = {"folder": ("window", DATASETS), "demo_motion": ("seconds", RENDERERS)}
    if kind not in named:
        return 10.0
    option, table = named[kind]
    default = registry.options_of(table[kind])[option]["default"]
    return float(options.get(option, default)) or float("inf")
