"""Work beside this process: what comes of it is the same wherever it was done."""

import os
import threading
import time

import joblib
import pytest

from prognobench.workers import Beside


@pytest.fixture(params=[1, 3])
def processors(request, monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: request.param)
    return request.param


def test_results_come_in_the_order_of_the_jobs(processors):
    with Beside(abs) as work:
        for number in range(-40, 0):
            work.add(number)
        assert work.finish() == list(range(40, 0, -1))


def test_jobs_are_begun_before_all_are_made(monkeypatch, tmp_path):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    note = tmp_path / "note"
    with Beside(lambda path: path.write_text(str(os.getpid()))) as work:
        work.add(note)
        end = time.monotonic() + 60
        while not (note.exists() and note.read_text()) and time.monotonic() < end:
            time.sleep(0.01)
        assert int(note.read_text()) != os.getpid()


def test_a_process_that_dies_costs_nothing(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    here = os.getpid()
    with Beside(lambda number: number if os.getpid() == here else os._exit(1)) as work:
        for number in range(5):
            work.add(number)
        assert work.finish() == [0, 1, 2, 3, 4]


def test_jobs_that_come_after_a_process_died_are_done_here(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    here = os.getpid()
    with Beside(lambda number: number if os.getpid() == here else os._exit(1)) as work:
        work.add(0)
        end = time.monotonic() + 60
        while not work._begun[0].done() and time.monotonic() < end:
            time.sleep(0.01)
        work.add(1)
        assert work.finish() == [0, 1]


def test_a_job_that_fails_is_said(processors):
    with Beside(len) as work:
        work.add(3)
        with pytest.raises(TypeError):
            work.finish()


def test_no_process_is_left(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    before = threading.active_count()
    with Beside(lambda _: os.getpid()) as work:
        work.add(None)
        (child,) = work.finish()
    assert threading.active_count() <= before
    if child != os.getpid():
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
