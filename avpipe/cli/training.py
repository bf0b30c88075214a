"""Commands of training: `avpipe train` and `avpipe embed`."""

from pathlib import Path
from typing import Annotated

import typer

from avpipe.cli.console import Device, Results, read_mapping, readable_errors


@readable_errors
def train(
    experiment: Annotated[str, typer.Option(help="The experiment: json, or a json or yaml file.")],
    results: Results,
    seed: Annotated[
        list[int], typer.Option(help="May be repeated; all seeds share one load of the features.")
    ],
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="Processor threads.")] = 1,
    log: Annotated[Path | None, typer.Option(help="Log file to name in metrics.json.")] = None,
) -> None:
    """Train and evaluate one experiment; writes runs/{experiment}/seed{n}/metrics.json and predictions.parquet."""
    from avpipe.plan.experiment import Experiment
    from avpipe.training.run import train_experiment

    train_experiment(
        Experiment.model_validate(read_mapping(experiment, "--experiment")),
        results,
        seed,
        device,
        log,
        threads,
    )


@readable_errors
def embed(
    experiment: Annotated[str, typer.Option(help="The experiment: json, or a json or yaml file.")],
    results: Results,
    seed: Annotated[int, typer.Option(help="Of the run, which must be there.")],
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="Processor threads.")] = 1,
) -> None:
    """Pass the test split through a trained model; writes embeddings.npz beside its checkpoint.pt."""
    from avpipe.plan.experiment import Experiment
    from avpipe.training.embed import embed_run

    chosen = Experiment.model_validate(read_mapping(experiment, "--experiment"))
    embed_run(chosen, results, seed, device, threads)
