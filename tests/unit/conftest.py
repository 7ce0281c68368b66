import os

import pytest
import torch

# A unit test that calls Ray by mistake fails, and starts no cluster.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Torch uses one thread, as in an actor; networks this small only lose time to threads that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
