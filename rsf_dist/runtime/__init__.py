"""What any process needs: random streams, its device, memory, timeouts, user code, progress."""
