"""How much arithmetic a step is."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from grokking.engine.cohort import start
from grokking.engine.trainer import Trainer
from grokking.runs import RunSpec


def operations(spec: RunSpec) -> float:
    """Floating-point operations in the matrix products of one step of this run, as the engine takes it, shortcuts and all.

    What is done entry by entry is not counted: of AdamW's update nothing, of Muon's its Newton–Schulz iterations.
    """
    cpu = torch.device("cpu")
    trainer, cohort = Trainer(spec.setting, cpu), start([spec, spec], cpu)
    with FlopCounterMode(display=False) as counter:
        trainer.advance(cohort)
    return counter.get_total_flops() / 2
