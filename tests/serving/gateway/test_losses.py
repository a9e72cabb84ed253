"""The count of what was lost on the way from Envoy to the log."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamarks_tf.serving.gateway import collector, losses
from dynamarks_tf.serving.gateway.losses import SETTLED_S, Losses


class Clock:
    """Time, and Envoy's count."""

    def __init__(self, path: Path) -> None:
        self.path, self.now, self.sent = path, 1000.0, 0
        self.losses = Losses(path)

    def answer(self, count: int, *, arrive: bool = True) -> None:
        self.sent += count
        for _ in range(count if arrive else 0):
            self.losses.arrive(self.now)
            self.losses.settle(True)

    def pass_(self, seconds: float, answers: int = 0) -> None:
        """Lets time pass, with answers in every half second."""
        for _ in range(int(2 * seconds)):
            self.now += 0.25
            self.answer(answers)
            self.now += 0.25
            self.losses.sample(self.now, self.sent)


def test_nothing_is_lost_under_load_or_at_rest(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "counts")
    clock.pass_(10, answers=100)
    clock.pass_(10)
    assert (clock.losses.written, clock.losses.dropped) == (2000, 0)


def test_what_is_on_its_way_is_no_loss(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "counts")
    clock.pass_(5)
    clock.sent += 50  # Envoy has handed them over
    clock.losses.sample(clock.now, clock.sent)
    clock.now += 1
    for _ in range(50):
        clock.losses.arrive(clock.now - 1)
    clock.pass_(10)
    assert clock.losses.dropped == 0


def test_a_loss_is_counted_under_load(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "counts")
    clock.pass_(5, answers=100)
    clock.answer(7, arrive=False)
    clock.pass_(SETTLED_S + 3, answers=100)
    assert clock.losses.dropped == 7
    assert losses.read(clock.path) == (clock.losses.written, 7)


def test_what_comes_late_is_no_loss(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "counts")
    clock.pass_(5, answers=10)
    ended = clock.now
    clock.answer(20, arrive=False)
    clock.pass_(SETTLED_S + 2, answers=10)
    assert clock.losses.dropped == 20
    for _ in range(18):
        clock.losses.arrive(ended)
        clock.losses.settle(True)
    assert clock.losses.dropped == 2
    clock.pass_(SETTLED_S + 2)
    assert (clock.losses.dropped, clock.losses.written + 2) == (2, clock.sent)


def test_a_collector_that_was_killed_counts_what_came_meanwhile(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "counts")
    clock.pass_(5, answers=10)
    clock.losses.arrive(clock.now)  # in the queue when it was killed
    clock.sent += 1
    clock.answer(30, arrive=False)
    clock.losses = Losses(clock.path)
    clock.pass_(SETTLED_S + 3, answers=10)
    assert (clock.losses.written, clock.losses.dropped) == (100 + 120, 31)


def test_counts_go_on_after_envoy_started_anew(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "counts")
    clock.pass_(5, answers=10)
    clock.answer(3, arrive=False)
    clock.pass_(SETTLED_S + 2)
    clock.sent = 0
    clock.pass_(5, answers=2)
    clock.answer(4, arrive=False)
    clock.pass_(SETTLED_S + 2)
    assert clock.losses.dropped == 7


def test_a_process_that_did_not_run_claims_no_loss(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "counts")
    clock.pass_(5, answers=10)
    clock.sent += 500
    clock.losses.sample(clock.now, clock.sent)
    clock.now += 60  # stopped; what was sent meanwhile comes afterwards
    clock.losses.sample(clock.now, clock.sent)
    for _ in range(500):
        clock.losses.arrive(clock.now - 30)
    clock.pass_(SETTLED_S + 2)
    assert clock.losses.dropped == 0


def test_a_count_is_dated_after_envoy_gave_it() -> None:
    """Else, of what Envoy counted while it was slow to answer, copies that are on their way would be losses."""
    clock = iter(range(100))

    class Slow:
        def total(self, _name: str) -> int:
            self.answered = next(clock)
            return 7

    class Taken:
        def sample(self, now: float, sent: int) -> None:
            self.now, self.sent = now, sent

    envoy, taken = Slow(), Taken()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collector, "time", lambda: next(clock))
        collector.take_sample(taken, envoy)  # type: ignore[arg-type]
    assert taken.sent == 7
    assert taken.now > envoy.answered
