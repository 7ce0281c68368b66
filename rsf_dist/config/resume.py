"""The keys that may change when a run is resumed, and the others that have changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rsf_dist.config.load import filled
from rsf_dist.config.run import RunConfig

RESOURCES = (
    "output",
    "sampling.pool",
    "sampling.budget",
    "training.num_workers",
    "training.cpus_per_worker",
    "training.use_gpu",
    "training.max_failures",
    "wait_seconds",
)
"""Keys, with all keys below them, that may change when a run is resumed; `wait_seconds` in every section."""


def with_kept_defaults(before: RunConfig, now: RunConfig) -> RunConfig:
    """Return the configuration with the values of the run's own for keys that are left to the images.

    So a run goes on as it began, also under a version that would choose other values.
    """
    kept = dict(_nodes(before.model_dump(mode="json")))
    left_open = now.image_defaults((1, 1, 1))  # the values follow from the shape, and the keys do not
    return filled(now, {key: kept[key] for key in left_open if kept.get(key) is not None})


def differences(before: RunConfig, now: RunConfig) -> list[str]:
    """List the keys other than RESOURCES that differ between two configurations, as `key=value (was value)`.

    `data` is left out, because the image sets hold its keys.
    """
    old, new = (leaves(config) for config in (before, now))
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key) and not _is_resource(key)]
    return [f"{key}={new.get(key, '(absent)')} (was {old.get(key, '(absent)')})" for key in keys]


def _is_resource(key: str) -> bool:
    waits = key.endswith(".wait_seconds") and not is_own_option(key)
    return waits or any(f"{key}.".startswith(f"{name}.") for name in RESOURCES)


def is_own_option(key: str) -> bool:
    """Return True for a key of the user's own code, which may be named like one of ours and mean something else."""
    return ".options." in key


def _nodes(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield everything in nested dictionaries and lists, with its path."""
    yield path, node
    if isinstance(node, (dict, list)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _nodes(value, f"{path}.{key}" if path else str(key))


def leaves(config: RunConfig) -> dict[str, Any]:
    """Return the values of the configuration by their dotted keys, `data` left out. A list is one value."""
    return dict(_leaves(config.model_dump(mode="json", exclude={"data"})))


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict):
        yield path, node
        return
    for key, value in node.items():
        yield from _leaves(value, f"{path}.{key}" if path else str(key))
