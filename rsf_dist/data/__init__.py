"""Rows in memory and as Arrow; images on disk."""
