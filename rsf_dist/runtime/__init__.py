"""The parts that any process needs: random streams, device, memory, timeouts, user code and progress."""
