"""Commands of training: `avpipe train` and `avpipe embed`."""

import subprocess
import sys
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
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that train together; they share THREADS.")
    ] = 1,
    log: Annotated[Path | None, typer.Option(help="Log file to name in metrics.json.")] = None,
) -> None:
    """Train and evaluate one experiment; writes runs/{experiment}/seed{n}/metrics.json and predictions.parquet."""
    from avpipe.lock import sole_writer
    from avpipe.training.devices import keep_freed_memory, started_processes
    from avpipe.training.run import train_experiment

    keep_freed_memory()
    room = None if feature_memory is None else feature_memory * 10**6
    experiment, folder = _read(file, results)
    started = started_processes() > 1  # by torchrun; the process that started it holds the locks
    with ExitStack() as held:
        adopt = False
        for number in () if started else sorted(set(seed)):
            name, lock = f"{experiment.id} seed {number}", f".seed{number}.lock"
            adopt |= held.enter_context(sole_writer(folder / "runs" / experiment.id / lock, name))
        if processes > 1 and not started:
            start_processes(processes, sys.argv[1:], log)
            return
        train_experiment(
            experiment,
            folder,
            seed,
            device,
            log,
            max(1, threads // processes),
            resident_bytes=room,
            gpu_percent=gpu_percent,
            adopt=adopt,
        )


def start_processes(count: int, arguments: list[str], log: Path | None) -> None:
    """Start this command again under torchrun, on this machine, and wait for its end.

    Args:
        count: of the processes.
        arguments: of the command.
        log: the log file that it writes to; what each process prints goes to files in the folder {log}.processes, and what the
            first one prints also to the log.

    Raises:
        OSError: if a process failed; torchrun has ended the others then.
    """
    kept = [] if log is None else ["--log-dir", f"{log}.processes"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    shown = ["--tee=3", "--local-ranks-filter=0", "--log-line-prefix-template="] if kept else []
    done = subprocess.run([*torchrun, *kept, *shown, "-m", "--", "avpipe", *arguments], check=False)
    if done.returncode:
        raise OSError(
            f"one of {count} processes failed; {f'{log}.processes' if log else 'the lines above'} says why"
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
