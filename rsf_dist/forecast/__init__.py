"""What a run will take and give: `rsf plan`."""
