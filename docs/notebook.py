# %% [markdown]
# # From features to a figure
#
# This script is a notebook: Jupyter (with jupytext) and VS Code open it cell by cell, and `python docs/notebook.py` runs it.
# It reads what a study wrote, trains two models on the study's features, scores predictions that were made without avpipe,
# and draws a figure. Run `make quick` first, which takes a minute.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.neighbors import NearestCentroid
from torch import nn

import avpipe
from avpipe.models.base import LocalizationBatch, SegmentOutput

RESULTS = "results/quick"  # seen from the checkout; a notebook that runs in docs/ needs "../results/quick"

study = avpipe.open_study(RESULTS)
print(study)

# %% [markdown]
# ## What the study has
#
# Clips, labels and runs are pandas tables. `runs` has a row for each run of each row of a table.

# %%
print(study.clips.groupby(["split", "status"]).size())
print(study.events.head(3))
print(study.runs()[["table", "row", "setting", "seed", "protocol", "accuracy"]])

# %% [markdown]
# A feature is one array with a row for each clip. `valid` says which clips have it.

# %%
audio = avpipe.open_features(study.results / "features" / "vggish.zarr")
print(audio, audio.valid.mean())

# %% [markdown]
# ## A model by its name
#
# `dataset` gives the clips of a split that have all the features, with the labels of the task. `train` evaluates each epoch on
# the split val, keeps the best weights, and scores them on the split test.

# %%
clips = study.dataset("train", task="localization", audio="vggish", visual="visual_map")
first = clips[0]
print(clips)
print(tuple(first.audio.shape), tuple(first.visual.shape), tuple(first.target.shape))
print("models:", ", ".join(avpipe.list_models()))

avel = avpipe.train("avel", clips, options={"hidden_dim": 32, "attention_dim": 32}, epochs=20, batch_size=16)
print(avel.metrics, "epoch", avel.epoch)

# %% [markdown]
# ## A model of your own
#
# Any module that takes the task's batch and returns the task's output can be trained: here a linear classifier of each segment.


# %%
class Linear(nn.Module):
    """audio (B, T, D_a) and a map (B, T, H, W, D_v) -> logits of each segment, (B, T, C + 1)."""

    def __init__(self, audio: int, visual: int, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(audio + visual, classes)

    def forward(self, batch: LocalizationBatch) -> SegmentOutput:
        both = torch.cat([batch.audio, batch.visual.mean(dim=(2, 3))], dim=-1)  # (B, T, D_a + D_v)
        return SegmentOutput(segment_logits=self.classifier(both))


torch.manual_seed(0)
network = Linear(first.audio.shape[-1], first.visual.shape[-1], len(study.categories) + 1)
linear = avpipe.train(network, clips, epochs=20, batch_size=16, standardize=True)
print(linear.metrics)

# %% [markdown]
# ## Predictions made elsewhere
#
# Predictions are a table with the columns of a run's predictions.parquet: for localization `clip`, `segment` (from 0) and
# `prediction` (the index of the category; the last is background). Here scikit-learn gives each segment the category whose mean
# audio feature is nearest.


# %%
def segments(truth: pd.DataFrame) -> np.ndarray:
    """The audio features of the rows of a truth table, (rows, D_a)."""
    row = {clip: i for i, clip in enumerate(audio.clips)}
    values = audio.load(truth["clip"].map(row).to_numpy())  # (rows, T, D_a): each row's whole clip
    return values[np.arange(len(truth)), truth["segment"]]


known, asked = (study.dataset(split, audio="vggish").truth() for split in ("train", "test"))
nearest = NearestCentroid().fit(segments(known), known["truth"])
elsewhere = asked[["clip", "segment"]].assign(prediction=nearest.predict(segments(asked)))
print(avpipe.score("localization", asked, elsewhere))

# %% [markdown]
# Saved to a file, they can be a row of a table, beside the models that the study trains (docs/extending.md):
#
#     - {row: nearest, method: Nearest mean, predictions: results/quick/nearest.parquet, settings: [supervised]}

# %%
elsewhere.to_parquet(study.results / "nearest.parquet", index=False)

# %% [markdown]
# ## A figure
#
# The categories of one test clip's segments: the truth above what four methods predict. White is background.

# %%
rows = {
    "truth": asked.rename(columns={"truth": "prediction"}),
    "AVIN, a table's run": study.predictions("avin", seed=0, setting="supervised"),
    "AVEL": avel.predictions,
    "linear": linear.predictions,
    "nearest mean": elsewhere,
}
clip = asked.loc[asked["truth"] < len(study.categories), "clip"].iloc[0]
shown = np.stack([table.loc[table["clip"] == clip, "prediction"].to_numpy() for table in rows.values()])
colours = plt.get_cmap("tab20").resampled(len(study.categories) + 1)(np.arange(len(study.categories) + 1))
colours[-1] = 1  # background

figure, axes = plt.subplots(figsize=(8, 2.6), layout="constrained")
axes.imshow(colours[shown], aspect="auto")
axes.set_yticks(range(len(rows)), list(rows))
axes.set_xticks(range(shown.shape[1]))
axes.set_xlabel("second")
axes.set_title(
    f"{clip}: {', '.join(study.categories[c] for c in np.unique(shown[0]) if c < len(study.categories))}"
)
figure.savefig(study.results / "notebook.png", dpi=120)
