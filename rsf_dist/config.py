"""A run's configuration: what the YAML may say, checked before anything starts.

Every model refuses unknown keys. `load_config` reads a file and `key=value` overrides, and turns each of pydantic's
complaints into one InputError that names the field, the value, the rule and a remedy. No torch and no Ray in here.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rsf_dist.errors import InputError

Fraction = Annotated[float, Field(gt=0, lt=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


ParameterName = Literal["rotation", "scale", "translate_x", "translate_y", "brightness", "contrast", "noise"]


class ImagesConfig(_Config):
    """Where images are read from.

    kind: `digits` (scikit-learn's), `idx` (MNIST's files), `image_folder` (images, or a sub-folder a class) or `npz`.
    root: the folder or file; not for `digits`.
    split: which of the IDX files; not looked at for other kinds.
    start, limit: take images start to start + limit of what is found.
    classes: the classes' names, in order of their labels; by default those found.
    size: for image_folder, [height, width] that images are scaled to cover and cropped to; needed where they differ.
    channels: for image_folder, 1 (grey) or 3 (RGB).
    """

    kind: Literal["digits", "idx", "image_folder", "npz"]
    root: str | None = None
    split: Literal["train", "test"] = "train"
    start: Count = 0
    limit: PositiveInt | None = None
    classes: tuple[str, ...] = ()
    size: tuple[PositiveInt, PositiveInt] | None = None
    channels: Literal[1, 3] = 3

    @model_validator(mode="after")
    def _has_root(self) -> ImagesConfig:
        if self.root is None and self.kind != "digits":
            raise ValueError(f"kind {self.kind} needs `root`, the folder or file")
        return self


class LawConfig(_Config):
    """The distribution of one augmentation parameter: exactly one of `uniform: [low, high]`, `normal: [mean, sd]`."""

    uniform: tuple[float, float] | None = None
    normal: tuple[float, PositiveFloat] | None = None

    @model_validator(mode="after")
    def _one_law(self) -> LawConfig:
        if (self.uniform is None) == (self.normal is None):
            raise ValueError("name exactly one of uniform, normal")
        numbers = self.uniform or self.normal or ()
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError("numbers must be finite")
        if self.uniform is not None and self.uniform[0] >= self.uniform[1]:
            raise ValueError("uniform needs low < high")
        return self


class TransformConfig(_Config):
    """One step of a torchvision.transforms.v2 pipeline: the class's `name` and its keyword `options`."""

    name: str
    options: dict[str, Any] = {}


class AugmentConfig(_Config):
    """Proposals: the labelled source images under random augmentations.

    parameters: a law for each continuous parameter (rotation in radians, scale, translate_x, translate_y, brightness,
        contrast, noise); those not named stay neutral. Broad laws cover more of the target and lower the acceptance.
    class_prior: probability of each class; by default as among the source images.
    transforms: further torchvision.transforms.v2 steps, applied image by image.
    """

    kind: Literal["augment"] = "augment"
    parameters: dict[ParameterName, LawConfig] = {}
    class_prior: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] | None = None
    transforms: tuple[TransformConfig, ...] = ()


class ModelConfig(_Config):
    """A network.

    name: `small_cnn` (three convolutions, for tiny images), the name of a torchvision classification model, `mlp` (for
        float rows in place of images), or the import path `package.module:function` of one of your own: the function
        gets num_outputs, channels and `options`, and returns a torch module for float images [n, channels, h, w] on the
        scale 0 to 1; see `NetworkSpec`.
    options: keyword arguments for a function of your own.
    width: channels of small_cnn's first layer, units of mlp's hidden layers; cost grows with its square.
    depth: hidden layers of mlp.
    dropout: of small_cnn's head, after each of mlp's hidden layers.
    weights: a local .safetensors or .pt file, or the name of torchvision weights (downloaded by torchvision); a head of
        another shape is replaced. None: random weights, or those that a function of your own loads.
    input_size: [height, width] that images are resized to in the network; None: as they are.
    """

    name: str = "small_cnn"
    options: dict[str, Any] = {}
    width: PositiveInt = 16
    depth: PositiveInt = 3
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    weights: str | None = None
    input_size: tuple[PositiveInt, PositiveInt] | None = None


class OptimizerConfig(_Config):
    """How to descend, counted in optimizer steps.

    algorithm: `adamw`, or `sgd` without momentum.
    schedule: `cosine`, linear warm-up and decay to zero; or `constant`.
    steps: optimizer steps. batch_size: rows a step, over all workers together.
    learning_rate: at its highest. weight_decay: decoupled with adamw.
    warmup_fraction: of the steps, in which the learning rate rises to its highest.
    """

    algorithm: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["cosine", "constant"] = "cosine"
    steps: PositiveInt = 400
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    warmup_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1


class RatioNetworkConfig(ModelConfig):
    """As ModelConfig, but for its default of dropout: a ratio's network sees few target images."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5


class RatioOptimizerConfig(OptimizerConfig):
    """As OptimizerConfig, with defaults for a ratio; half of each batch are target images."""

    batch_size: PositiveInt = 128
    learning_rate: PositiveFloat = 2e-3
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05


class ClassifierRatioConfig(_Config):
    """The density ratio from a classifier that tells target images from proposals.

    network, optimizer: its network, and how that is fitted.
    freeze_backbone: train only the head (a linear ratio on frozen pretrained features).
    ensemble: networks fitted from different seeds, whose logits are averaged; cost grows with it, chance errors fall.
    num_proposals: proposals drawn for it; the splits are taken from these and from the target images alike.
    calibration: of the logit on its own split: `none`, `temperature` (a factor), `platt` (a factor and a shift) or
        `isotonic` (any rising function, clipped where the split has no more rows to tell; needs some hundred).
    max_log_ratio: cut log ratios off there, which certifies it as the bound that envelopes and products can use.
    calibration_fraction, test_fraction: held out from fitting, for calibration and for the reported figures.
    num_workers: 0 fits in one Ray task; more, data parallel through Ray Train.
    cpus, gpus: resources of that task, or of each worker.
    wait_seconds: for a cluster that scales by itself to bring up what this stage needs; 0 refuses at once.
    """

    kind: Literal["classifier"] = "classifier"
    network: RatioNetworkConfig = RatioNetworkConfig()
    freeze_backbone: bool = False
    ensemble: PositiveInt = 1
    optimizer: RatioOptimizerConfig = RatioOptimizerConfig()
    num_proposals: Annotated[int, Field(ge=50)] = 8000
    calibration: Literal["none", "temperature", "platt", "isotonic"] = "platt"
    max_log_ratio: Annotated[float, Field(allow_inf_nan=False)] | None = None
    calibration_fraction: Fraction = 0.2
    test_fraction: Fraction = 0.2
    num_workers: Count = 0
    cpus: PositiveFloat = 1
    gpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    wait_seconds: Seconds = 0.0

    @model_validator(mode="after")
    def _splits_and_shares(self) -> ClassifierRatioConfig:
        if self.calibration_fraction + self.test_fraction >= 0.9:
            raise ValueError("calibration_fraction + test_fraction must stay below 0.9")
        if self.num_workers and self.optimizer.batch_size % self.num_workers:
            raise ValueError(f"optimizer.batch_size must be a multiple of num_workers={self.num_workers}")
        return self


class FixedEnvelopeConfig(_Config):
    """M as given: rows whose log ratio exceeds log_m are capped, counted and reported."""

    kind: Literal["fixed"]
    log_m: Annotated[float, Field(allow_inf_nan=False)]


class PilotEnvelopeConfig(_Config):
    """log M = the largest log ratio of num_pilot proposals + margin."""

    kind: Literal["pilot"]
    num_pilot: PositiveInt = 10_000
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class BudgetEnvelopeConfig(_Config):
    """log M such that a fraction `acceptance` of the proposals is kept, judged on num_pilot of them."""

    kind: Literal["budget"]
    acceptance: Fraction
    num_pilot: PositiveInt = 20_000

    @model_validator(mode="after")
    def _enough_pilot_rows(self) -> BudgetEnvelopeConfig:
        if self.acceptance * self.num_pilot < 20:
            raise ValueError(f"num_pilot must be at least {math.ceil(20 / self.acceptance)}: 20 accepted pilot rows")
        return self


EnvelopeConfig = Annotated[
    FixedEnvelopeConfig | PilotEnvelopeConfig | BudgetEnvelopeConfig, Field(discriminator="kind")
]


class PoolConfig(_Config):
    """The pool of Ray actors that draw and score proposals.

    min_actors, max_actors: the pool's size; it grows while there is work. None: as many as the nodes that are up have
        CPUs for; name it on a cluster that scales by itself.
    cpus_per_actor, gpus_per_actor: reserved for each; fractions are allowed.
    wait_seconds: for a cluster that scales by itself to bring up what this stage needs; 0 refuses at once.
    """

    min_actors: PositiveInt = 1
    max_actors: PositiveInt | None = None
    cpus_per_actor: PositiveFloat = 1
    gpus_per_actor: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    wait_seconds: Seconds = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> PoolConfig:
        if self.max_actors is not None and self.max_actors < self.min_actors:
            raise ValueError(f"max_actors={self.max_actors} must not be below min_actors={self.min_actors}")
        return self


class Budget(_Config):
    """When to stop without the rows that were asked for.

    max_proposals: None: 1,000 a wanted row, at least 100,000.
    max_seconds: of sampling; looked at whenever a chunk arrives. None: no limit.
    on_shortfall: `error` refuses (exit code 3), `partial` goes on with the rows there are; none at all is refused.
    """

    max_proposals: PositiveInt | None = None
    max_seconds: PositiveFloat | None = None
    on_shortfall: Literal["error", "partial"] = "error"

    def proposals_for(self, num_accepted: int) -> int:
        """The limit in force when num_accepted rows are wanted."""
        return self.max_proposals or max(100_000, 1_000 * num_accepted)


class SamplingConfig(_Config):
    """How many rows, and how.

    num_accepted: rows to keep.
    chunk_size: proposals drawn and scored at once, the unit of work and of randomness.
    pool: the actors. budget: when to stop short.
    """

    num_accepted: PositiveInt
    chunk_size: PositiveInt = 4096
    pool: PoolConfig = PoolConfig()
    budget: Budget = Budget()


class TrainingConfig(OptimizerConfig):
    """Fine-tuning, data parallel.

    num_workers: DDP workers; batch_size is shared among them.
    cpus_per_worker: fractions are allowed; Ray Data needs what the workers leave, at least one CPU.
    use_gpu: one GPU a worker, with NCCL; otherwise gloo.
    use_row_weights: multiply each row's loss by its `weight`, max(1, p/(Mq)), which takes the bias of capping out.
    validation_fraction: of the rows, held out to score checkpoints.
    evaluate_every: steps between evaluations (and checkpoints).
    keep: `last` (the schedule has decayed; the default) or `best` by the validation metric becomes the model.
    max_failures: times that workers which died are started again from their last checkpoint.
    wait_seconds: for a cluster that scales by itself to bring up what this stage needs; 0 refuses at once.
    """

    num_workers: PositiveInt = 1
    cpus_per_worker: PositiveFloat = 1
    use_gpu: bool = False
    use_row_weights: bool = False
    validation_fraction: Fraction = 0.1
    evaluate_every: PositiveInt = 200
    keep: Literal["last", "best"] = "last"
    max_failures: Count = 0
    wait_seconds: Seconds = 0.0

    @model_validator(mode="after")
    def _even_shares(self) -> TrainingConfig:
        if self.batch_size % self.num_workers:
            raise ValueError(f"batch_size={self.batch_size} must be a multiple of num_workers={self.num_workers}")
        return self


class EvaluationConfig(_Config):
    """What the fine-tuned model is compared with, and on what.

    test: labelled images of the target place, used for nothing but the report.
    source_test: labelled images of the source, held out: what fine-tuning costs there.
    arms: `random` fine-tunes on proposals accepted at random, `oracle` on the labelled images of `oracle`.
    """

    test: ImagesConfig | None = None
    source_test: ImagesConfig | None = None
    oracle: ImagesConfig | None = None
    arms: tuple[Literal["pretrained", "random", "one_shot", "oracle"], ...] = ("pretrained", "random", "one_shot")

    @model_validator(mode="after")
    def _arms_have_data(self) -> EvaluationConfig:
        if ("oracle" in self.arms) != (self.oracle is not None):
            raise ValueError("arm `oracle` and the images of `oracle` go together")
        if "one_shot" not in self.arms:
            raise ValueError("arms must hold one_shot, the run itself")
        return self


class RunConfig(_Config):
    """One run: sample, fine-tune, compare.

    output: the run's directory, a local path or a URI that pyarrow.fs takes; on several nodes all must see it.
    seed: every random draw follows from it. num_seeds: repeat with seed, seed + 1, … and report all.
    source: labelled images, clean. target: images of the place where the model must work; labels are not looked at.
    proposal: q. ratio: log p/q, learned. envelope: how M is chosen. sampling: how many rows, by which actors.
    model: what is fine-tuned. training: how. evaluation: what it is compared with.
    pretrain: train `model` on the clean source images first, for want of pretrained weights.
    """

    output: str
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    num_seeds: PositiveInt = 1
    source: ImagesConfig
    target: ImagesConfig
    proposal: AugmentConfig = AugmentConfig()
    ratio: ClassifierRatioConfig = ClassifierRatioConfig()
    envelope: EnvelopeConfig = BudgetEnvelopeConfig(kind="budget", acceptance=0.01)
    sampling: SamplingConfig
    model: ModelConfig = ModelConfig()
    pretrain: OptimizerConfig | None = None
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The YAML at `path`, with `key.sub=value` overrides (values are read as YAML), checked.

    Relative paths in the file are relative to where the command runs. Raises InputError.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as err:
        raise InputError("config", path, "no such file", "correct the path") from err
    except (OSError, UnicodeDecodeError) as err:
        raise InputError("config", path, f"cannot be read ({err})", "name a YAML file") from err
    return parse_text(text, overrides, str(path))


def parse_text(text: str, overrides: Sequence[str] = (), path: str = "config.yaml") -> RunConfig:
    """As `load_config`, of a file's text; `path` names it in errors."""
    try:
        raw = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as err:  # ValueError: a date that is none
        raise InputError("config", path, f"is not YAML ({_one_line(err)})", "correct the syntax there") from err
    if not isinstance(raw, dict):
        raise InputError("config", path, "must hold keys and values", "see the examples")
    for override in overrides:
        _apply(raw, override)
    return parse_config(raw)


def parse_config(raw: dict[str, Any]) -> RunConfig:
    """Check a configuration given as nested dicts. Raises InputError for the first thing that is wrong."""
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as err:
        raise _first_complaint(err) from None


def dump_config(config: RunConfig) -> str:
    """The resolved configuration, every default spelt out, as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError("override", override, "must be key=value", "write e.g. training.steps=100")
    *parents, leaf = key.split(".")
    node = raw
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise InputError("override", override, f"{parent} is a value, not a section", "correct the key")
    try:
        node[leaf] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as err:
        raise InputError("override", override, "its value is not YAML", "quote it") from err


def _first_complaint(error: ValidationError) -> InputError:
    # A misspelt key that is required is both unknown and missing; the spelling is what to mend.
    found = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    location = [str(part) for part in found["loc"]]
    if location[:1] == ["envelope"]:
        del location[1:2]  # pydantic puts the union's chosen kind there; it is no key of the file
    field = ".".join(location) or "config"
    if found["type"] == "extra_forbidden":
        known = _keys_at(location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        return InputError(field, found["input"], "unknown key", remedy)
    if found["type"] == "missing":
        return InputError(field, "(absent)", "is required", "add it")
    rule = _one_line(found["msg"].removeprefix("Value error, "))
    value = found["input"] if not isinstance(found["input"], dict) else "{…}"
    return InputError(field, value, rule[0].lower() + rule[1:], "correct it")


def _keys_at(location: Sequence[str]) -> list[str]:
    models: list[type[BaseModel]] = [RunConfig]
    for part in location:
        models = [
            inner
            for model in models
            if part in model.model_fields
            for inner in _models_in(model.model_fields[part].annotation)
        ] or models
    return sorted({name for model in models for name in model.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
