"""Networks: their classes, their architectures by name, their weights and their optimizers."""
