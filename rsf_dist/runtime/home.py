"""The home directory, below which Ray Train wants a folder already when it is imported."""

from pathlib import Path

from rsf_dist.errors import InputError


def require_home() -> None:
    """Raise InputError where neither HOME nor the system's list of users names a home directory."""
    try:
        Path.home()
    except RuntimeError as err:
        rule = "Ray looks for files in the home directory, and the list of users has no entry for this user, either"
        raise InputError("HOME", "(not set)", rule, "export HOME=FOLDER, e.g. HOME=/tmp") from err
