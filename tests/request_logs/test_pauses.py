"""A log that lacks a time of its own rhythm is told; nights, weekends and replicas that come and go are not."""

import itertools

import pytest

from dynamarks_tf.request_logs.pauses import HOUR, MOST_KEPT, LongestPauses, Times, gaps_told

DAY = 24 * HOUR
START = 1_767_571_200.0  # Monday, 2026-01-05 00:00 UTC


def hours(days, *, of_day=range(24), without=()):
    """The times of a request each hour, seconds after the start."""
    return [day * DAY + hour * HOUR for day in range(days) if day not in without for hour in of_day]


def times_of(seconds):
    found = LongestPauses()
    for each in seconds:
        found.add(START + each)
    return found.times()


def told(*files):
    return gaps_told([(f"file-{number}", times_of(each)) for number, each in enumerate(files, 1)])


OFFICE = {"of_day": range(8, 19)}
WEEKENDS = [day for day in range(70) if day % 7 > 4]


@pytest.mark.parametrize(
    "log",
    [
        [each * 900.0 for each in range(2000) if not 900 < each < 928],  # 7 hours
        hours(5, without=[2]),  # too short to know the week
        hours(20, without=[9]),
        hours(20, without=[9], of_day=range(6, 24)),  # quiet nights
        hours(60, without=[*WEEKENDS, *range(21, 35)], **OFFICE),  # two weeks beside quiet weekends
        [*hours(20), *(25 * DAY + each for each in hours(20))],
    ],
)
def test_a_gap_is_told(log):
    assert "seems incomplete" in told(log)
    half = max(range(1, len(log)), key=lambda number: log[number] - log[number - 1])
    assert "between file-1 and file-2" in told(log[:half], log[half:])


def test_the_warning_names_time_and_file():
    text = told(hours(20, without=[9]))
    assert "no request from 2026-01-13 23:00 UTC to 2026-01-15 00:00 UTC (25 hours, in file-1). All" in text
    assert text.endswith("If there were none, nothing is wrong.")


@pytest.mark.parametrize(
    "log",
    [
        hours(70, without=WEEKENDS, **OFFICE),
        hours(9, without=[5, 6], **OFFICE),  # its only weekend
        hours(60, without=[*WEEKENDS, *range(21, 26)], **OFFICE),  # a week's holiday
        hours(400, of_day=range(8, 20)),  # more pauses than are kept
        [0, 60, *(3 * DAY + each for each in hours(30))],  # a trial before the launch
        [0, 1, 2, DAY, DAY + 1, DAY + 2],  # two bursts
        [each * 900.0 for each in range(2000) if not 900 < each < 920],  # an outage of 5 hours
        [*hours(20), 10_000 * DAY],  # one time of a clock gone wrong
        [7.0],
        [],
    ],
)
def test_what_is_plausible_is_not_told(log):
    assert told(log) == ""


def test_replicas_are_taken_together():
    whole = hours(30)
    assert told(whole, [each + 60 for each in whole]) == ""
    assert told(whole, whole[:200]) == ""  # one stopped early
    assert told(whole, hours(30, without=[12])) == ""  # the other one answered
    assert "between file-1 and file-2" not in told(whole[:300], whole[200:])
    both = hours(30, without=[12])
    assert "2026-01-16 23:30 UTC to 2026-01-18 00:00 UTC" in told(both, [each + 30 * 60 for each in both])


def test_without_all_times_nothing_is_told():
    gap = times_of(hours(20, without=[9]))
    assert gaps_told([("a", gap)])
    assert gaps_told([("a", gap), ("b", None)]) == "" == gaps_told([])


def test_memory_is_bounded_and_the_longest_pauses_stay():
    found = times_of(itertools.accumulate(HOUR * (1 + number % 97) for number in range(2000)))
    assert len(found.pauses) == MOST_KEPT
    assert min(end - start for start, end in found.pauses) > 95 * HOUR
    assert found.is_valid


@pytest.mark.parametrize(
    "times",
    [
        Times(2.0, 1.0),
        Times(0.0, float("inf")),
        Times(float("nan"), 1.0),
        Times(0.0, 9.0, ((2.0, 1.0),)),
        Times(0.0, 99.0, tuple((float(each), each + 0.5) for each in range(MOST_KEPT + 1))),
    ],
)
def test_damaged_times_are_seen(times):
    assert not times.is_valid
