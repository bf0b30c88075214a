"""Media: from downloaded files to canonical clips, and from these to frames and waveforms."""
