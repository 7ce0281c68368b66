"""A module that cannot be used."""

import no_such_package_at_all  # noqa: F401
