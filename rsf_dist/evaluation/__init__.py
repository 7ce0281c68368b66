"""Evaluation of fine-tuned models and of accepted rows."""
