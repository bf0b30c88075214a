"""The command `avpipe separate`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from avpipe.cli.console import Device, readable_errors


class Half(StrEnum):
    """A half of the picture."""

    left = "left"
    right = "right"


@readable_errors
def separate(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A file with pictures and sound.")],
    run: Annotated[
        Path, typer.Option(help="A run of the task separation, results/{dataset}/runs/{id}/seed{n}.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results, made if missing.")],
    mask: Annotated[
        Half | None,
        typer.Option(help="Hide this half of the picture: the sound of the other half counts as on-screen."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Separate the sound of a video into that of what is on screen and the rest.

    Writes on.wav, off.wav, on.mp4, off.mp4 and spectrograms.png.
    """
    from avpipe.report.separated_video import separate_video

    found = separate_video(video, run, out, mask.value if mask else None, device)
    typer.echo(f"{found.seconds:.1f} s in {found.windows} windows: {', '.join(map(str, found.files))}")
    if found.cuts:
        shown = ", ".join(f"{second:.2f}" for second in found.cuts)
        typer.echo(
            f"{len(found.cuts)} shot cuts, at {shown} s: a window that contains a cut is separated badly, says the paper"
        )
    else:
        typer.echo("no shot cut was found")
