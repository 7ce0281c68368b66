"""What leaves a run: accepted rows in the formats of other tools, and the predictions of a model."""
