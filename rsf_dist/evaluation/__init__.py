"""How good a fine-tuned model and a set of accepted rows are."""
