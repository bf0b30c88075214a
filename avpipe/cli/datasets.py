"""Commands of stage 1: annotation files to the manifest."""

from pathlib import Path
from typing import Annotated

import typer

from avpipe.cli.console import Out, Results, counted, read_mapping, read_sources, readable_errors

commands = typer.Typer(
    no_args_is_help=True, help="Annotation files to manifest: which clips exist and what is true of them."
)


@commands.command("demo")
@readable_errors
def demo(
    out: Out,
    kind: Annotated[
        str, typer.Option(help="demo (AVE's and LLP's formats) or demo_motion (motion in step with sound).")
    ] = "demo",
    options: Annotated[str, typer.Option(help="json: how many clips, the seed, ...")] = "{}",
    workers: Annotated[int | None, typer.Option(help="Processes that render; default: one a core.")] = None,
) -> None:
    """Render a demo dataset: mp4 files and annotation files."""
    from avpipe.datasets import RENDERERS
    from avpipe.plan import registry

    chosen = read_mapping(options, "--options")
    registry.check_options(registry.target(RENDERERS, kind, "demo"), chosen, f"the dataset {kind}")
    registry.load(RENDERERS, kind, "demo")(out, **{"workers": workers} | chosen)


@commands.command("manifest")
@readable_errors
def manifest(
    name: Annotated[str, typer.Option(help="Name of the dataset.")],
    kind: Annotated[
        str,
        typer.Option(
            help="Format of its annotation files: ave, llp, audioset, ucf101, folder, demo, demo_motion."
        ),
    ],
    annotations: Annotated[
        Path, typer.Option(help="Folder of its annotation files (for `folder`, of the videos).")
    ],
    out: Out,
    shard_size: Annotated[int, typer.Option(help="Clips per job.")] = 256,
    options: Annotated[str, typer.Option(help="json: options of the reader.")] = "{}",
    source: Annotated[
        list[str] | None, typer.Option(help="A source as json (kind, path, pattern); may be repeated.")
    ] = None,
) -> None:
    """Read annotation files; write manifest.parquet, events.parquet, categories.csv, issues.csv to the folder OUT."""
    from avpipe.datasets import read_annotations
    from avpipe.datasets.manifest import write_manifest
    from avpipe.plan.source import ArchiveSource, LocalSource

    sources = read_sources(source)
    local = [
        (Path(s.path), s.pattern) for s in sources if isinstance(s, LocalSource | ArchiveSource) and s.path
    ]
    read = read_annotations(kind, annotations, **read_mapping(options, "--options"))
    index = write_manifest(read, name, out, shard_size, local)
    issues = f"{counted(index['issues'])} ({out / 'issues.csv'})" if index["issues"] else "none"
    typer.echo(
        f"{index['clips']} clips in {len(index['shards'])} shards: {counted(index['splits'])}; issues: {issues}"
    )


@commands.command("fetch-annotations")
@readable_errors
def fetch_annotations(
    kind: Annotated[str, typer.Option(help="ave, llp, audioset or ucf101.")],
    out: Annotated[
        Path, typer.Option(help="Folder for the files; files that are already there are checked and kept.")
    ],
    names: Annotated[list[str] | None, typer.Argument(help="Only these files; default: all.")] = None,
) -> None:
    """Download a dataset's own annotation files and check their SHA-256."""
    from avpipe.datasets import annotation_files

    for path in annotation_files.fetch_annotations(kind, out, names or ()):
        typer.echo(f"{path}: ok")


@commands.command("freeze")
@readable_errors
def freeze(results: Results, out: Out) -> None:
    """Write the names of the usable clips (R/clips.parquet) to a text file, which a study's dataset.usable may name."""
    from avpipe.media.clips import freeze_clips

    usable, named = freeze_clips(results / "clips.parquet", out)
    typer.echo(f"{usable} of {named} clips")
