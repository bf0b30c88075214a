"""One feature that exists already."""

from typing import Literal

from pydantic import Field, field_validator

from avpipe.config.section import Section


class ImportedConfig(Section):
    """A feature that somebody else computed, read from published files instead of being extracted."""

    path: str = Field(description="h5: the file; npy: the folder that holds a file a clip")
    format: Literal["h5", "npy"] = Field(
        description="h5: one array, a row a clip (AVE's files); npy: one file a clip (LLP's folders)"
    )
    shape: tuple[int, ...] = Field(
        description="of one clip in our array: [T, D], [T, H, W, D], [T, frames, D] or [T, frames, H, W, D]; a file that has T and frames in one axis, such as LLP's (80, 2048), is split: [10, 8, 2048]"
    )
    dtype: Literal["float16", "float32", "float64"] = Field(
        "float32",
        description="type in which it is stored; AVE's files are float64 but hold float32 numbers, which the import checks",
    )
    key: str = Field("avadataset", description="h5: name of the array in the file")
    rows: str | None = Field(
        None,
        description="h5: text file that names the clip of each row, one a line: AVE's Annotations.txt, or clip names; default: the dataset's own Annotations.txt (ave), else the order of rows.csv",
    )
    noisy: str | None = Field(
        None,
        description="h5: a second file with AVE's noisy set; its row i is the clip noisy~{i}, see the dataset's option `noisy`",
    )
    pattern: str = Field(
        "{clip}.npy", description="npy: file below `path`; {clip} is the clip's name, {source} its id"
    )
    origin: str = Field("", description="where it is from, in words; kept with the array")

    @field_validator("shape")
    @classmethod
    def _axes(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not 2 <= len(value) <= 5 or min(value) < 1:
            raise ValueError("2 to 5 numbers, each 1 or more: [T, D], [T, H, W, D] or with frames after T")
        return value
