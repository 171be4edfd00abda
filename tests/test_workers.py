"""What becomes of a cohort whose worker dies, or for which there is too little memory; and of a store that is full."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import weakref
from collections import deque
from dataclasses import replace

import pytest
import torch
from tiny import runs

from grokking.commands import training
from grokking.commands.arguments import Where
from grokking.engine.trainer import Trainer
from grokking.errors import Interrupted, Unwritable
from grokking.execute import jobs as jobs_of
from grokking.execute import unit
from grokking.execute.jobs import Job, Jobs, train_all
from grokking.execute.local import Local, execute
from grokking.execute.progress import Progress
from grokking.execute.signals import Stop
from grokking.execute.unit import Outcome, Terms
from grokking.execute.workers import Worker
from grokking.extensions import import_extension
from grokking.optim import optimizers
from grokking.store import load, prepare, stored, unit_name
from grokking.study import total_steps


def failure_file(folder, specs):
    return folder / "failures" / f"{unit_name([spec.run_id for spec in specs])}.txt"


def tables(folder, specs):
    """All that is stored of these runs, to the last bit."""
    found = load(folder, [spec.run_id for spec in specs])
    assert found.missing == 0
    return found.runs.to_csv(), found.curves.to_csv()


def facts(folder, specs):
    return json.loads((stored(folder)[specs[0].run_id] / "unit.json").read_text())


@pytest.fixture(scope="module")
def four():
    return runs(4)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, four):
    folder = tmp_path_factory.mktemp("undisturbed")
    prepare(folder)
    assert execute([four], Terms(folder), 1, ()) == []
    return tables(folder, four)


# --- a worker that dies -------------------------------------------------------------------------------------------

RULES = '''
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from grokking.optim import optimizer, zeros

HERE = Path(__file__).parent
WORKER = multiprocessing.parent_process() is not None  # the test's own process trains with these rules, too


@optimizer(lr=0.1, state=zeros())
def workers_test_killed_once(w, grad, state, h, role):
    """Gradient descent that is killed once, at step 10, when its unit has a checkpoint."""
    marker = HERE / "killed"
    if WORKER and h.step == 10 and not marker.exists() and list(HERE.glob("results/checkpoints/*/0*")):
        marker.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return w - h.lr * grad, state


@optimizer(lr=0.1, state=zeros())
def workers_test_segfault(w, grad, state, h, role):
    """Gradient descent that reads where nothing is."""
    if WORKER:
        with (HERE / "crashes").open("a") as file:
            print(w.shape, file=file)
        ctypes.string_at(0)
    return w - h.lr * grad, state
'''


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "rules.py"
    path.write_text(RULES)
    before = set(optimizers)
    import_extension(str(path))
    yield str(path)
    for name in set(optimizers) - before:
        optimizers._entries.pop(name)


def test_a_worker_that_dies_is_replaced_and_what_always_crashes_it_is_listed(
    tmp_path, rules, four, undisturbed, monkeypatch, capfd
):
    monkeypatch.setattr(jobs_of, "TRIES", 3)  # four processes that crash are enough
    killed, crashing = (
        runs(2, optimizer__name="workers_test_killed_once"),
        runs(2, optimizer__name="workers_test_segfault"),
    )
    folder, alone = tmp_path / "results", tmp_path / "alone"
    prepare(folder), prepare(alone)
    assert execute([killed], Terms(alone), 1, ()) == []
    terms = Terms(folder, checkpoint_every=1e-6)
    failures = execute([killed, crashing, four], terms, 2, [rules])

    assert (tmp_path / "killed").exists()
    assert tables(folder, killed) == tables(alone, killed)
    assert 0 < facts(folder, killed)["resumed_at_step"] < 10
    assert tables(folder, four) == undisturbed
    assert set(stored(folder)) == {spec.run_id for spec in (*killed, *four)}

    assert failures == [failure_file(folder, crashing)]
    told = failures[0].read_text()
    assert all(spec.run_id in told for spec in crashing)
    assert "its worker died 3 times" in told
    assert "SIGSEGV" in told
    assert "in workers_test_segfault" in told  # where, as faulthandler says
    assert "Traceback" in told or "most recent call first" in told
    assert len((tmp_path / "crashes").read_text().splitlines()) == 3
    assert sorted(path.name for path in (folder / "failures").iterdir()) == sorted(path.name for path in failures)
    assert list((folder / "checkpoints").iterdir()) == []
    assert "6/8 runs done" in capfd.readouterr().err
    assert multiprocessing.active_children() == []


def attempts(folder, specs, outcome):
    """The widths of what is tried, if each attempt ends like this, and the failures."""
    with Progress(specs) as progress:
        jobs, widths = Jobs(Terms(folder), deque([Job(list(specs))]), progress), []
        while jobs.waiting:
            job = jobs.waiting.popleft()
            jobs.hear(job, (4, [(0, "censored")], True))
            widths.append(len(job.specs))
            jobs.settle(job, outcome(job))
        assert (progress.bar.n, progress.ended) == (0, 0)
        return widths, jobs.failures


def test_where_steps_are_compiled_a_worker_stays_with_the_settings_that_it_has_compiled(tmp_path):
    adam, sgd = (runs(3, optimizer__name=name) for name in ("adam", "sgd"))
    line = [Job([spec]) for spec in (*adam, *sgd)]
    with Progress([*adam, *sgd]) as progress:
        jobs = Jobs(Terms(tmp_path, compile=True), deque(line), progress)
        own = [set(), set()]
        given = []
        for worker in (0, 1, 0, 1, 0, 1):
            job = jobs.next(own[worker], own[1 - worker])
            own[worker].add(job.specs[0].setting)
            given.append(line.index(job))
        assert given == [0, 3, 1, 4, 2, 5]
        jobs.waiting.extend(line[:2])
        assert jobs.next(own[1], own[0]) is line[0]  # nothing of its own is left: it helps
        eager = Jobs(Terms(tmp_path), deque(line), progress)
        assert [eager.next(own[1], own[0]) for _ in line] == line


def test_what_kills_its_worker_twice_is_halved_and_given_up_in_the_end(tmp_path, four):
    prepare(tmp_path)
    widths, failures = attempts(tmp_path, four, lambda job: Outcome("died", "by SIGKILL"))
    assert widths == [4, 4, 2, 1, 1, 2, 1, 1]
    assert failures == [failure_file(tmp_path, [spec]) for spec in four]
    assert "its worker died 4 times, at last:\nby SIGKILL" in failures[0].read_text()


def test_what_crashes_by_itself_is_not_halved(tmp_path, four):
    prepare(tmp_path)
    widths, failures = attempts(tmp_path, four, lambda job: Outcome("died", "by SIGSEGV"))
    assert widths == [4, 4, 4, 4]
    assert failures == [failure_file(tmp_path, four)]


def test_a_unit_whose_worker_dies_again_and_again_keeps_its_checkpoints_as_long_as_it_comes_farther(tmp_path, four):
    prepare(tmp_path)
    place = Terms(tmp_path).checkpoints(four).place

    def farther(job):
        step = len(list(place.parent.glob("*/*"))) + 1
        if step == 9:
            return Outcome("stored")
        (place / f"{step:09d}").mkdir(parents=True)
        return Outcome("died", "by SIGKILL")

    with Progress(four) as progress:
        jobs, job = Jobs(Terms(tmp_path), deque(), progress), Job(list(four))
        for _ in range(8):
            jobs.settle(job, farther(job))
            assert jobs.waiting.popleft() is job
            assert job.deaths == 1
    assert len(list(place.iterdir())) == 8


@pytest.mark.parametrize(("code", "said"), [(-9, "by SIGKILL (out of memory"), (-35, "by signal 35"), (3, "code 3")])
def test_every_death_has_its_words(tmp_path, code, said):
    class Dead:
        exitcode = code

        def join(self):
            pass

    worker = object.__new__(Worker)
    worker.process, worker.last_words = Dead(), tmp_path / "words"
    worker.last_words.write_text("Fatal Python error")
    outcome = worker._death()
    assert outcome.end == "died"
    assert said in outcome.text
    assert "Fatal Python error" in outcome.text


def test_a_rule_edited_after_the_sweep_began_is_not_trained_under_the_old_name(tmp_path, four):
    setting = four[0].setting
    changed = tuple((kind, "source:0123" if kind == "optimizer" else v) for kind, v in setting.versions)
    other = [replace(spec, setting=replace(setting, versions=changed)) for spec in four]
    prepare(tmp_path)
    (failure,) = execute([other], Terms(tmp_path), 1, ())
    assert "or what it reads, has changed since this sweep began; start it again" in failure.read_text()
    assert stored(tmp_path) == {}


def test_what_fails_by_itself_is_tried_once(tmp_path, four):
    prepare(tmp_path)
    widths, failures = attempts(tmp_path, four, lambda job: Outcome("failed", "ZeroDivisionError"))
    assert widths == [4]
    assert failures == [failure_file(tmp_path, four)]
    assert "died" not in failures[0].read_text()


def test_a_failure_that_cannot_be_written_is_still_listed(tmp_path, four):
    assert attempts(tmp_path / "nowhere", four, lambda job: Outcome("failed"))[1] == [
        failure_file(tmp_path / "nowhere", four)
    ]


# --- too little memory --------------------------------------------------------------------------------------------

TOO_LITTLE = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried …"),
]


@pytest.mark.parametrize(("broken", "end"), [(False, "memory"), (True, "memory"), (None, "stored")])
def test_what_a_unit_took_of_a_gpu_is_given_back_before_its_end_is_told(broken, end, tmp_path, monkeypatch):
    left = []

    def trains(*_):
        trainer = Trainer(runs(1)[0].setting, torch.device("cpu"))
        trainer._measure = trainer  # as what is recorded holds the trainer that holds it
        left.append(weakref.ref(trainer))
        yield 3, [], True
        if broken is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def empty_cache():
        left.append(left[0]() is None)
        if broken:
            raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(unit, "train_unit", trains)
    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    told = []
    for message in unit.attempt(runs(1), Terms(tmp_path, device="cuda"), Stop()):
        told.append((message, left[1:]))
    assert told[0] == ((3, [], True), [])
    assert (told[1][0].end, told[1][1]) == (end, [True])


def memory_for(width, error, monkeypatch):
    """From step 3 on, wider cohorts have too little memory; returns the widths that were begun."""
    begun, advance = [], Trainer.advance

    def limited(self, cohort, most):
        if cohort.step == 0:
            begun.append(len(cohort.specs))
        if cohort.step >= 3 and len(cohort.specs) > width:
            raise error
        advance(self, cohort, most)

    monkeypatch.setattr(Trainer, "advance", limited)
    return begun


@pytest.mark.parametrize("error", TOO_LITTLE, ids=["Python", "CUDA", "CPU"])
def test_with_too_little_memory_a_cohort_is_halved_until_it_fits(
    tmp_path, four, undisturbed, monkeypatch, error, capsys
):
    begun = memory_for(2, error, monkeypatch)
    prepare(tmp_path)
    assert execute([four], Terms(tmp_path, checkpoint_every=1e-6), 1, ()) == []
    assert begun == [4, 2, 2]
    assert tables(tmp_path, four) == undisturbed
    assert [facts(tmp_path, half)["width"] for half in (four[:2], four[2:])] == [2, 2]
    assert list((tmp_path / "failures").iterdir()) == list((tmp_path / "checkpoints").iterdir()) == []
    assert "4/4 runs done" in capsys.readouterr().err


def test_a_run_that_does_not_fit_alone_is_a_listed_failure(tmp_path, four, monkeypatch):
    begun = memory_for(0, MemoryError("no more"), monkeypatch)
    prepare(tmp_path)
    failures = execute([four[:3]], Terms(tmp_path), 1, ())
    assert begun == [3, 2, 2, 2, 2]  # a lone run trains beside a copy of itself
    assert failures == [failure_file(tmp_path, [spec]) for spec in four[:3]]
    assert all("MemoryError: no more" in path.read_text() for path in failures)
    assert stored(tmp_path) == {}


def test_another_runtime_error_is_no_lack_of_memory(tmp_path, four, monkeypatch):
    begun = memory_for(2, RuntimeError("shapes do not match"), monkeypatch)
    prepare(tmp_path)
    assert execute([four], Terms(tmp_path), 1, ()) == [failure_file(tmp_path, four)]
    assert begun == [4]


# --- a store that cannot be written -------------------------------------------------------------------------------


def test_a_store_that_cannot_be_written_ends_the_sweep(tmp_path, four, monkeypatch):
    def full(*_):
        raise Unwritable("cannot write 'units': No space left on device")

    begun = memory_for(4, None, monkeypatch)
    monkeypatch.setattr(unit, "write_unit", full)
    prepare(tmp_path)
    with pytest.raises(Unwritable, match="No space left on device"):
        execute([four[:1], four[1:]], Terms(tmp_path), 1, ())
    assert begun == [2]
    assert stored(tmp_path) == {}
    monkeypatch.undo()
    assert execute([four[:1]], Terms(tmp_path), 1, ()) == []


# --- signals and progress -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_cohort_at_a_step_boundary_and_the_next_sweep_continues(
    tmp_path, four, undisturbed, monkeypatch, number, code
):
    advance = Trainer.advance

    def hit(self, cohort, most):
        advance(self, cohort, most)
        if cohort.step == 6:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Trainer, "advance", hit)
    before = signal.getsignal(number)
    prepare(tmp_path)
    with pytest.raises(Interrupted) as stopped:
        execute([four], Terms(tmp_path), 1, ())
    assert stopped.value.code == code
    assert signal.getsignal(number) is before
    assert Terms(tmp_path).checkpoints(four).step() == 6
    assert execute([four], Terms(tmp_path), 1, ()) == []
    assert facts(tmp_path, four)["resumed_at_step"] == 6
    assert tables(tmp_path, four) == undisturbed


def test_what_is_taken_back_leaves_the_bar_where_it_was(four, capsys):
    told = [(8, [], False), (4, [(12, "generalized"), (0, "diverged")], True), (6, [(2, "censored")], True)]
    with Progress(four) as progress:
        progress.add(16, [(0, "generalized")])
        before = (progress.bar.n, progress.ended, progress.generalized, progress.bar.desc)
        for report in told:
            progress.add(*report)
        assert (progress.bar.n, progress.ended, progress.generalized) == (16 + 8 + 4 + 12 + 6 + 2, 4, 2)
        progress.take_back(told)
        assert (progress.bar.n, progress.ended, progress.generalized) == before[:3]
        assert "1/4 runs done, 1 generalized" in progress.bar.desc
        progress.add(total_steps(four) - 16, [(0, "censored")] * 3)
        assert progress.bar.n == progress.bar.total
    assert "100%" in capsys.readouterr().err


# --- workers that stay between two sweeps -------------------------------------------------------------------------


def test_workers_stay_and_one_that_died_idle_costs_nothing(tmp_path):
    prepare(tmp_path)
    first, second = [[spec] for spec in runs(2)], [[spec] for spec in runs(4)[2:]]
    with Local(Terms(tmp_path), 2) as executor:
        assert executor.train(first) == []
        assert len(executor.idle) == 2
        for worker in executor.idle:
            os.kill(worker.process.pid, signal.SIGKILL)
            worker.process.join()
        assert executor.train(second) == []
        assert not list((tmp_path / "failures").glob("[!.]*"))
        living = [worker.process.pid for worker in executor.idle]
    assert len(load(tmp_path).runs) == 4
    for pid in living:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_worker_that_dies_right_behind_its_outcome_has_done_its_work(tmp_path, four):
    class Quick:
        def hear(self):
            return [Outcome("stored"), Outcome("died", "by SIGTERM")]

    worker = Quick()
    with Progress(four) as progress:
        jobs, executor = Jobs(Terms(tmp_path), deque(), progress), Local(Terms(tmp_path), 2)
        executor._listen(worker, jobs, {worker: Job(list(four))})
    assert executor.idle == [worker]
    assert not jobs.waiting
    assert not jobs.failures


def test_a_signal_behind_the_last_step_stops_whoever_called(tmp_path, four):
    """A search would otherwise go on with its next batch."""
    prepare(tmp_path)

    def serve(jobs, stop):
        jobs.waiting.clear()
        os.kill(os.getpid(), signal.SIGINT)
        while not stop.code:
            time.sleep(0.01)

    with pytest.raises(Interrupted) as raised:
        train_all([four], Terms(tmp_path), serve)
    assert raised.value.code == 130


def test_a_bar_of_a_library_in_a_worker_leaves_no_word_of_leaks(tmp_path):
    """PyTorch's compiler makes one."""
    (tmp_path / "bar.py").write_text("import io\nfrom tqdm import tqdm\nlist(tqdm(range(2), file=io.StringIO()))\n")
    settings = ["task.p=7", "model.width=16", "model.heads=2", "batch_size=16", "steps=8"]
    command = [sys.executable, "-m", "grokking", "run", "--import", "bar.py", "--seeds", "0:4", "--workers", "2"]
    said = subprocess.run(
        [*command, "--set", *settings], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stderr
    assert "4/4 runs done" in said
    assert "leaked" not in said


# --- several workers on one GPU ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "slots"), [(0, 1), (3, 3)])
def test_on_cuda_there_is_one_worker_unless_more_are_asked_for_and_they_share_its_memory(
    said, slots, tmp_path, monkeypatch
):
    monkeypatch.setattr("grokking.execute.local.choose_device", lambda _: "cuda")
    monkeypatch.setattr("grokking.execute.local.free_memory", lambda device: {"cuda": 12e9}[device.type])
    monkeypatch.setattr(training, "_cores", lambda: 7)
    with training.opened(Where(out=tmp_path, device="cuda", workers=said), (), declared=False) as executor:
        assert (executor.slots, executor.room()) == (slots, 12e9 / slots)
