"""The demo: a classifier of scikit-learn's digits (real scans) adapts to digits that are turned, dim and noisy."""
