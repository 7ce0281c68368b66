"""From a configuration to the objects that it describes."""
