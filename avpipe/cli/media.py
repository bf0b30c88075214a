"""Commands of the media: downloaded files to canonical clips."""

from pathlib import Path
from typing import Annotated

import typer

from avpipe.cli.console import counted, read_mapping, readable_errors

commands = typer.Typer(no_args_is_help=True, help="Files to canonical clips in tar shards.")


@commands.command("normalise")
@readable_errors
def normalise(
    downloads: Annotated[Path, typer.Option(help="The shard's table of downloads.")],
    manifest: Annotated[Path, typer.Option(help="manifest.parquet.")],
    shard: Annotated[int, typer.Option()],
    tar: Annotated[Path, typer.Option(help="The tar of canonical clips to write.")],
    table: Annotated[Path, typer.Option(help="The table of outcomes to write.")],
    preset: Annotated[
        str,
        typer.Option(
            help="Canonical format: canonical, multisensory, large, or json {name: ..., fps: ..., ...}."
        ),
    ] = "canonical",
    timeout: Annotated[float, typer.Option(help="Seconds a clip may take.")] = 120.0,
    workers: Annotated[int, typer.Option(help="ffmpeg processes at a time.")] = 1,
) -> None:
    """Turn one shard's files into canonical clips: exact length, frame rate, size and sample rate."""
    from avpipe.media.normalise import normalise_shard
    from avpipe.media.presets import PRESETS, Preset

    chosen = PRESETS[preset] if preset in PRESETS else Preset.model_validate(read_mapping(preset, "--preset"))
    typer.echo(counted(normalise_shard(downloads, manifest, shard, chosen, tar, table, timeout, workers)))


@commands.command("clips")
@readable_errors
def clips(
    manifest: Annotated[Path, typer.Option(help="manifest.parquet.")],
    out: Annotated[Path, typer.Option(help="clips.parquet.")],
    tables: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the shards' tables of outcomes, {shard}.parquet; none if the study needs no media files."
        ),
    ] = None,
    minimum: Annotated[
        list[str] | None,
        typer.Option(help="SPLIT=SHARE: stop if fewer of the split's clips are usable; may be repeated."),
    ] = None,
    usable: Annotated[
        Path | None, typer.Option(help="List of `avpipe datasets freeze`: other clips are left out.")
    ] = None,
) -> None:
    """Write clips.parquet: the status of every clip that the annotations name."""
    from avpipe.media.clips import gather_clips

    shares = {split: float(share) for split, _, share in (text.partition("=") for text in minimum or [])}
    gather_clips(manifest, tables, out, shares, usable)
