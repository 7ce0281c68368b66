"""A module that cannot be used."""

import sys

sys.exit(0)
