"""Media: from whatever was downloaded to canonical clips, and from those to frames and waveforms."""
