"""URIs of files in object stores, which are printed and written into a run's directory."""

from __future__ import annotations

import re

from rsf_dist.errors import InputError


def refuse_password(uri: str, field: str) -> None:
    """Raise InputError where a URI has a user's password, which may hold slashes, or an option that names a secret.

    Args:
        uri: a path or URI.
        field: the configuration's key, for errors, which do not show the URI.
    """
    scheme, _, rest = uri.partition("://")
    after_colon = rest.partition("/")[0].partition(":")[2]
    has_password = "@" in rest and after_colon and not after_colon.isdigit()  # digits are a port
    if has_password or re.search(r"[?&][^=&]*(secret|password|token|key)[^=&]*=", rest, re.IGNORECASE):
        remedy = "give it by the environment, as the storage's documentation says"
        raise InputError(field, f"{scheme}://…", "carries a password", remedy)
