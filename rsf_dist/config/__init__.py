"""A run's configuration, a file a section; neither torch nor Ray."""
