"""A module that cannot be used."""

raise RuntimeError("two\nlines")
