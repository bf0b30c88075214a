"""Datasets on Hugging Face, through the http addresses of their files (docs/decisions/010)."""

import os
import urllib.parse
from pathlib import Path

from avpipe.download.archive import ArchiveFetcher
from avpipe.download.base import Fetcher
from avpipe.download.web import WebFetcher
from avpipe.plan.source import HUB, ArchiveSource, HuggingFaceSource
from avpipe.web import Remote


def huggingface_fetcher(source: HuggingFaceSource, budgets: Path) -> Fetcher:
    """A fetcher of single files in a dataset repository, or of the members of an archive in it.

    Raises:
        ValueError: if the file or variable that should hold the token is missing or empty.
    """
    token = _token(source.token) if source.token else None
    secrets = {"Authorization": f"Bearer {token}"} if token else {}
    base = f"{(source.url or HUB).rstrip('/')}/datasets/{source.repo}/resolve/"
    base += urllib.parse.quote(source.revision, safe="")
    if source.archive:
        url = f"{base}/{urllib.parse.quote(source.archive)}"
        remote = Remote(url, secrets=secrets, sha256=source.sha256, allow_private=source.allow_private)
        keys = source.model_dump(include=set(ArchiveSource.model_fields) - {"kind", "url"})
        return ArchiveFetcher(ArchiveSource(url=url, **keys), remote=remote)
    return WebFetcher(
        source, budgets, url=f"{base}/{urllib.parse.quote(source.pattern, safe='/{}~')}", secrets=secrets
    )


def _token(place: str) -> str:
    """The token in a file, or in the environment variable $NAME."""
    if place.startswith("$"):
        token = os.environ.get(place[1:], "")
        where = f"the environment variable {place[1:]} is not set"
    else:
        path = Path(place).expanduser()
        token = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
        where = f"there is no token in {path}"
    if not token or not token.isascii() or not token.isprintable():
        raise ValueError(f"huggingface: {where}; make one at {HUB}/settings/tokens and put it there")
    return token
