"""Ratios that a user may write, most of them wrong."""

import contextlib
import sys
import time

import numpy as np
import torch


def bright(batch):
    return batch["image"].float().mean(dim=(1, 2, 3)) / 255


def is_bright(batch):
    return bright(batch) > 0.5


def nan(batch):
    return bright(batch) * float("nan")


def nan_for_one(batch):
    score = bright(batch)
    score[-1] = float("nan")
    return score


def infinite(batch):
    return bright(batch) + float("inf")


def one_too_few(batch):
    return bright(batch)[1:]


def one_for_all(batch):
    return bright(batch).mean()


def a_column(batch):
    return bright(batch)[:, None]


def nothing(batch):
    return None


def words(batch):
    return ["bright"] * len(batch["image"])


def ragged(batch):
    return [[1.0], [1.0, 2.0]]


def above_its_bound(batch):
    return bright(batch) + 10


def numbers(batch):
    return bright(batch)


def takes_nothing():
    return 0.0


def wants_another_column(batch):
    return batch["depth"]


def fails(batch):
    raise RuntimeError("no such\nserver")


def fails_silently(batch):
    raise ValueError


def exits(batch):
    sys.exit(0)


def sleeps(batch):
    time.sleep(3600)


def runs_for_ever(batch):
    while True:
        pass


def runs_whatever_happens(batch):
    while True:
        with contextlib.suppress(Exception):
            time.sleep(0.01)


class _Mine:
    """A ratio; those below each break its contract in one place."""

    log_bound = None

    def __init__(self, target, proposal, seed):
        pass

    def log_ratio(self, batch):
        return bright(batch)


class Sound(_Mine):
    pass


class GivesNan(_Mine):
    def log_ratio(self, batch):
        return nan(batch)


class GivesAnArray(_Mine):
    def log_ratio(self, batch):
        return np.zeros(len(batch["image"]))


class GivesNothing(_Mine):
    def log_ratio(self, batch):
        pass


class GivesOneTooFew(_Mine):
    def log_ratio(self, batch):
        return bright(batch)[1:]


class GivesComplexNumbers(_Mine):
    def log_ratio(self, batch):
        return bright(batch).to(torch.complex64)


class Fails(_Mine):
    def log_ratio(self, batch):
        raise KeyError("depth")


class Exits(_Mine):
    def log_ratio(self, batch):
        sys.exit(3)


class Hangs(_Mine):
    def log_ratio(self, batch):
        time.sleep(3600)


class HangsWhenMade(_Mine):
    def __init__(self, target, proposal, seed):
        time.sleep(3600)


class FailsWhenMade(_Mine):
    def __init__(self, target, proposal, seed):
        raise OSError("no weights here")


class ExitsWhenMade(_Mine):
    def __init__(self, target, proposal, seed):
        sys.exit(0)


class TakesOtherArguments:
    log_bound = None

    def __init__(self, images):
        pass

    def log_ratio(self, batch):
        return bright(batch)


class HasNoBound:
    def __init__(self, target, proposal, seed):
        pass

    def log_ratio(self, batch):
        return bright(batch)


class BoundIsNan(_Mine):
    log_bound = float("nan")


class BoundIsInfinite(_Mine):
    log_bound = float("inf")


class BoundIsAWord(_Mine):
    log_bound = "1"


class BoundFails(_Mine):
    @property
    def log_bound(self):
        raise RuntimeError("not known yet")


NOT_CALLABLE = 3
