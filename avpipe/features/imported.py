"""Features that exist already, read clip by clip: AVE's h5 files (a row a clip) and folders of npy files (a file a clip)."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import numpy.typing as npt

from avpipe.clips import local_file
from avpipe.config.imported import ImportedConfig
from avpipe.datasets.ave import noisy_clip
from avpipe.datasets.base import number_repeats, read_lines, youtube_name
from avpipe.datasets.h5 import open_array
from avpipe.features.weights import file_sha256

Values = npt.NDArray[Any]


class ImportFeaturesError(ValueError):
    """Features of others cannot be read; the message names the file and what was expected."""


class Published(Protocol):
    """Features of others, by clip."""

    def read(self, clip: str, source: str) -> Values | None:
        """One clip's features, in the file's shape and type; None where they are not there."""


@contextmanager
def open_published(config: ImportedConfig, ledger: Sequence[str]) -> Iterator[Published]:
    """Open what `config` names.

    Args:
        config: path, format and shape.
        ledger: clips in the order of the array's rows, for h5 files without `rows`.

    Raises:
        ImportFeaturesError, H5Error: if it is not there, is damaged, or has another shape or number of rows.
    """
    path = Path(config.path)
    if config.format == "npy":
        if not path.is_dir():
            raise ImportFeaturesError(f"{path} is not a folder; expected the folder of npy files")
        yield NpyFolder(path, config)
        return
    with ExitStack() as stack:
        array = stack.enter_context(open_array(path, config.key))
        names = row_names(Path(config.rows)) if config.rows else list(ledger)
        if len(names) != len(array):
            who = config.rows or "rows.csv"
            raise ImportFeaturesError(
                f"{path} has {len(array)} rows, but {who} names {len(names)} clips: set `rows` to the file that "
                "names the clip of each row (for AVE's files, the Annotations.txt they were made from)"
            )
        places = {name: (array, row) for row, name in enumerate(names)}
        if config.noisy:
            more = stack.enter_context(open_array(Path(config.noisy), config.key))
            places |= {noisy_clip(row): (more, row) for row in range(len(more))}
        for opened in {id(array): array for array, _ in places.values()}.values():
            check_shape(opened.shape[1:], config, opened.file.filename)
        yield H5Rows(places)


class H5Rows:
    """Rows of one or two h5 files."""

    def __init__(self, places: dict[str, tuple[h5py.Dataset, int]]) -> None:
        self.places = places

    def read(self, clip: str, source: str) -> Values | None:
        """See `Published`."""
        if clip not in self.places:
            return None
        array, row = self.places[clip]
        try:
            return np.asarray(array[row])
        except OSError as error:
            raise ImportFeaturesError(
                f"{array.file.filename}, row {row} cannot be read: {error}; get the file again"
            ) from error


class NpyFolder:
    """A folder with a file a clip."""

    def __init__(self, folder: Path, config: ImportedConfig) -> None:
        self.folder, self.config = folder, config

    def read(self, clip: str, source: str) -> Values | None:
        """See `Published`. Objects in a file, which loading would have to run, are refused."""
        path = local_file(self.folder, self.config.pattern, clip, source)
        if path is None or not path.is_file():
            return None
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ImportFeaturesError(
                f"{path} is no whole npy file of numbers: {error}; get it again, or remove it to go on without"
            ) from error
        if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
            raise ImportFeaturesError(f"{path} is not one npy array of numbers")
        check_shape(found.shape, self.config, str(path))
        return np.array(found)


def check_shape(shape: tuple[int, ...], config: ImportedConfig, where: str) -> None:
    """Raise `ImportFeaturesError` unless a clip of this shape is one of `config`, or one with T and frames in one axis."""
    expected = config.shape
    merged = (expected[0] * expected[1], *expected[2:])
    if shape not in (expected, merged):
        also = f" or {merged}" if len(expected) > 2 else ""
        raise ImportFeaturesError(
            f"{where}: a clip has shape {shape}, expected {expected}{also}; see `shape`"
        )


def row_names(path: Path) -> list[str]:
    """The clip of each row, from AVE's Annotations.txt or from a file with a name a line (rows.csv is one).

    Raises:
        AnnotationError: if the file cannot be read, or a line of Annotations.txt has no id.
    """
    names = []
    for line in read_lines(path):
        if line.number == 1 and (line.text == "clip" or line.text.startswith("Category&VideoID")):
            continue
        ave = "&" in line.text
        names.append(
            youtube_name(line.fields("&", "Category VideoID Quality Start End")[1])[0] if ave else line.text
        )
    return number_repeats(names)


def inspect_published(config: ImportedConfig) -> dict[str, Any]:
    """What identifies published features: name, bytes and SHA-256 of the file, or of all files of the folder.

    Raises:
        ImportFeaturesError, H5Error: as `open_published`.
    """
    path = Path(config.path)
    if config.format == "h5":
        found = _inspect_h5(path, config.key)
        return found | ({"noisy": _inspect_h5(Path(config.noisy), config.key)} if config.noisy else {})
    if not path.is_dir():
        raise ImportFeaturesError(f"{path} is not a folder; expected the folder of npy files")
    digest, size, count = hashlib.sha256(), 0, 0
    for file in sorted(path.rglob("*.npy")):
        if file.is_file():
            digest.update(f"{file.relative_to(path).as_posix()} {file_sha256(file)}\n".encode())
            size, count = size + file.stat().st_size, count + 1
    if not count:
        raise ImportFeaturesError(f"{path} has no npy file")
    return {"format": "npy", "file": path.name, "files": count, "bytes": size, "sha256": digest.hexdigest()}


def _inspect_h5(path: Path, key: str) -> dict[str, Any]:
    with open_array(path, key) as array:
        shape, dtype = list(array.shape), str(array.dtype)
    return {
        "format": "h5",
        "file": path.name,
        "key": key,
        "shape": shape,
        "dtype": dtype,
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
    }
