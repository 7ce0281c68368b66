"""Proposals that a user may write, most of them wrong."""

import sys
import time

import torch


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


def nothing(source):
    return None
