"""Archives of every kind, for tests."""

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Callable

from tests.builders import tar_of, zip_of

ARCHIVES: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "zip": lambda files: zip_of(files, zipfile.ZIP_DEFLATED),
    "tar": tar_of,
    "tar.gz": lambda files: gzip.compress(tar_of(files)),
    "tar.bz2": lambda files: bz2.compress(tar_of(files)),
    "tar.xz": lambda files: lzma.compress(tar_of(files)),
}
"""Files by name -> the bytes of an archive."""
