"""Figures: `figures` reads runs and clips, and draws bars; `timeline` draws the segments of one clip."""
