"""Proposals that a user may write, most of them wrong."""

import sys
import time

import torch
from torch import nn


class Sound:
    def __init__(self, source):
        self.source = source

    def rows(self, n, rng):
        index = torch.randint(len(self.source), (n,), generator=rng.torch())
        return {"image": self.source.images[index], "label": self.source.labels[index]}

    def sample(self, n, rng):
        return self.rows(n, rng)


class OneTooFew(Sound):
    def sample(self, n, rng):
        return self.rows(n - 1, rng)


class None_(Sound):
    def sample(self, n, rng):
        return self.rows(0, rng)


class Ragged(Sound):
    def sample(self, n, rng):
        return self.rows(n, rng) | {"depth": torch.zeros(n + 1)}


class NoColumns(Sound):
    def sample(self, n, rng):
        return {}


class Nothing(Sound):
    def sample(self, n, rng):
        return None


class AList(Sound):
    def sample(self, n, rng):
        return [self.rows(n, rng)]


class Arrays(Sound):
    def sample(self, n, rng):
        return {name: column.numpy() for name, column in self.rows(n, rng).items()}


class AScalarColumn(Sound):
    def sample(self, n, rng):
        return self.rows(n, rng) | {"depth": torch.tensor(3.0)}


class NoImage(Sound):
    def sample(self, n, rng):
        return {"label": self.rows(n, rng)["label"]}


class NoLabel(Sound):
    def sample(self, n, rng):
        return {"image": self.rows(n, rng)["image"]}


class FloatImages(Sound):
    def sample(self, n, rng):
        rows = self.rows(n, rng)
        return rows | {"image": rows["image"] / 255}


class FlatImages(Sound):
    def sample(self, n, rng):
        rows = self.rows(n, rng)
        return rows | {"image": rows["image"].flatten(1)}


class LargerImages(Sound):
    def sample(self, n, rng):
        rows = self.rows(n, rng)
        return rows | {"image": rows["image"].repeat(1, 1, 2, 2)}


class FloatLabels(Sound):
    def sample(self, n, rng):
        rows = self.rows(n, rng)
        return rows | {"label": rows["label"].float()}


class OneHotLabels(Sound):
    def sample(self, n, rng):
        rows = self.rows(n, rng)
        return rows | {"label": torch.nn.functional.one_hot(rows["label"])}


class LabelsFromOne(Sound):
    def sample(self, n, rng):
        rows = self.rows(n, rng)
        return rows | {"label": rows["label"] + 1}


class LabelsBelowZero(Sound):
    def sample(self, n, rng):
        rows = self.rows(n, rng)
        return rows | {"label": rows["label"] - 1}


class ReservedName(Sound):
    def sample(self, n, rng):
        return self.rows(n, rng) | {"weight": torch.ones(n)}


class ComplexColumn(Sound):
    def sample(self, n, rng):
        return self.rows(n, rng) | {"phase": torch.ones(n, dtype=torch.complex64)}


class BrainFloatColumn(Sound):
    def sample(self, n, rng):
        return self.rows(n, rng) | {"depth": torch.ones(n, dtype=torch.bfloat16)}


class OwnRandomness(Sound):
    def sample(self, n, rng):
        index = torch.randint(len(self.source), (n,))
        return {"image": self.source.images[index], "label": self.source.labels[index]}


class Fails(Sound):
    def sample(self, n, rng):
        raise RuntimeError("the simulator is down")


class Exits(Sound):
    def sample(self, n, rng):
        sys.exit(0)


class Hangs(Sound):
    def sample(self, n, rng):
        time.sleep(3600)


class HangsWhenMade(Sound):
    def __init__(self, source):
        while True:
            time.sleep(0.01)


class ExitsWhenMade(Sound):
    def __init__(self, source):
        sys.exit(0)


class TakesOtherArguments:
    def __init__(self, path):
        pass

    def sample(self, n, rng):
        pass


class TakesNoStreams(Sound):
    def sample(self, n):
        return {}


class Moves(Sound):
    """One that rounds may move, though it stays where it is."""

    def log_prob(self, batch):
        return torch.zeros(len(batch["label"]))

    def refit(self, rows, seed, max_components):
        return self


class MovesWithoutDensity(Sound):
    refit = Moves.refit


class MovesToNothing(Moves):
    def refit(self, rows, seed, max_components):
        return None


class MovesToOtherColumns(Moves):
    def refit(self, rows, seed, max_components):
        return NoLabel(self.source)


class MovesToOwnRandomness(Moves):
    def refit(self, rows, seed, max_components):
        return OwnRandomness(self.source)


class MovesWithOtherArguments(Moves):
    def refit(self, rows):
        return self


class FailsToMove(Moves):
    def refit(self, rows, seed, max_components):
        raise RuntimeError("no such place")


class HangsWhenMoved(Moves):
    def refit(self, rows, seed, max_components):
        time.sleep(3600)


def nothing(source):
    return None


class Generator(nn.Module):
    """Whatever a function makes of latents and classes."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, z, y):
        return self.function(z, y)


def sound_generator(source):
    return Generator(lambda z, y: torch.sigmoid(z[:, :1, None, None] + y[:, None, None, None]).expand(-1, 1, 8, 8))


def generator_of_nan(source):
    return Generator(lambda z, y: torch.full((len(z), 1, 8, 8), torch.nan))


def generator_of_one_too_few(source):
    return Generator(lambda z, y: torch.rand(len(z) - 1, 1, 8, 8))


def generator_of_lists(source):
    return Generator(lambda z, y: z.tolist())


def generator_of_flat_images(source):
    return Generator(lambda z, y: torch.rand(len(z), 64))


def generator_of_larger_images(source):
    return Generator(lambda z, y: torch.rand(len(z), 1, 9, 9))


def generator_of_whole_numbers(source):
    return Generator(lambda z, y: torch.ones(len(z), 1, 8, 8, dtype=torch.int64))


def generator_without_classes(source):
    return nn.Linear(3, 64)


def generator_of_other_latents(source):
    layer = nn.Linear(5, 64)
    return Generator(lambda z, y: layer(z).reshape(-1, 1, 8, 8))


def generator_that_hangs(source):
    return Generator(lambda z, y: time.sleep(3600))
