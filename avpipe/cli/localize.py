"""The command `avpipe localize`."""

from pathlib import Path
from typing import Annotated

import typer

from avpipe.cli.console import Device, Out, readable_errors


@readable_errors
def localize(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="Any video with sound.")],
    run: Annotated[
        Path,
        typer.Option(
            help="Folder of a run of alignment or source_localization: results/{dataset}/runs/{id}/seed{n}."
        ),
    ],
    out: Out,
    start: Annotated[float, typer.Option(min=0, help="Second of the video at which the part begins.")] = 0.0,
    seconds: Annotated[
        float, typer.Option(min=0, max=120, help="Length of the part; all of it is in memory.")
    ] = 30.0,
    device: Device = "auto",
) -> None:
    """Show where the sound of a video comes from: OUT, an mp4 with a heat map and the sound, and its strongest frame as png."""
    from avpipe.features.device import claim_device, default_locks
    from avpipe.report.localize import localize_video

    if out.suffix != ".mp4":
        raise ValueError(f"--out: a name that ends with .mp4, found {out.name}")
    with claim_device(device, default_locks()) as place:
        found = localize_video(video, run, out, start=start, seconds=seconds, device=str(place))
    typer.echo(f"{out}: {found['seconds']:.1f} s; {out.with_suffix('.png').name}: {found['at']:.2f} s")
