"""The forecast of a run, before the run: `rsf plan`."""
