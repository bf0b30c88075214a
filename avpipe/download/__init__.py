"""Fetch: from a clip's name to a file on disk, or the reason why there is none. Importing this stays light."""

from avpipe.download.outcome import Outcome, Status
from avpipe.lazy import LazyTable

__all__ = ["FETCHERS", "Outcome", "Status"]

FETCHERS: LazyTable = {
    "http": "avpipe.download.web:WebFetcher",
    "local": "avpipe.download.local:LocalFetcher",
}
"""`kind` of a configured source -> the class that fetches from it (see `avpipe.download.base.Fetcher`)."""
