"""Where a dataset's clips may be found."""

import json
import re
from typing import Literal

from pydantic import Field, model_validator

from avpipe.plan.section import Section

ARCHIVE_NAME = re.compile(r"\.(zip|rar|tar|tgz|tbz2?|txz|tzst|tar\.(gz|bz2|xz|zst))$", re.IGNORECASE)
"""Names of files that are opened as archives."""
HUB = "https://huggingface.co"

_EVERY = frozenset({"kind", "allow_private", "max_bytes", "timeout"})
_KEYS = {
    "local": frozenset({"path", "pattern", "excerpts"}),
    "http": frozenset({"url", "excerpts", "rate"}),
    "archive": frozenset({"path", "url", "drive", "sha256", "pattern", "excerpts", "max_archive_bytes"}),
    "huggingface": frozenset(
        {
            "repo",
            "revision",
            "archive",
            "sha256",
            "pattern",
            "token",
            "url",
            "excerpts",
            "max_archive_bytes",
            "rate",
        }
    ),
    "youtube": frozenset({"cookies", "cookies_from_browser", "proxy", "rate", "margin", "format", "url"}),
}
_MANNERS = frozenset({"timeout", "token", "cookies", "cookies_from_browser", "proxy", "rate"})


class Source(Section):
    """Where clips may be found; a dataset's sources are tried in order. A key counts for the kinds that it names."""

    kind: Literal["local", "http", "archive", "huggingface", "youtube"] = Field(
        description="files on this machine, an http(s) URL pattern, one archive of all clips, a dataset on Hugging Face, or YouTube through yt-dlp"
    )
    path: str | None = Field(
        None, description="local: the folder, or an archive that is read where it is; archive: a file here"
    )
    pattern: str = Field(
        "{source}.mp4",
        description="local, huggingface: file below `path` or in the repository; archives: the last parts of a member's path; {source} is the id (or relative path) that the annotations give, {clip} the clip's name",
    )
    url: str | None = Field(
        None,
        description=f"http: URL with {{source}} or {{clip}}; archive: its URL; huggingface: a mirror of {HUB}; youtube: page of another site that yt-dlp knows, with {{source}}",
    )
    drive: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_-]{10,128}$", description="archive: Google Drive's id of the file"
    )
    sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="archive, huggingface with `archive`: SHA-256 of the archive; without it any content is taken",
    )
    repo: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*/[A-Za-z0-9_-][A-Za-z0-9_.-]*$",
        description="huggingface: owner/name of the dataset",
    )
    revision: str = Field(
        "main",
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_./-]*$",
        description="huggingface: branch, tag, or better a commit",
    )
    archive: str | None = Field(
        None,
        description="huggingface: archive in the repository that holds the clips, instead of single files",
    )
    token: str | None = Field(
        None, description="huggingface: file that holds an access token, or $NAME of an environment variable"
    )
    excerpts: bool = Field(
        False,
        description="all but youtube: each file is the clip itself, already cut, and not the video that the annotations' seconds are of",
    )
    cookies: str | None = Field(None, description="youtube: cookies file in Netscape format")
    cookies_from_browser: str | None = Field(None, description="youtube: browser whose cookies are used")
    proxy: str | None = Field(
        None, description="youtube: proxy's URL; the other kinds use https_proxy of the environment"
    )
    rate: float | None = Field(
        None,
        gt=0,
        description="http, huggingface, youtube: clips an hour, all jobs of this machine together; default: 250 for youtube, else as fast as the server answers",
    )
    margin: float = Field(
        1.0,
        ge=0,
        description="youtube: seconds downloaded before and after the clip; cut off when normalised",
    )
    format: str = Field(
        "bv*[height<=480]+ba/b[height<=480]/bv*+ba/b", description="youtube: yt-dlp's choice of formats"
    )
    allow_private: bool = Field(
        False, description="let a redirect lead to an address of the private network or of this machine"
    )
    max_bytes: int = Field(4 << 30, gt=0, description="largest file of one clip, packed or not")
    max_archive_bytes: int = Field(
        256 << 30, gt=0, description="archive, huggingface with `archive`: largest archive"
    )
    timeout: float | None = Field(
        None, gt=0, description="seconds for one download; null: 1,800 for a clip, 86,400 for an archive"
    )

    @model_validator(mode="after")
    def _needs(self) -> "Source":
        """Each kind has its keys, and those it needs."""
        known = _KEYS[self.kind] | _EVERY
        for name, field in type(self).model_fields.items():
            if name not in known and getattr(self, name) != field.default:
                raise ValueError(
                    f"`{name}` is no key of a source of kind {self.kind}; it has {', '.join(sorted(_KEYS[self.kind]))}"
                )
        if not any(field in self.pattern for field in ("{source}", "{clip}")):
            raise ValueError("`pattern` needs {source} or {clip} in it, or every clip would be the same file")
        check = _CHECKS.get(self.kind)
        complaint = check(self) if check else None
        if complaint:
            raise ValueError(complaint)
        return self

    @property
    def local_archive(self) -> str | None:
        """The archive on this machine that the source reads, if it is one."""
        if self.kind == "archive" or (self.kind == "local" and ARCHIVE_NAME.search(self.path or "")):
            return self.path
        return None

    def identity(self) -> str:
        """What decides which clips come back, as json: without defaults, secrets, patience and speed."""
        return json.dumps(
            self.model_dump(mode="json", exclude_defaults=True, exclude=set(_MANNERS)), sort_keys=True
        )


def _is_url(url: str | None) -> bool:
    return bool(url and re.match(r"https?://[^/\s]", url))


def _is_plain(path: str) -> bool:
    return not path.startswith("/") and ".." not in path.split("/")


def _wrong_local(source: Source) -> str | None:
    return None if source.path else "a local source needs `path`, the folder that holds the clips"


def _wrong_http(source: Source) -> str | None:
    url = source.url or ""
    if _is_url(url) and ("{source}" in url or "{clip}" in url):
        return None
    return "an http source needs `url`, http(s)://..., with {source} or {clip} in it"


def _wrong_archive(source: Source) -> str | None:
    if sum(bool(place) for place in (source.path, source.url, source.drive)) != 1:
        return "an archive needs exactly one of `path`, `url` and `drive` (a Google Drive id)"
    if source.url and not _is_url(source.url):
        return "`url` of an archive starts with http:// or https://"
    return None


def _wrong_huggingface(source: Source) -> str | None:
    if not source.repo:
        return "a huggingface source needs `repo`, owner/name of the dataset"
    if ".." in source.revision:
        return "`revision` is a branch, a tag or a commit"
    if source.url and not _is_url(source.url):
        return "`url` of a huggingface source is the address of a mirror, https://..."
    if source.archive and not (_is_plain(source.archive) and ARCHIVE_NAME.search(source.archive)):
        return "`archive` is the path of a zip, rar or tar file in the repository"
    if source.sha256 and not source.archive:
        return "`sha256` is that of `archive`, the file in the repository that holds the clips"
    return None


def _wrong_youtube(source: Source) -> str | None:
    if source.url is None or (_is_url(source.url) and "{source}" in source.url):
        return None
    return (
        "`url` of a youtube source is the page of a video on another site, https://..., with {source} in it"
    )


_CHECKS = {
    "local": _wrong_local,
    "http": _wrong_http,
    "archive": _wrong_archive,
    "huggingface": _wrong_huggingface,
    "youtube": _wrong_youtube,
}
