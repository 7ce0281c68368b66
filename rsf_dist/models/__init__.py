"""Networks, weights and optimizers."""
