"""Ratios that fail after a few chunks, when every check of them has passed."""

import sys
import time

CALLS_BEFORE = 6  # in one process; preflight check, probe and pilot have fewer
SEEN_SECONDS = 0.3  # whoever looks for the process finds it before it goes wrong
calls = 0


def _score(batch):
    """The score, and whether it is late."""
    global calls
    calls += 1
    if calls > CALLS_BEFORE:
        time.sleep(SEEN_SECONDS)
    return batch["image"].float().mean(dim=(1, 2, 3)) / 255, calls > CALLS_BEFORE


def nan(batch):
    score, late = _score(batch)
    return score * float("nan") if late else score


def one_too_few(batch):
    score, late = _score(batch)
    return score[1:] if late else score


def fails(batch):
    score, late = _score(batch)
    if late:
        raise RuntimeError("the server is gone")
    return score


def exits(batch):
    score, late = _score(batch)
    if late:
        sys.exit(0)
    return score


def hangs(batch):
    score, late = _score(batch)
    if late:
        time.sleep(3600)
    return score
