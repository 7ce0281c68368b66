"""Bad input, as data: what a user may get wrong, and the field that the error message must name."""
