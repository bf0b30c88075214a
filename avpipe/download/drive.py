"""Google Drive: makes a file's id downloadable, and reads the web pages that Drive sends instead of a file."""

import urllib.parse
from html.parser import HTMLParser

from avpipe.clips import Status
from avpipe.web import DownloadFailed, Remote, page_instead

DOWNLOAD = "https://drive.usercontent.google.com/download"
HOSTS = ("drive.usercontent.google.com", "drive.google.com", "docs.google.com")


def drive_file(file_id: str, *, sha256: str | None, allow_private: bool) -> Remote:
    """A shared file. Its final URL changes with every download, so a partial file is recognised by the id."""
    query = urllib.parse.urlencode({"id": file_id, "export": "download"})
    return Remote(
        f"{DOWNLOAD}?{query}",
        name=f"drive:{file_id}",
        next_page=confirmed_url,
        sha256=sha256,
        allow_private=allow_private,
    )


def confirmed_url(page: str) -> str:
    """The URL behind "Download anyway" of the page that says a large file was not scanned for viruses.

    Raises:
        DownloadFailed: for every other page.
    """
    form = _Form()
    form.feed(page)
    form.close()
    own, action = urllib.parse.urlsplit(DOWNLOAD), urllib.parse.urlsplit(form.action)
    if form.fields and action.scheme == own.scheme and action.netloc in (*HOSTS, own.netloc):
        return f"{form.action}?{urllib.parse.urlencode(form.fields)}"
    said = page.lower()
    if "quota exceeded" in said or "too many users have viewed or downloaded" in said:
        reason = "Google Drive's quota of this file is used up; it is lifted within a day. Or download it by hand and name it as `path`"
        raise DownloadFailed(Status.RATE_LIMITED, reason, wait=86_400.0)
    if "accounts.google.com" in said or "you need access" in said or "request access" in said:
        raise DownloadFailed(Status.PRIVATE, "Google Drive shows the file only to some who sign in")
    if "not found" in said or "does not exist" in said:
        raise DownloadFailed(Status.UNAVAILABLE, "Google Drive has no such file")
    raise page_instead(page)


class _Form(HTMLParser):
    """Address and hidden fields of the form that confirms a download."""

    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form" and values.get("id") == "download-form":
            self.action, self._inside = values.get("action", "").partition("?")[0], True
        elif tag == "input" and self._inside and values.get("type") == "hidden" and values.get("name"):
            self.fields[values["name"]] = values.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._inside = False
