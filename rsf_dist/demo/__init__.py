"""The demo: a classifier of scikit-learn's digits (real scans) meets a place where digits are turned, dim and noisy."""
