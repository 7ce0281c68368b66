"""Lines of Ray's that a user of the command does not need, by Ray's own setting."""

import os

SETTING = "RAY_DEDUP_LOGS_SKIP_REGEX"
ENDED_ACTOR = (
    r"^Task MapWorker\(.* failed\. There are infinite retries .*The actor is "
    r"(temporarily unavailable|dead because it was killed by `ray\.kill`)"
)


def hide_ended_actors() -> None:
    """Hide Ray's line for a task whose actor was ended, unless the environment says otherwise.

    It must be called before Ray is imported, which reads the setting. Ray Data ends its actors while they work, once
    there are enough rows. An actor that dies of itself has a further line, which is shown.
    """
    os.environ.setdefault(SETTING, ENDED_ACTOR)
