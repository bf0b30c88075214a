"""Training and evaluation: features and labels -> runs. This table is all that importing the package loads."""

from avpipe.plan.registry import LazyTable

TASKS: LazyTable = {
    "actions": "avpipe.training.actions:Actions",
    "alignment": "avpipe.training.alignment:Alignment",
    "barlow_twins": "avpipe.training.barlow_twins:BarlowTwins",
    "cross_modality": "avpipe.training.cross_modality:CrossModality",
    "localization": "avpipe.training.localization:Localization",
    "parsing": "avpipe.training.parsing:Parsing",
    "pretraining": "avpipe.training.pretraining:Pretraining",
    "refined_parsing": "avpipe.training.refined_parsing:RefinedParsing",
    "separation": "avpipe.training.separation:Separation",
    "source_localization": "avpipe.training.source_localization:SourceLocalization",
}
"""Values of `Experiment.task` -> the task's class, see `avpipe.training.experiment_task.ExperimentTask`."""
