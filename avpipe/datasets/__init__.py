"""Datasets: which clips exist and what is annotated. Importing this package loads this table only."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from avpipe.plan import registry
from avpipe.plan.registry import LazyTable

if TYPE_CHECKING:
    from avpipe.datasets.base import Annotations

__all__ = ["DATASETS", "clip_seconds", "read_annotations"]

DATASETS: LazyTable = {
    "audioset": "avpipe.datasets.audioset:read_audioset",
    "ave": "avpipe.datasets.ave:read_ave",
    "demo": "avpipe.datasets.demo:read_demo",
    "folder": "avpipe.datasets.folder:read_folder",
    "kinetics_sounds": "avpipe.datasets.kinetics_sounds:read_kinetics_sounds",
    "llp": "avpipe.datasets.llp:read_llp",
    "ucf101": "avpipe.datasets.ucf101:read_ucf101",
}


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
    """How long a dataset's clips are: 10 s, or the option `window` of a folder; infinite where that is not known."""
    if ":" in kind:
        return float("inf")
    if kind != "folder":
        return 10.0
    default = registry.options_of(DATASETS["folder"])["window"]["default"]
    return float(options.get("window", default)) or float("inf")
