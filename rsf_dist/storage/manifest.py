"""manifest.json: the folders, shards and rounds that a run's directory holds. Files that it does not list do not exist.

The models below are the file's schema: reading is validation, and `manifest_schema` prints it. A manifest that does not
validate is damaged. A manifest of another version is not damaged: it is refused before anything else is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from rsf_dist.config.sampling import Budget
from rsf_dist.errors import InputError

MANIFEST = "manifest.json"
PREVIOUS = "manifest.previous.json"

VERSION: Final = 4
"""Raised whenever this version of rsf_dist cannot read what an earlier one wrote: keys of config.yaml included."""


class _Model(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid", ser_json_inf_nan="constants")


@dataclass(frozen=True)
class Shard:
    """One Parquet file of accepted rows."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    chunk: int
    """The number of the chunk that the rows come from."""

    path: str
    """The path of the file, relative to the run's directory."""

    rows: int
    """The number of rows in the file."""

    sha256: str
    """The SHA-256 of the file's bytes, in hexadecimal."""


class WorkIdentity(_Model):
    """The settings that a round's chunks depend on, proposal and ratio aside. A round goes on only with equal ones."""

    seed: int
    """The seed of every random stream."""

    chunk_size: int
    """Proposals in a chunk."""

    log_m: float
    """The log M at which the chunks are drawn."""

    pool_size: int | None
    """Rows of a finite pool that are proposed, each once; null for proposals without an end."""

    stage: int
    """The family of random streams, by its number."""


class RoundResult(_Model):
    """The outcome of a round that ended."""

    wanted: int
    """Rows that were asked for."""

    budget: Budget
    """The budget under which they were asked for."""

    fingerprint: str
    """SHA-256, in hexadecimal, over the columns' names and types, log M and the accepted rows' ledger."""

    report: dict[str, JsonValue]
    """The SamplingReport of the accepted rows; `rsf schema report` describes its fields."""


class RoundProgress(_Model):
    """The chunks of a round that were drawn so far: a first so many of them, without gaps."""

    work: WorkIdentity
    """The settings by which the chunks were computed."""

    drawn_at_log_m: float
    """The log M above which the keys of the stored rows lie."""

    seconds: float
    """Seconds spent on the round, over all attempts."""

    chunks: int
    """The number of chunks that were drawn; the next one has this number."""

    log_m: float
    """The log M in force. It exceeds drawn_at_log_m where M grew while rows came in."""

    statistics: dict[str, JsonValue]
    """The merged sums over all scored proposals, of `sampling.diagnostics.Statistics`; infinite ones are kept."""

    columns: str
    """The names and types of the rows' columns, as JSON."""

    shards: list[Shard]
    """The files with the rows, in the order of their chunks. A chunk without an accepted row has none."""

    result: RoundResult | None = None
    """The outcome; null while the round is not complete."""

    @property
    def complete(self) -> bool:
        """True if the round ended, with all rows that were wanted or at the end of its budget."""
        return self.result is not None


class TakenOver(_Model):
    """A stage's results that were copied from an earlier run instead of being made."""

    run: str
    """The earlier run's directory, when they were copied."""

    folder: str
    """The folder of the seed within it; empty where it had one seed."""

    files: int
    """The number of files that were copied."""

    sha256: str
    """SHA-256, in hexadecimal, over the copied files' paths and SHA-256."""

    round: int | None = None
    """The number of the round whose rows these are; null for other stages."""

    chunks: int = 0
    """The number of the round's chunks that were copied, its first ones."""


class Manifest(_Model):
    """The contents of manifest.json."""

    version: Literal[4] = VERSION
    """The version of this format."""

    folders: dict[str, dict[str, str]] = Field(default_factory=dict)
    """The folders of the run, by their paths: the SHA-256 of each file, by its path within the folder."""

    rounds: dict[int, RoundProgress] = Field(default_factory=dict)
    """The rounds that were begun, by their numbers."""

    made_with: dict[str, str | None] = Field(default_factory=dict)
    """What results rest on beside configuration, images and seed: versions of libraries, the kind of processor, SHA-256
    of code and files that the configuration names. null stands for what is unknown, or changed while the run was
    made."""

    taken_over: dict[str, TakenOver] = Field(default_factory=dict)
    """The stages whose results come from an earlier run, by the path of their folder."""

    made_anew: dict[str, str] = Field(default_factory=dict)
    """The stages of that run that were not taken over, by the path of their folder, and why."""


class _Version(BaseModel):
    """The one field that manifests of all versions have."""

    version: int


def read_manifest(data: bytes, uri: str) -> Manifest | None:
    """Return the manifest in a file's bytes, or None where they are damaged.

    Args:
        data: the file's content.
        uri: the run's directory, for the message.

    Raises:
        InputError: the manifest was written by another version of rsf_dist.
    """
    try:
        version = _Version.model_validate_json(data).version
        if version != VERSION:
            raise _other_version(version, uri)
        return Manifest.model_validate_json(data)
    except ValidationError:
        return None


def _other_version(version: int, uri: str) -> InputError:
    age = "an older" if version < VERSION else "a newer"
    rule = f"was written by {age} version of rsf_dist (manifest version {version}, and this version reads {VERSION})"
    return InputError("output", uri, rule, "name another directory, or use the version of rsf_dist that wrote it")


def manifest_schema() -> dict[str, JsonValue]:
    """Return the JSON schema of manifest.json."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return dialect | Manifest.model_json_schema(mode="serialization")
