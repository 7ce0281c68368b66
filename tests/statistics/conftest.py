import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tests run on one thread, as an actor does: networks this small only lose time to more threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
