"""Envelopes, tasks and networks that a user may write, most of them wrong."""

import sys
import time

import torch
from torch import nn

from rsf_dist.sampling.envelope import Choice
from rsf_dist.tasks import ClassificationTask


class Envelope:
    num_pilot = 100

    def choose(self, pilot):
        return Choice(1.0, "mine")


class NoPilot(Envelope):
    num_pilot = 0


class PilotIsAWord(Envelope):
    num_pilot = "many"


class ChoosesANumber(Envelope):
    def choose(self, pilot):
        return 1.0


class ChoosesNothing(Envelope):
    def choose(self, pilot):
        pass


class ChoosesNan(Envelope):
    def choose(self, pilot):
        return Choice(float("nan"), "mine")


class ChoosesInfinity(Envelope):
    def choose(self, pilot):
        return Choice(float("inf"), "mine")


class ChoosesAWord(Envelope):
    def choose(self, pilot):
        return Choice("1", "mine")


class ShrinksItsMargin(Envelope):
    def choose(self, pilot):
        return Choice(1.0, "mine", margin=-1.0)


class EnvelopeFails(Envelope):
    def choose(self, pilot):
        raise ZeroDivisionError("division by zero")


class EnvelopeExits(Envelope):
    def choose(self, pilot):
        sys.exit(0)


class EnvelopeHangs(Envelope):
    def choose(self, pilot):
        time.sleep(3600)


class Task(ClassificationTask):
    pass


class ModelIsNone(Task):
    def build_model(self, seed):
        return None


class LogitsOfAnotherNumber(Task):
    def build_model(self, seed):
        return nn.Sequential(_ToFloat(), nn.Flatten(), nn.Linear(64, 7))


class ModelFails(Task):
    def build_model(self, seed):
        return nn.Sequential(_ToFloat(), nn.Linear(3, 2))


class OtherColumns(Task):
    columns = ("image", "mask")


class Turned(Task):
    columns = ("image", "label", "rotation")


class LossIsAMean(Task):
    def loss(self, model, batch):
        return super().loss(model, batch).mean()


class LossIsANumber(Task):
    def loss(self, model, batch):
        return 1.0


class LossIsDetached(Task):
    def loss(self, model, batch):
        return super().loss(model, batch).detach()


class LossFails(Task):
    def loss(self, model, batch):
        return batch["mask"]


class MetricsAreADict(Task):
    def metrics(self):
        return {}


class MetricIsUnknown(Task):
    metric = "mean_iou"


class UpdateFails(Task):
    def update(self, metrics, model, batch):
        raise TypeError("no such metric")


class SavesNothing(Task):
    def save(self, model, folder):
        pass


class LoadsNothing(Task):
    def load(self, folder):
        return None


class TaskHangs(Task):
    def loss(self, model, batch):
        time.sleep(3600)


class _ToFloat(nn.Module):
    def forward(self, images):
        return images.float()


def network(num_outputs, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_outputs))


def network_of_another_head(num_outputs, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_outputs + 1))


def network_for_other_images(num_outputs, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(65, num_outputs))


def network_of_nan(num_outputs, channels):
    made = network(num_outputs, channels)
    made[1].weight.data.fill_(torch.nan)
    return made


def no_network(num_outputs, channels):
    return None


def network_that_hangs(num_outputs, channels):
    time.sleep(3600)
