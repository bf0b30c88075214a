"""Where networks find the source of a sound: held-out clips with the strongest and the weakest response, as a gallery.

Owens and Efros (ECCV 2018) show such galleries, for all held-out clips and for each category of Kinetics-Sounds.
"""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from avpipe.media.presets import Preset
from avpipe.media.segments import VideoFrames, read_shard
from avpipe.metrics.source_localization import enlarged
from avpipe.plan.section import Section
from avpipe.plan.study import Study
from avpipe.report.heat_maps import Frames, gallery, overlay, strongest_and_weakest, strongest_by_category
from avpipe.report.predictions import missing_lines, read_rows
from avpipe.report.spec import FigureSpec
from avpipe.report.style import Heading

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Responses = Mapping[str, Mapping[Hashable, Any]]
"""Clip -> its row of the predictions of source localization, as a dictionary."""


class SourcesOptions(Section):
    """Which clips are shown."""

    by: Literal["response", "category"] = Field(
        default="response",
        description="response: the clips with the strongest and with the weakest response; category: the strongest of each category",
    )
    clips: int = Field(default=6, ge=1, description="number of clips in a line")
    seed: int | None = Field(default=None, description="whose maps are shown; none: the first seed")


class SourcesFigure(FigureSpec):
    """Frames of held-out clips with the class activation map over them, in lines of a gallery."""

    options: SourcesOptions = Field(default_factory=SourcesOptions)
    shows_clip = True
    dataset_files = ("events.parquet",)
    caption = (
        "The frame with the strongest response of each clip, and the map at that time; below it the response, the largest absolute "
        "value of the map. Colours go from half of the map's 97th percentile to the percentile."
    )

    def run_files(self, study: Study) -> dict[str, tuple[int, ...]]:
        """Those of one seed."""
        return dict.fromkeys(super().run_files(study), (self.seed(study),))

    def draw(self, study: Study, results: Path, heading: Heading) -> "Figure":
        """The lines of each row of the figure, one below the other."""
        seed = self.seed(study)
        rows, lines = read_rows(self, study, results, seeds=(seed,)), dict[str, list[tuple[str, Frames]]]()
        for row in rows:
            for table in row.seeds.values():
                responses = {str(row["clip"]): row for row in table.to_dict("records")}
                pictures = heated(responses, results, study.media.preset, self._shown(responses, results))
                prefix = f"{row.method}: " if len(self.rows) > 1 else ""
                lines |= {f"{prefix}{name}": line for name, line in pictures.items()}
        return gallery(lines, heading, "\n".join([f"{self.caption} Seed {seed}.", *missing_lines(rows)]))

    def _shown(self, responses: Responses, results: Path) -> dict[str, list[str]]:
        """Name of a line -> its clips."""
        by_clip, count = {clip: row["response"] for clip, row in responses.items()}, self.options.clips
        if self.options.by == "response":
            strongest, weakest = strongest_and_weakest(by_clip, count)
            return {"strongest": strongest, "weakest": weakest}
        events = pd.read_parquet(results / "events.parquet", columns=["clip", "category"])
        first = events.drop_duplicates("clip")
        category = dict(zip(first["clip"].astype(str), first["category"].astype(str), strict=True))
        return strongest_by_category({c: r for c, r in by_clip.items() if c in category}, category, count)


def heated(
    responses: Responses, results: Path, preset: Preset, lines: Mapping[str, Sequence[str]]
) -> dict[str, list[tuple[str, Frames]]]:
    """The strongest frame of each clip with its map over it.

    Args:
        responses: the clips' rows.
        results: the study's folder, with clips.parquet and the shards.
        preset: of the clips.
        lines: name of a line -> its clips.

    Returns:
        Name of a line -> the response as text, and the picture (H, W, 3) uint8, of each clip whose video is there.
    """
    wanted = {clip for clips in lines.values() for clip in clips}
    shards = pd.read_parquet(results / "clips.parquet", columns=["clip", "shard"]).set_index("clip")["shard"]
    pictures = dict[str, Frames]()
    for shard in sorted(set(shards[shards.index.isin(wanted)])):
        for clip in read_shard(results / "segments" / preset.name / f"{int(shard)}.tar"):
            if clip.clip in wanted and clip.video is not None:
                row = responses[clip.clip]
                frame = VideoFrames(clip.video, preset).at(np.array([int(row["second"] * float(preset.fps))]))
                size = frame.shape[1:3]
                heat = enlarged(np.reshape(row["map"], (row["height"], row["width"])), *size)
                pictures[clip.clip] = next(overlay(frame, heat[None]))
    return {
        name: [(f"{responses[c]['response']:.3g}", pictures[c]) for c in clips if c in pictures]
        for name, clips in lines.items()
    }
