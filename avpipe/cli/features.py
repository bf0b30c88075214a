"""Commands of the features: extraction, import, export, and published weights."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from avpipe.cli.console import Device, Out, Results, counted, read_mapping, readable_errors

if TYPE_CHECKING:
    from avpipe.plan.extractor import ImportedConfig

commands = typer.Typer(no_args_is_help=True, help="Canonical clips to zarr arrays.")
weights_commands = typer.Typer(no_args_is_help=True, help="Published weights of the backbones.")

WeightNames = Annotated[
    list[str] | None, typer.Argument(help="Names that `avpipe weights list` prints; default: all.")
]
NeededByStudy = Annotated[str | None, typer.Option(help="Only what this study needs: a yaml or json file.")]
WeightsFolder = Annotated[
    Path | None, typer.Option(help="Folder of downloaded weights; default: the user's cache folder.")
]


def _imported(text: str) -> tuple[str, "ImportedConfig"]:
    """Name and settings of one imported feature."""
    from pydantic import ValidationError

    from avpipe.plan.extractor import ImportedConfig
    from avpipe.plan.section import NAME, describe

    (name, settings), *_ = read_mapping(text, "the feature").items()
    if not re.match(NAME, name):
        raise ValueError(f"name {name!r}: letters, digits, _ and - only")
    try:
        return name, ImportedConfig.model_validate(settings)
    except ValidationError as error:
        raise ValueError(f"the feature {name} is wrong:\n{describe(error, ImportedConfig)}") from None


def _row_names(config: "ImportedConfig") -> list[str]:
    """The clip of each row of an h5 file, if a file names them."""
    from avpipe.datasets.ave import read_row_names

    return read_row_names(Path(config.rows)) if config.format == "h5" and config.rows else []


@commands.command("extract")
@readable_errors
def extract(
    extractor: Annotated[
        list[str],
        typer.Option(
            help="Name of an array, or json {name: {backbone: ..., ...}}; repeated extractors share one decoding of each clip."
        ),
    ],
    segments: Annotated[Path, typer.Option(help="The shard's tar of canonical clips.")],
    manifest: Annotated[Path, typer.Option(help="manifest.json.")],
    shard: Annotated[int, typer.Option()],
    out: Annotated[Path, typer.Option(help="Folder of the arrays, features/.")],
    device: Device = "auto",
    weights: WeightsFolder = None,
    threads: Annotated[int, typer.Option(help="Processor threads.")] = 1,
) -> None:
    """Compute features of one shard. A bare name (resnet152) means that backbone with the published settings."""
    from avpipe.features.extract import extract_shard
    from avpipe.features.spec import published_config
    from avpipe.features.weights import default_folder
    from avpipe.plan.extractor import ExtractorConfig, LearnedConfig

    configs: dict[str, ExtractorConfig] = {}
    learned: dict[str, LearnedConfig] = {}
    for text in extractor:
        if text.lstrip().startswith("{"):
            named = read_mapping(text, "--extractor")
            (name, config), *_ = named.items()
            if "run" in config:
                learned[name] = LearnedConfig.model_validate(config)
            else:
                configs |= {name: ExtractorConfig.model_validate(config) for name, config in named.items()}
        else:
            configs[text] = published_config(text)
    if learned:
        from avpipe.training.devices import keep_freed_memory
        from avpipe.training.encode import encode_shard

        keep_freed_memory()
        counts = encode_shard(segments, manifest, shard, learned, out, device=device, threads=threads)
        typer.echo(json.dumps(counts))
    if not configs:
        return
    folder = weights or default_folder()
    timings = extract_shard(
        segments, manifest, shard, configs, out, device=device, weights_folder=folder, threads=threads
    )
    typer.echo(json.dumps(timings))


@commands.command("inspect")
@readable_errors
def inspect(
    imported: Annotated[str, typer.Argument(help="json {name: {path: ..., format: ..., shape: ...}}.")],
    out: Out,
) -> None:
    """Check published features and write what identifies them: file, shape, bytes, SHA-256."""
    from avpipe.features.published import inspect_published
    from avpipe.files import write_json

    _, config = _imported(imported)
    write_json(out, inspect_published(config))


@commands.command("import")
@readable_errors
def import_shard(
    imported: Annotated[str, typer.Argument(help="json {name: {path: ..., format: ..., shape: ...}}.")],
    published: Annotated[Path, typer.Option(help="What `avpipe features inspect` wrote.")],
    shard: Annotated[int, typer.Option()],
    results: Results,
) -> None:
    """Import one shard of published features; `avpipe import` does all of them."""
    from avpipe.features import published as features_of
    from avpipe.files import read_json

    name, config = _imported(imported)
    inspected = read_json(published)
    typer.echo(counted(features_of.import_shard(name, config, inspected, results, shard, _row_names(config))))


@readable_errors
def import_(
    path: Annotated[Path, typer.Argument(help="h5: the file; npy: the folder with one file per clip.")],
    name: Annotated[str, typer.Option(help="Name of the array: features/{name}.zarr.")],
    shape: Annotated[str, typer.Option(help="Of one clip, for example 10,7,7,512 or 10,8,2048.")],
    results: Results,
    format: Annotated[str, typer.Option(help="h5 (AVE's files) or npy (one file per clip).")] = "h5",
    dtype: Annotated[str, typer.Option(help="float16, float32 or float64.")] = "float32",
    key: Annotated[str, typer.Option(help="h5: name of the array in the file.")] = "avadataset",
    rows: Annotated[
        Path | None,
        typer.Option(
            help="h5: text file that names the clip of each row: AVE's Annotations.txt, or one name per line."
        ),
    ] = None,
    noisy: Annotated[Path | None, typer.Option(help="h5: AVE's noisy set of the same feature.")] = None,
    pattern: Annotated[
        str, typer.Option(help="npy: file below PATH, with {clip} or {source}.")
    ] = "{clip}.npy",
    origin: Annotated[str, typer.Option(help="Where the feature comes from; stored with the array.")] = "",
) -> None:
    """Read published features into the study's zarr; the study's manifest says which row is which clip."""
    from avpipe.features.published import import_features

    config = {
        "path": str(path), "format": format, "shape": [part.strip() for part in shape.split(",")], "dtype": dtype,
        "key": key, "rows": str(rows) if rows else None, "noisy": str(noisy) if noisy else None,
        "pattern": pattern, "origin": origin,
    }  # fmt: skip
    name, settings = _imported(json.dumps({name: config}))
    typer.echo(counted(import_features(name, settings, results, _row_names(settings))))


@readable_errors
def export(
    arrays: Annotated[
        list[str], typer.Argument(help="Features, each NAME or NAME=AS, for example vggish=audio_feature.")
    ],
    results: Results,
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    format: Annotated[str, typer.Option(help="ave (AVE's h5 files), npy (one file per clip) or webdataset.")],
    dtype: Annotated[str | None, typer.Option(help="default: as stored; ave: float64, as released")] = None,
    shape: Annotated[
        str | None, typer.Option(help="Of one clip: 80,2048 makes LLP's files of 10,8,2048.")
    ] = None,
) -> None:
    """Write features in the file formats that other code reads."""
    from avpipe.datasets.labels import manifest_labels
    from avpipe.features.export import FORMATS, Form, export_ave
    from avpipe.plan import registry

    registry.target(dict.fromkeys(FORMATS, ""), format, "format")
    form = Form(
        dtype or ("float64" if format == "ave" else None),
        tuple(int(part) for part in shape.split(",")) if shape else None,
    )
    named = {name: given or name for name, _, given in (text.partition("=") for text in arrays)}
    if format == "ave":
        typer.echo(counted(export_ave(named, results, out, form, manifest_labels(results))))
    else:
        typer.echo(counted(FORMATS[format](named, results, out, form)))


@commands.command("coverage")
@readable_errors
def coverage(
    files: Annotated[
        list[Path], typer.Argument(help="Files to write, features/{extractor}.csv, each beside its array.")
    ],
    manifest: Annotated[Path, typer.Option(help="manifest.parquet.")],
) -> None:
    """Count the clips of each split that have a feature; its array must be complete."""
    from avpipe.features.coverage import write_coverage

    for file in files:
        counts = write_coverage(file.with_suffix(".zarr"), manifest, file)
        text = ", ".join(f"{split} {valid} of {clips}" for split, (clips, valid) in counts.items())
        typer.echo(f"{file.stem}: {text}")


@weights_commands.command("list")
@readable_errors
def list_weights() -> None:
    """Name, size, hash, licence and address of each file of published weights."""
    from avpipe.features.weights import PUBLISHED_WEIGHTS

    for name, file in PUBLISHED_WEIGHTS.items():
        size = f"{file.size:,} bytes" if file.size else "size unknown"
        typer.echo(
            f"{name}: {file.url}\n  {file.origin}; {size}; SHA-256 {file.sha256}; licence {file.licence}"
        )


@weights_commands.command("fetch")
@readable_errors
def fetch_weights(
    names: WeightNames = None,
    study: NeededByStudy = None,
    folder: WeightsFolder = None,
) -> None:
    """Download weights ahead of time, for example where the machines that compute have no network."""
    from avpipe.features.weights import default_folder, fetch

    for name in _weight_names(names, study):
        typer.echo(str(fetch(name, folder or default_folder())))


def _weight_names(names: list[str] | None, study: str | None) -> list[str]:
    """The names given, else what the study needs, else all."""
    from avpipe.features.weights import PUBLISHED_WEIGHTS, needed_weights
    from avpipe.plan.plan import check_study
    from avpipe.plan.study import validate_study

    if names or study is None:
        return names or list(PUBLISHED_WEIGHTS)
    chosen = validate_study(
        read_mapping(study, "--study"), study
    )  # not resolved: no folder of videos is needed
    check_study(chosen)
    return [] if chosen.weights == "random" else needed_weights(chosen.with_backbone.values())
