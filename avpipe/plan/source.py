"""Sources of a dataset's clips, one class per kind."""

import json
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, TypeAdapter, field_validator, model_validator

from avpipe.clips import check_pattern
from avpipe.plan.section import Seconds, Section

ARCHIVE_NAME = re.compile(r"\.(zip|rar|tar|tgz|tbz2?|txz|tzst|tar\.(gz|bz2|xz|zst))$", re.IGNORECASE)
"""Names of files that are opened as archives."""
HUB = "https://huggingface.co"


def _is_url(url: str) -> bool:
    return bool(re.match(r"https?://[^/\s]", url))


def _is_plain(path: str) -> bool:
    return not path.startswith("/") and ".." not in path.split("/")


def _names_clip(text: str) -> str:
    if "{source}" not in text and "{clip}" not in text:
        raise ValueError("needs {source} or {clip} in it, or every clip would be the same file")
    return text


def _names_file(pattern: str) -> str:
    check_pattern(pattern)
    return pattern


Pattern = Annotated[
    str,
    AfterValidator(_names_file),
    Field(
        description="{source} is the id, or relative path, that the annotations give, {clip} the clip's name"
    ),
]
Sha256 = Annotated[
    str | None,
    Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the archive; without it any content is taken"),
]
Excerpts = Annotated[
    bool,
    Field(
        description="each file is the clip itself, already cut out of the video that the annotations refer to"
    ),
]
ArchiveBytes = Annotated[int, Field(gt=0, description="largest archive, in bytes")]
Rate = Annotated[
    float | None,
    Field(
        gt=0,
        description="clips an hour, all jobs of this machine together; null: as fast as the server answers",
    ),
]


class _Source(Section):
    """What every kind of source has."""

    kind: str
    max_bytes: int = Field(4 << 30, gt=0, description="largest file of one clip, in bytes, packed or not")

    without_identity: ClassVar = frozenset(
        {"timeout", "token", "cookies", "cookies_from_browser", "proxy", "rate"}
    )
    """Keys that do not change which clips a source gives: time limits, secrets, speed."""

    @property
    def local_path(self) -> str | None:
        """The folder or archive on this machine that the source reads, if it is one."""
        return None

    @property
    def local_archive(self) -> str | None:
        """The archive on this machine that the source reads, if it is one."""
        path = self.local_path
        return path if path and (self.kind == "archive" or ARCHIVE_NAME.search(path)) else None

    def to_json(self) -> str:
        """The source as one line that `parse_source` reads back, without defaults."""
        return self._json(frozenset())

    def identity(self) -> str:
        """The keys that decide which clips the source gives, as json, without defaults."""
        return self._json(self.without_identity)

    def _json(self, exclude: frozenset[str]) -> str:
        keys = self.model_dump(mode="json", exclude_defaults=True, exclude=set(exclude))
        return json.dumps({"kind": self.kind, **keys}, sort_keys=True)


class LocalSource(_Source):
    """Files on this machine: a folder, or an archive."""

    kind: Literal["local"] = "local"
    path: str = Field(min_length=1, description="the folder, or an archive, which is unpacked once")
    pattern: Pattern = "{source}.mp4"
    excerpts: Excerpts = False

    @property
    def local_path(self) -> str:
        return self.path


class _WebSource(_Source):
    """What every source on the web has."""

    timeout: Seconds | None = Field(
        None, description="seconds for one download; null: 1,800 for a clip, 86,400 for an archive"
    )
    allow_private: bool = Field(
        False, description="let a redirect lead to an address of the private network or of this machine"
    )


class HttpSource(_WebSource):
    """One file per clip on a web server."""

    kind: Literal["http"] = "http"
    url: str = Field(description="http(s) address with {source} or {clip} in it")
    excerpts: Excerpts = False
    rate: Rate = None

    @field_validator("url")
    @classmethod
    def _names_a_clip(cls, url: str) -> str:
        if not _is_url(url):
            raise ValueError("starts with http:// or https://")
        return _names_clip(url)


class ArchiveSource(_WebSource):
    """One archive of all clips (zip, tar, rar): a file here, on a server, or on Google Drive."""

    kind: Literal["archive"] = "archive"
    path: str | None = Field(None, description="the archive on this machine")
    url: str | None = Field(None, description="its http(s) address")
    drive: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]{10,128}$", description="its id on Google Drive")
    sha256: Sha256 = None
    pattern: Pattern = "{source}.mp4"
    excerpts: Excerpts = False
    max_archive_bytes: ArchiveBytes = 256 << 30

    @property
    def local_path(self) -> str | None:
        return self.path

    @model_validator(mode="after")
    def _one_place(self) -> "ArchiveSource":
        if sum(bool(place) for place in (self.path, self.url, self.drive)) != 1:
            raise ValueError("an archive needs exactly one of `path`, `url` and `drive` (a Google Drive id)")
        if self.url and not _is_url(self.url):
            raise ValueError("`url` of an archive starts with http:// or https://")
        return self


class HuggingFaceSource(_WebSource):
    """A dataset repository on Hugging Face: one file per clip, or an archive of all clips."""

    kind: Literal["huggingface"] = "huggingface"
    repo: str = Field(
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*/[A-Za-z0-9_-][A-Za-z0-9_.-]*$",
        description="owner/name of the dataset",
    )
    revision: str = Field(
        "main", pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_./-]*$", description="branch, tag, or better a commit"
    )
    archive: str | None = Field(
        None, description="path in the repository of an archive that holds the clips; null: one file per clip"
    )
    sha256: Sha256 = None
    pattern: Pattern = "{source}.mp4"
    token: str | None = Field(
        None, description="file that holds an access token, or $NAME of an environment variable"
    )
    url: str | None = Field(None, description=f"address of a mirror of {HUB}")
    excerpts: Excerpts = False
    max_archive_bytes: ArchiveBytes = 256 << 30
    rate: Rate = None

    @model_validator(mode="after")
    def _consistent(self) -> "HuggingFaceSource":
        if ".." in self.revision:
            raise ValueError("`revision` is a branch, a tag or a commit")
        if self.url and not _is_url(self.url):
            raise ValueError("`url` of a huggingface source is the address of a mirror, https://...")
        if self.archive and not (_is_plain(self.archive) and ARCHIVE_NAME.search(self.archive)):
            raise ValueError("`archive` is the path of a zip, rar or tar file in the repository")
        if self.sha256 and not self.archive:
            raise ValueError("`sha256` is that of `archive`, the file in the repository that holds the clips")
        return self


class YouTubeSource(_WebSource):
    """YouTube, or another site that yt-dlp knows. Only the clip's seconds are downloaded."""

    kind: Literal["youtube"] = "youtube"
    rate: Annotated[
        float | None, Field(gt=0, description="clips an hour, all jobs of this machine together; null: 250")
    ] = None
    margin: float = Field(
        1.0, ge=0, description="seconds downloaded before and after the clip; cut off when normalised"
    )
    cookies: str | None = Field(None, description="cookies file in Netscape format")
    cookies_from_browser: str | None = Field(None, description="browser whose cookies are used")
    proxy: str | None = Field(
        None, description="a proxy's URL; the other kinds use https_proxy of the environment"
    )
    format: str = Field(
        "bv*[height<=480]+ba/b[height<=480]/bv*+ba/b", description="yt-dlp's choice of formats"
    )
    url: str | None = Field(None, description="page of a video on another site, with {source} in it")

    @field_validator("url")
    @classmethod
    def _names_a_video(cls, url: str | None) -> str | None:
        if url is not None and not (_is_url(url) and "{source}" in url):
            raise ValueError("is the page of a video on another site, https://..., with {source} in it")
        return url


Source = LocalSource | HttpSource | ArchiveSource | HuggingFaceSource | YouTubeSource
AnySource = Annotated[Source, Field(discriminator="kind")]
"""A dataset's sources are tried in order."""

_ADAPTER: TypeAdapter[Source] = TypeAdapter(AnySource)


def parse_source(keys: dict[str, Any]) -> Source:
    """A source from its keys. Raises pydantic's ValidationError (a ValueError) for wrong ones."""
    return _ADAPTER.validate_python(keys)
