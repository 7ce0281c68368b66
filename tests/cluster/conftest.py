"""Settings of the tests on Ray, which start many processes beside each other."""

import os

# A process computes on one thread, as an actor does. Ray's workers and the commands that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
