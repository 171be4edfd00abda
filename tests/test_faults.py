"""The short form of `make faults`: most of the same faults, a few of each (the others: tests/test_checkpoint.py)."""

import pytest
from faults import bits, disks, kills, scale, stops, victim, writers

pytestmark = [pytest.mark.parses, pytest.mark.timeout(300)]


def all_kept(figures):
    assert figures
    assert [figure for figure in figures if not figure.kept and figure.kept is not None] == []


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    experiment = victim.tiny_experiment(folder)
    return experiment, victim.undisturbed(experiment, folder / "undisturbed", workers=1)


def test_kill_minus_nine_resumes_from_the_last_checkpoint_and_changes_no_byte(tiny, tmp_path):
    figures = kills.kill(tiny[0], tmp_path, tiny[1], times=3, latest=11, every=0.1)
    all_kept([figure for figure in figures if "most training lost" not in figure.fault])  # time decides no test


def test_a_signal_stops_all_processes_and_the_continuation_is_bit_exact(tiny, tmp_path):
    figures = stops.stop(tiny[0], tmp_path, tiny[1], times=4, latest=8)
    all_kept([figure for figure in figures if "longest time" not in figure.fault])  # time decides no test


@pytest.mark.parametrize("fault", [disks.full, disks.removed], ids=lambda fault: fault.__name__)
def test_a_disk_that_fails_is_told_and_the_sweep_continues_when_it_works_again(tiny, tmp_path, fault):
    figure = fault(tiny[0], tmp_path, tiny[1])
    if figure.kept is None:
        pytest.skip(figure.measured)
    assert figure.kept, figure


def test_every_flipped_bit_and_every_cut_is_detected_and_nothing_crashes(tmp_path):
    all_kept(bits.spoil(tmp_path, flips=30, cuts=15, draw_every=20))


def test_writers_at_once_lose_nothing_and_store_nothing_twice(tmp_path):
    all_kept(writers.write_at_once(tmp_path, 4, 20))


def test_a_store_of_many_units_can_be_looked_at(tmp_path):
    assert len(scale.measure(tmp_path, 50, repeats=1)) == 6  # times decide no test
