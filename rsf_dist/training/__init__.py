"""Fine-tuning with Ray Train, which knows nothing of M, p and q."""
