"""avpipe: from the annotation files of audio-visual datasets to the tables of papers.

One folder a stage, in the way the data flows::

    datasets -> download -> media -> features -> models + training + metrics -> tables, report

Vocabulary used everywhere: B batch, T segments (10), F frames a segment (16), C classes, D feature width,
M mel bands (64). A *clip* is a 10 s excerpt, a *segment* one second of it, a *shard* the clips of one job,
an *extractor* backbone + preprocessing + pooling, an *experiment* the recipe behind a table's row, a *run*
an experiment with a seed, a *setting* supervised, weakly- or self-supervised, a *protocol* how the checkpoint is
chosen.

Importing avpipe is cheap on purpose: the Snakefile and every shell job do it.
"""

__version__ = "0.1.0"
