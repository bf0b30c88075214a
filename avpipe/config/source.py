"""Where clips may be found."""

import re
from typing import Literal

from pydantic import Field, model_validator

from avpipe.config.section import Section


class Source(Section):
    """Where clips may be found; a dataset's sources are tried in order."""

    kind: Literal["local", "http"] = Field(description="local folder, or http(s) URL pattern")
    path: str | None = Field(None, description="local: the folder")
    pattern: str = Field(
        "{source}.mp4",
        description="local: file below `path`; {source} is the id (or relative path) that the annotations give, {clip} the clip's name",
    )
    url: str | None = Field(None, description="http: URL with {source} or {clip}")

    @model_validator(mode="after")
    def _needs(self) -> "Source":
        if self.kind == "local" and not self.path:
            raise ValueError("a local source needs `path`, the folder that holds the clips")
        if self.kind == "http" and not (
            self.url and re.match(r"https?://", self.url) and ("{source}" in self.url or "{clip}" in self.url)
        ):
            raise ValueError("an http source needs `url`, http(s)://..., with {source} or {clip} in it")
        return self
