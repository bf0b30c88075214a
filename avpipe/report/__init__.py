"""Figures of runs and clips. A kind of figure is one file: its options, its caption and its drawing."""

from avpipe.plan.registry import LazyTable

KINDS: LazyTable = {
    "categories": "avpipe.report.categories:CategoriesFigure",
    "confusion": "avpipe.report.confusion:ConfusionFigure",
    "curve": "avpipe.report.curve:CurveFigure",
    "events": "avpipe.report.events:EventsFigure",
    "fscores": "avpipe.report.fscores:FScoresFigure",
    "grounding": "avpipe.report.grounding:GroundingFigure",
    "parsed": "avpipe.report.parsed:ParsedFigure",
    "segments": "avpipe.report.segments:SegmentsFigure",
    "sources": "avpipe.report.sources:SourcesFigure",
    "spectrograms": "avpipe.report.spectrograms:SpectrogramsFigure",
    "tsne": "avpipe.report.tsne:TSNEFigure",
}
"""Kind of figure -> its class, a `FigureSpec`. The only place where a kind is registered."""
