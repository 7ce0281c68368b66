"""A module that cannot be used."""

import time

time.sleep(3600)
