"""Fine-tuning with Ray Train; blind to M, p and q."""
