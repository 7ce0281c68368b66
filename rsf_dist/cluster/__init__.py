"""The Ray cluster: joining it, its room, and the one way to run functions on it."""
