"""Config in, run directory out."""
