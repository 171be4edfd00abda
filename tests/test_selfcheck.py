"""`grokking selfcheck`: it passes here, and it says so when a promise is broken."""

import pytest
import torch

from grokking import selfcheck as module
from grokking.cli import command_line
from grokking.engine.trainer import Trainer
from grokking.execute.unit import Terms
from grokking.selfcheck import Bench, alone, golden, killed, promises, selfcheck, stopped

pytestmark = pytest.mark.parses


def test_every_promise_holds_on_this_machine(capsys):
    assert command_line(["selfcheck", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == promises(Terms(None)) == 8
    assert all(line.startswith("pass  ") for line in lines)


def broken(tmp_path, ways, monkeypatch):
    monkeypatch.setattr(module, "WAYS", {way.__name__: way for way in ways})
    return {promise.text: promise for promise in selfcheck(Terms(tmp_path))}


def test_a_step_that_depends_on_the_cohort_is_seen(tmp_path, monkeypatch):
    update = Trainer.update

    def mixing(self, moving, gradients, *given):
        mean = {name: g + 1e-6 * g.mean(0) for name, g in gradients.items()}
        return update(self, moving, mean, *given)

    monkeypatch.setattr(Trainer, "update", mixing)
    found = broken(tmp_path, (alone, stopped), monkeypatch)
    assert not found["alone"].held
    assert "instead of" in found["alone"].seen
    assert found["stopped"].held


def test_a_checkpoint_that_forgets_something_is_seen(tmp_path, monkeypatch):
    from grokking.engine import checkpoint

    restored = checkpoint._restored

    def forgetful(*given):
        unit = restored(*given)
        for slots in unit.cohort.state.values():
            for slot in slots.values():
                slot.zero_()
        return unit

    monkeypatch.setattr(checkpoint, "_restored", forgetful)
    found = broken(tmp_path, (alone, stopped, killed), monkeypatch)
    assert [name for name, promise in found.items() if not promise.held] == ["stopped", "killed"]


def test_what_cannot_be_trained_keeps_no_promise(tmp_path, monkeypatch):
    def failing(self, *given):
        raise ZeroDivisionError("a broken step")

    monkeypatch.setattr(Trainer, "step", failing)
    golden_one, *others = selfcheck(Terms(tmp_path))
    assert golden_one.held
    assert [(promise.held, "a broken step" in promise.seen) for promise in others] == [(False, True)]


def test_a_kill_that_came_too_late_is_not_taken_for_one_that_was_survived(tmp_path, monkeypatch):
    popen = module.subprocess.Popen

    def waiting(*given, **options):
        process = popen(*given, **options)
        process.wait()
        return process

    monkeypatch.setattr(module.subprocess, "Popen", waiting)
    found = broken(tmp_path, (killed,), monkeypatch)
    assert not found["killed"].held
    assert "continued" in found["killed"].seen


def test_a_draw_from_a_global_generator_is_seen(tmp_path, monkeypatch):
    before = torch.get_rng_state()
    found = broken(tmp_path, (drawing,), monkeypatch)
    torch.set_rng_state(before)
    assert [promise.held for promise in found.values()] == [True, True, False]


def drawing(bench: Bench) -> str:
    torch.rand(1)
    return bench.expected


def test_the_golden_hash_depends_on_the_streams(monkeypatch):
    before = golden()
    assert before == module.GOLDEN
    split = module.split
    monkeypatch.setattr(module, "split", lambda *given: tuple(part[::-1] for part in split(*given)))
    assert golden() != before
