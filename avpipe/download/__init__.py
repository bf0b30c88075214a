"""Fetch: from a clip's name to a file on disk, or the reason why there is none. Importing this stays light."""

from avpipe.clips import Status
from avpipe.download.outcome import Outcome
from avpipe.plan.registry import LazyTable

__all__ = ["FETCHERS", "Outcome", "Status"]

FETCHERS: LazyTable = {
    "archive": "avpipe.download.archive:ArchiveFetcher",
    "http": "avpipe.download.web:WebFetcher",
    "huggingface": "avpipe.download.huggingface:huggingface_fetcher",
    "local": "avpipe.download.local:local_fetcher",
    "youtube": "avpipe.download.youtube:YouTubeFetcher",
}
"""`kind` of a configured source -> what makes the fetcher of it (see `avpipe.download.base.Fetcher`)."""
