"""What `import avpipe` gives a notebook beyond models and features: a study's files, its datasets, training and scores.

docs/notebook.py shows it.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic import ValidationError
from torch import nn

from avpipe.clips import manifest_file
from avpipe.datasets.labels import read_categories
from avpipe.features.store import Features, open_features
from avpipe.files import read_json
from avpipe.metrics.predictions import prediction_scores
from avpipe.models import MODELS
from avpipe.plan import registry
from avpipe.plan.experiment import Experiment, Role, Setting, check_experiment, check_model, task_names
from avpipe.plan.recipe import Recipe
from avpipe.plan.registry import UnknownNameError, suggest
from avpipe.plan.section import ConfigError, describe
from avpipe.plan.study import check_recipe_keys, validate_study
from avpipe.tables.predictions import study_truth
from avpipe.tables.rows import read_yaml
from avpipe.training import TASKS
from avpipe.training.data import SPLITS, Data, FeatureClips, feature_scales, open_data
from avpipe.training.devices import open_fabric
from avpipe.training.feature_task import FeatureTask
from avpipe.training.run import deterministic, why_not


def open_study(path: str | Path, device: str = "auto") -> "OpenStudy":
    """Open what a study wrote: its clips, labels, features, runs and predictions.

    Args:
        path: the results folder, results/{dataset}; or the study's file, whose results are looked for in the folders
            above the file, then in the working folder.
        device: where features and models are: "auto" (a GPU if there is one), "cpu" or "cuda:N".

    Raises:
        FileNotFoundError: there is no such path, or the study has no clips.parquet yet.
        ConfigError: the file is no study.
    """
    path = Path(path)
    if path.is_file():
        name = Path("results") / validate_study(read_yaml(path), str(path)).dataset.name
        places = [folder / name for folder in (*path.absolute().parents, Path())]
        results = next((place for place in places if place.is_dir()), name)
    elif path.is_dir():
        results = path
    else:
        raise FileNotFoundError(
            f"{path} does not exist: name a results folder (results/demo) or a study's file"
        )
    if not (results / "clips.parquet").is_file():
        raise FileNotFoundError(
            f"{results} has no clips.parquet: run the study first (snakemake --cores 8 all)"
        )
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    return OpenStudy(results, torch.device(device))


class OpenStudy:
    """The results of a study. Tables are read when they are first asked for; `open_study` again sees newer ones.

    Args:
        results: the study's folder.
        device: where batches of its datasets go.
    """

    def __init__(self, results: Path, device: torch.device) -> None:
        self.results, self.device = results, device
        self._opened: tuple[Any, Data] | None = None

    def __repr__(self) -> str:
        return f"<study {self.results}: {len(self.clips)} clips, {len(self.categories)} categories, features {', '.join(self.features)}>"

    @cached_property
    def clips(self) -> pd.DataFrame:
        """clips.parquet: a row for each clip that the annotations name, with `clip`, `split`, `status`, `reason`, ..."""
        return pd.read_parquet(self.results / "clips.parquet")

    @cached_property
    def events(self) -> pd.DataFrame:
        """events.parquet, the labels: clip, modality, category, onset, offset (seconds)."""
        return pd.read_parquet(manifest_file(self.results, "events.parquet"))

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """The C categories in the order of their indices. Background, index C, is not among them."""
        return read_categories(self.results)

    @property
    def features(self) -> list[str]:
        """The names of the features, for `dataset` and `open_features`."""
        return sorted(path.stem for path in (self.results / "features").glob("*.zarr"))

    def open_features(self, name: str) -> Features:
        """The array of a feature, (rows, T, ...), with its clips and a validity mask.

        Raises:
            UnknownNameError: the study has no such feature.
            FeaturesError: the array is unfinished or damaged.
        """
        return open_features(self._feature(name))

    def _feature(self, name: str) -> Path:
        if name not in self.features:
            raise UnknownNameError(f"{self.results} has no feature {name!r}; {suggest(name, self.features)}")
        return self.results / "features" / f"{name}.zarr"

    def dataset(
        self,
        split: str,
        task: str = "localization",
        *,
        audio: str | None = None,
        visual: str | None = None,
        motion: str | None = None,
        setting: Setting | None = None,
    ) -> "StudyClips":
        """The usable clips of a split, with features and labels: those that have all the features named here.

        Args:
            split: "train", "val" or "test".
            task: "localization", "parsing", "cross_modality", ...: decides the labels.
            audio: name of a feature, (T, D_a) a clip.
            visual: name of a feature, (T, D_v) or maps (T, H, W, D_v) a clip.
            motion: name of a feature, (T, D_m) a clip.
            setting: "supervised", "weakly-supervised" or "self-supervised": decides the training labels; None: the task's
                first.

        Raises:
            UnknownNameError: for an unknown split, task, setting or feature.
            ValueError: no feature is named, or their numbers of segments differ.
        """
        task_class = registry.load(TASKS, task, "task")
        settings = task_names(task, "settings")
        chosen = settings[0] if setting is None else setting
        for what, name, known in (("split", split, SPLITS), (f"setting of {task}", chosen, settings)):
            if name not in known:
                raise UnknownNameError(f"unknown {what} {name!r}; {suggest(name, list(known))}")
        given: dict[Role, str | None] = {"audio": audio, "visual": visual, "motion": motion}
        features = {role: name for role, name in given.items() if name is not None}
        for name in features.values():
            self._feature(name)
        key = (features, task_class.split_set, chosen == "weakly-supervised")
        if self._opened is None or self._opened[0] != key:  # splits share one load
            self._opened = key, open_data(features, self.results, self.device, None, *key[1:])
        # Any model: `train` takes its own.
        asked = {"task": task, "model": "avg", "features": features, "setting": chosen, "recipe": Recipe()}
        return StudyClips(
            self, task_class(Experiment.model_validate(asked), self._opened[1], nn.Module), split
        )

    def truth(self, split: str = "test", task: str = "localization") -> pd.DataFrame:
        """The labels of a split's usable clips, whatever features they have, for `score`.

        Returns:
            Localization: clip, segment, truth (index of the category, background C), a row a segment. Parsing: clip,
            segment, modality, category, truth (bool), a row for each combination. Cross-modality localization: clip,
            onset, length, direction, a row for each query.

        Raises:
            ValueError: for a split without usable clips, or another task.
        """
        return study_truth(self.results, task, split)

    def runs(self) -> pd.DataFrame:
        """All runs, a row for each place in a table that a run has; a run that no table shows has one row.

        Returns:
            table, row, setting, experiment (its id), seed, task, model, protocol (which checkpoint is scored), status,
            reason (of a failure), a column for each metric (as recorded: percentages as fractions), folder.
        """
        rows = []
        for path in sorted((self.results / "runs").glob("*/seed*/metrics.json")):
            record = read_json(path)
            asked = record["experiment"]
            protocol = asked["recipe"]["protocol"]
            found = {
                "experiment": record["experiment_id"],
                "seed": record["seed"],
                "setting": asked["setting"],
            }
            found |= {"task": asked["task"], "model": asked["model"], "protocol": protocol}
            found |= {"status": record["status"], "reason": record["reason"]}
            scores = record["metrics"].get(protocol, {})
            rows.append({**found, **scores, "folder": str(path.parent)})
        columns = [
            "table",
            "row",
            "setting",
            "experiment",
            "seed",
            "task",
            "model",
            "protocol",
            "status",
            "reason",
        ]
        if not rows:
            return pd.DataFrame(columns=[*columns, "folder"])
        runs = pd.DataFrame(rows).merge(self._places(), how="left", on="folder")
        metrics = [name for name in runs if name not in (*columns, "folder")]
        return runs[[*columns, *metrics, "folder"]]

    def _places(self) -> pd.DataFrame:
        """table, row and folder of the runs that tables show."""
        places = set()
        for path in (self.results / "tables").glob("*.csv"):
            shown = pd.read_csv(path, dtype=str, keep_default_na=False)
            for row, runs in shown[["row", "runs"]].itertuples(index=False):
                places |= {(path.stem, row, str(self.results / run)) for run in runs.split()}
        return pd.DataFrame(sorted(places), columns=["table", "row", "folder"], dtype=object)

    def predictions(self, of: str, seed: int = 0, setting: str | None = None) -> pd.DataFrame:
        """A run's predictions for the test split; docs/output.md has the columns of each task.

        Args:
            of: a row ("avin"), a table and its row ("avin_fusion/avin"), or an experiment's id.
            seed: of the run.
            setting: where the row is run in several.

        Raises:
            UnknownNameError: there is no such row, experiment, setting or seed.
            ValueError: several experiments are meant (the message has their ids), or the run failed.
        """
        runs = self.runs()
        places = runs["table"] + "/" + runs["row"]
        named = (runs["row"] == of) | (places == of) | (runs["experiment"] == of)
        if not named.any():
            names = pd.concat([runs["row"], places, runs["experiment"]]).dropna().unique().tolist()
            raise UnknownNameError(f"{self.results} has no run of {of!r}; {suggest(of, names)}")
        chosen = runs[named]
        for column, value in (("setting", setting), ("seed", seed)):
            found = chosen if value is None else chosen[chosen[column] == value]
            if found.empty:
                known = ", ".join(map(str, chosen[column].unique()))
                raise UnknownNameError(f"{of} has no run of {column} {value!r}; known: {known}")
            chosen = found
        ids = chosen["experiment"].unique().tolist()
        if len(ids) > 1:
            raise ValueError(
                f"{of!r} names {len(ids)} experiments, {', '.join(ids)}: take an id, or give table/row and setting"
            )
        run = chosen.iloc[0]
        if run["status"] != "ok":
            raise ValueError(f"{of}, seed {seed}, has no predictions: it failed, {run['reason']}")
        return pd.read_parquet(Path(run["folder"]) / "predictions.parquet")


class StudyClips(FeatureClips):
    """A split of a study as a torch Dataset. An item is the task's batch (`avpipe.models.base`) without its first axis.

    For torch's DataLoader, give `collate_fn=avpipe.training.data.collate`.

    Args:
        study: where it is from.
        task: features and labels of all splits.
        split: "train", "val" or "test".
    """

    def __init__(self, study: OpenStudy, task: FeatureTask, split: str) -> None:
        super().__init__(task.data.store, task.data.splits[split], task.batch, task.labels(split))
        self.study, self.task, self.split = study, task, split

    def __repr__(self) -> str:
        asked = self.task.experiment
        return f"<{len(self)} {self.split} clips of {self.study.results}: {asked.task}, {asked.setting}, {asked.features}>"

    def truth(self) -> pd.DataFrame:
        """As `OpenStudy.truth`, of these clips."""
        truth = self.study.truth(self.split, self.task.experiment.task)
        return truth[truth["clip"].isin(self.names)].reset_index(drop=True)


@dataclass(frozen=True)
class Trained:
    """A trained model and what it gives on the test split, at the checkpoint that the recipe's `protocol` chose.

    Args:
        metrics: metric -> value; percentages as fractions from 0 to 1.
        predictions: with the columns of predictions.parquet.
        model: in evaluation mode.
        epoch: of the checkpoint.
        history: a row an epoch: epoch, lr, loss and, where it was evaluated, the validation scores, `val_...`.
    """

    metrics: dict[str, float]
    predictions: pd.DataFrame
    model: nn.Module
    epoch: int
    history: pd.DataFrame


def train(
    model: str | nn.Module,
    clips: StudyClips,
    *,
    options: dict[str, Any] | None = None,
    seed: int = 0,
    epochs: int = 100,
    **recipe: Any,
) -> Trained:
    """Train a model on a study's clips, choose its checkpoint on the split val, and evaluate it on the split test.

    The same loop as a table's runs, `avpipe.training.fit`. Nothing is written.

    Args:
        model: a name of `list_models()`, or a module, of which a copy is trained: its `forward` takes the task's batch and
            returns the task's output (`avpipe.models.base`).
        clips: the training clips, `study.dataset("train", ...)`.
        options: keyword arguments of a model that is given by its name; sizes of the data are filled in.
        seed: of all randomness; not of the weights that a module already has.
        epochs: passes over the training clips.
        recipe: batch_size, lr and the other keys of a recipe (docs/config.md), with their defaults.

    Raises:
        UnknownNameError: for an unknown model or option.
        ConfigError: for an unknown key of the recipe, a wrong value, or a key that only other tasks read.
        ValueError: for another split than train, if a split has no clips, or if the loss becomes infinite or NaN.
    """
    if clips.split != "train":
        raise ValueError(f'the clips are those of the split {clips.split}: give study.dataset("train", ...)')
    asked, data = clips.task.experiment, clips.task.data
    check_recipe_keys(recipe, asked.task, "recipe")
    try:
        given = Recipe.model_validate({"epochs": epochs, **recipe})
    except ValidationError as error:
        raise ConfigError(f"recipe:\n{describe(error, Recipe)}") from None
    experiment, kind = asked.model_copy(update={"recipe": given}), type(model)
    if isinstance(model, str):
        check_model(model, options or {})
        experiment = experiment.model_copy(update={"model": model, "options": options or {}})
        check_experiment(experiment)
        kind = registry.load(MODELS, model, "model")
    elif options:
        raise ValueError("options are for a model that is given by its name")
    task: FeatureTask = type(clips.task)(experiment, data, kind)
    if isinstance(model, nn.Module):
        task.module = model
    if given.weak_labels == asked.recipe.weak_labels:  # else the labels are others
        task.made["train"] = clips
    device = data.store.device
    if reason := why_not(experiment, data) or task.problem():
        raise ValueError(reason)
    if given.standardize:
        task.scales = feature_scales(data, "train")
    with deterministic(device):
        fabric = open_fabric(device, given.precision)
        fitted = task.train(seed, fabric=fabric, states=None, folder=None, name=kind.__name__)
    if fitted.reason:
        raise ValueError(fitted.reason)
    tested = fitted.evaluations[given.protocol]
    epoch = fitted.epochs[given.protocol]
    return Trained(tested.scores, tested.table, fitted.model.eval(), epoch, pd.DataFrame(fitted.rows))


def score(task: str, truth: pd.DataFrame | StudyClips, predictions: pd.DataFrame) -> dict[str, float]:
    """Score predictions that were made anywhere by the task's metrics.

    Args:
        task: "localization", "parsing", "refined_parsing" or "cross_modality".
        truth: `study.truth(...)`, a dataset of a study (its clips), or a table with the columns of either.
        predictions: of every clip of `truth`; further clips and columns do not count. Segments count from 0.
            Localization: clip, segment, prediction (index of the category; background is C, the last).
            Parsing: clip, segment, modality ("audio", "visual"), category (its name), prediction (bool); rows that are not
            there are false, but a clip with events needs one.
            Cross-modality localization: clip, direction ("audio_to_visual", "visual_to_audio"), prediction (first segment
            found).

    Returns:
        Metric -> value; percentages as fractions from 0 to 1.

    Raises:
        ValueError: for another task, a missing column, a row that stands twice, or clips without predictions, which are
            named.
    """
    if isinstance(truth, StudyClips):
        truth = truth.truth()
    return prediction_scores(task, truth, predictions)
