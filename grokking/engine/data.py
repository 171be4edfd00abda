"""The examples of a setting on a device: which of them a run sees at which step, with which labels, and in evaluations."""

import numpy as np
import torch
from torch import Tensor

from grokking.engine.batches import Batches
from grokking.engine.cohort import Cohort
from grokking.hashing import mix
from grokking.setting import Setting
from grokking.tasks import split

LABEL_NOISE = 1 << 40  # apart from all seeds: what label noise draws has nothing to do with what a step draws
TRAIN_ROWS = 1024  # training accuracy is taken on at most so many fixed training examples


class Data:
    """The table of one setting's task, and every run's own part and order of it, which follow from its seed."""

    def __init__(self, setting: Setting, device: torch.device) -> None:
        table = setting.table()
        self.device, self.classes = device, table.classes
        self.tokens = torch.from_numpy(table.tokens).to(device)  # [example, position]
        self.labels = torch.from_numpy(table.labels).to(device)  # [example]
        self.train_fraction, self.label_noise = setting.number("train_fraction"), setting.number("label_noise")
        self.batch_size = setting.integer("batch_size")
        self._splits: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._batches: dict[int, Batches] = {}

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Training and validation rows of a run with this seed."""
        if seed not in self._splits:
            self._splits[seed] = split(len(self.tokens), self.train_fraction, seed)
        return self._splits[seed]

    def batch(self, cohort: Cohort) -> Tensor:
        """Table rows [run, batch] of the next batch of each run."""
        return self.batches(cohort, 1)[0]

    def batches(self, cohort: Cohort, steps: int) -> Tensor:
        """Table rows [step, run, batch] of the next batches of each run."""
        rows = []
        for spec in cohort.specs:
            training, _ = self.split(spec.seed)
            if spec.seed not in self._batches:
                self._batches[spec.seed] = Batches(spec.seed, len(training), self.batch_size)
            rows.append(training[self._batches[spec.seed].between(cohort.step, cohort.step + steps)])
        drawn = torch.from_numpy(np.stack(rows, axis=1))
        if self.device.type == "cuda":
            drawn = drawn.pin_memory()  # else the copy would wait for the steps before it
        return drawn.to(self.device, non_blocking=True)

    def training_labels(self, seeds: Tensor, rows: Tensor) -> Tensor:
        """The labels [run, example] that runs are trained on; with label noise, some are drawn anew, each run's own ones."""
        labels = self.labels[rows]
        if not self.label_noise:
            return labels
        drawn = mix(mix(seeds + LABEL_NOISE)[:, None] + rows)
        return torch.where(drawn.double() / 2**32 < self.label_noise, mix(drawn) % self.classes, labels)

    def evaluated(self, cohort: Cohort) -> tuple[Tensor, Tensor, int]:
        """Rows and labels [run, example] of an evaluation: so many of training first (as trained on), then all of validation."""
        splits = [self.split(spec.seed) for spec in cohort.specs]
        seen = min(TRAIN_ROWS, len(splits[0][0]))
        examples = np.stack([np.concatenate([training[:seen], validation]) for training, validation in splits])
        rows = torch.from_numpy(examples).to(self.device)
        learned = self.training_labels(cohort.seeds, rows[:, :seen])
        return rows, torch.cat([learned, self.labels[rows[:, seen:]]], dim=1), seen
