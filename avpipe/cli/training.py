"""Commands of training: `avpipe train` and `avpipe embed`."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from avpipe.cli.console import Device, readable_errors

if TYPE_CHECKING:
    from avpipe.plan.experiment import Experiment

ExperimentFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="The experiment: results/{dataset}/runs/{id}/experiment.json.")
]
ResultsOfFile = Annotated[
    Path | None,
    typer.Option(help="The study's folder, results/{dataset}; default: the one that FILE lies in."),
]


def _read(file: Path, results: Path | None) -> tuple["Experiment", Path]:
    """The experiment in a file, and the study's folder."""
    from avpipe.plan.experiment import Experiment

    experiment = Experiment.read(file)
    if results is None and file.absolute().parts[-3:] != ("runs", experiment.id, "experiment.json"):
        raise ValueError(
            f"{file} is the experiment {experiment.id} but does not lie in runs/{experiment.id} of a study's folder: "
            "name the folder with --results"
        )
    return experiment, results or file.absolute().parents[2]


@readable_errors
def train(
    file: ExperimentFile,
    seed: Annotated[
        list[int], typer.Option(help="May be repeated; all seeds share one load of the features.")
    ],
    results: ResultsOfFile = None,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="Processor threads.")] = 1,
    feature_memory: Annotated[
        int | None,
        typer.Option(
            help="MB of main memory for features, else read from disk; default: half of what is free."
        ),
    ] = None,
    gpu_percent: Annotated[int, typer.Option(help="Of a GPU; trainings of 25 share one by four.")] = 100,
    log: Annotated[Path | None, typer.Option(help="Log file to name in metrics.json.")] = None,
) -> None:
    """Train and evaluate one experiment; writes runs/{experiment}/seed{n}/metrics.json and predictions.parquet."""
    from avpipe.lock import sole_writer
    from avpipe.training.run import train_experiment

    room = None if feature_memory is None else feature_memory * 10**6
    experiment, folder = _read(file, results)
    with ExitStack() as held:
        adopt = False
        for number in sorted(set(seed)):
            name = f"{experiment.id} seed {number}"
            lock = folder / "runs" / experiment.id / f".seed{number}.lock"
            adopt |= held.enter_context(sole_writer(lock, name))
        train_experiment(
            experiment,
            folder,
            seed,
            device,
            log,
            threads,
            resident_bytes=room,
            gpu_percent=gpu_percent,
            adopt=adopt,
        )


@readable_errors
def embed(
    file: ExperimentFile,
    seed: Annotated[int, typer.Option(help="Of the run, which must be there.")],
    results: ResultsOfFile = None,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="Processor threads.")] = 1,
) -> None:
    """Pass the test split through a trained model; writes embeddings.npz beside its checkpoint.pt."""
    from avpipe.training.embed import embed_run

    embed_run(*_read(file, results), seed, device, threads)
