"""HDF5 files of others: opened so that what they say about other files is never followed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py


class H5Error(ValueError):
    """An HDF5 file is missing, damaged or not what it should be; the message names it and what was expected."""


@contextmanager
def open_array(path: Path, key: str) -> Iterator[h5py.Dataset]:
    """The array `key` of an HDF5 file, open for reading; nothing of it is read yet.

    Links, external storage and virtual arrays would make HDF5 open other files: they are refused.

    Raises:
        H5Error: if there is no such file, it is damaged, or has no such array of numbers.
    """
    if not path.is_file():
        raise H5Error(f"{path} is not a file; expected an HDF5 file with the array {key!r}")
    try:
        file = h5py.File(path, "r", locking="best-effort", rdcc_nbytes=1 << 26)
    except OSError as error:
        raise H5Error(f"{path} is no HDF5 file or is cut off ({error}); get it again") from error
    with file:
        if not isinstance(_link(file, key), h5py.HardLink):
            known = ", ".join(sorted(map(repr, file))) or "nothing"
            raise H5Error(f"{path} has no array {key!r} of its own; it has {known}: set `key`")
        array = file[key]
        if not isinstance(array, h5py.Dataset) or array.dtype.kind not in "fiu" or not array.shape:
            raise H5Error(f"{path}: {key!r} is not an array of numbers")
        if array.is_virtual or array.external:
            raise H5Error(f"{path}: {key!r} keeps its numbers in other files; copy them into this one")
        yield array


def _link(file: h5py.File, key: str) -> object:
    """How the file's root leads to `key`; None if it does not, or the key is a path."""
    return None if "/" in key else file.get(key, getlink=True)
