"""`reduce_log`: from the files of a request log, or from reduced logs of its parts, to one reduced log."""

from __future__ import annotations

import collections
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import keras
import numpy as np

from dynamarks_tf._support import own_files, progress
from dynamarks_tf.errors import ArgumentError, LogError
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.request_logs import reduction_file
from dynamarks_tf.request_logs.locate import ACCEPTED, located, open_file
from dynamarks_tf.request_logs.query_log import Selection, nothing_found
from dynamarks_tf.request_logs.reduced_log import ReducedLog
from dynamarks_tf.request_logs.reduction import FilePart, Reduction, merge
from dynamarks_tf.verification.owner import Owner, resolve_owner
from dynamarks_tf.verification.reducing import BATCH_SIZE, Marked, PlacedFile, Reducer, in_order, placed
from dynamarks_tf.verification.whole_log import marked_of

SHOWN_NAMES = 5
PARTIAL = ".partial"
SECONDS_BETWEEN_SAVES = 30.0


class Job(NamedTuple):
    """What a log is reduced with.

    Attributes:
        owner: the clean model and how it was marked.
        marked: what decides which query meets which hash entry.
        input: name of the input, of requests with several.
        batch_size: how many queries the clean model answers at once.
        verbose: whether to show progress.
    """

    owner: Owner
    marked: Marked
    input: str | None
    batch_size: int
    verbose: bool


class Engine(Protocol):
    """What reduces files: this process, or machines that it asks."""

    def __call__(self, files: Sequence[PlacedFile], job: Job) -> Iterator[Callable[[], Reduction]]:
        """Yields after each step a function that gives the reduction so far; the last one, that of all files."""
        ...


def in_this_process(files: Sequence[PlacedFile], job: Job) -> Iterator[Callable[[], Reduction]]:
    """The engine that reads one file after the other."""
    reducer = Reducer(job.marked, input=job.input, batch_size=job.batch_size)
    for file, position in progress.track(
        in_order(files), "reducing the log", len(files), enabled=job.verbose, unit="files"
    ):
        reducer.file(file, position=position)
        yield reducer.reduction


def reduce_log(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    owner: keras.Model | str | os.PathLike[str] | Owner,
    key: MarkKey,
    out: str | os.PathLike[str],
    input: str | None = None,
    from_logits: bool | None = None,
    batch_size: int = BATCH_SIZE,
    engine: Engine = in_this_process,
    verbose: bool = False,
) -> ReducedLog:
    """Reduces a request log to the first query of each hash entry, once for all suspects.

    `verify` and `trace` give the same result with the reduced log as with the whole log, in far less time. Reduced logs
    of parts, such as days, can be given again and are merged; files that they hold already are not read again.

    If the process is killed, there is no output. After each file, at most every 30 seconds, what was found is saved
    beside it as `OUT.partial`; the same call goes on from there.

    The reduced log shows inputs of clients and the structure of the keyed hash. It is as private as the log.

    Args:
        paths: files or folders of the log, as for `open_log`; all clients and versions, since first meetings are those
            of the whole log. Reduced logs may be among them.
        owner: the owner's marked Keras model, or the path of its file.
        key: the owner's key.
        out: the file to write. Nothing is overwritten.
        input: name of the input, if the model's requests have several.
        from_logits: whether a clean owner model answers logits. A marked one tells itself.
        batch_size: how many queries the clean model answers at once.
        engine: what reads the files; by default this process. `dynamarks_tf.distributed.spark.SparkEngine` asks a
            cluster.
        verbose: whether to show progress on standard error.

    Returns:
        The reduced log, as `open_log(out)` opens it.

    Raises:
        LogError: a file is damaged, some files record times and others do not, there is no usable request, a reduced
            log or `OUT.partial` was made with another model or key, or `out` exists.
        ModelError: the model cannot be used, or was marked with another key.

    Example:

    >>> dm.reduce_log("logs/", owner="marked.keras", key=key, out="log.reduced")
    >>> dm.verify("suspect.keras", owner="marked.keras", key=key, queries=dm.open_log("log.reduced"))
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    target = Path(out)
    if target.exists():
        raise LogError(f"{target} exists; a reduced log is not overwritten. Name another file.")
    claimed = resolve_owner(owner, key, from_logits=from_logits)
    marked = marked_of(claimed, claimed.codebook(key).keyed_hash)
    job = Job(claimed, marked, input, batch_size, verbose)
    files, parts = _opened(given, marked)
    files = _different(files, parts)
    _check_times(files, parts)
    partial, resumed = Path(f"{target}{PARTIAL}"), None
    if os.path.lexists(partial):
        resumed = _resumed(partial, files, job)
        done = {part.identity for part in resumed.files}
        files = [each for each in files if (each.file.file.size, each.file.sha256) not in done]
        progress.note(f"{partial}: goes on after {len(done)} files; {len(files)} are left", enabled=verbose)
    log = [_merged(files, resumed, job, engine, partial)] if files or resumed else []
    found = _together([*parts, *log])
    _check_found(found, parts, given)
    reduction_file.write(found, target)
    partial.unlink(missing_ok=True)
    return ReducedLog(found, Selection(), (os.fspath(target),))


def _opened(given: Sequence[str | os.PathLike[str]], marked: Marked) -> tuple[list[PlacedFile], list[Reduction]]:
    """The files of the log, and the reduced logs among them.

    Raises:
        LogError: there are none, or a reduced log was made with another model or key.
    """
    if not given:
        raise ArgumentError(f"`paths` is empty. Give at least one request log: {ACCEPTED}.")
    parts, others = [], []
    try:
        every, problems = located(given)
        for file in every:
            if reduction_file.is_reduction(file):
                part = reduction_file.read(file)
                part.check_made_with(marked.sha256, str(file))
                parts.append(part)
            else:
                others.append(open_file(file, "float32"))
    except OSError as error:
        raise LogError(str(error)) from error
    for problem in problems:
        _warn(problem)
    return placed(others), parts


def _different(files: Sequence[PlacedFile], parts: Sequence[Reduction]) -> list[PlacedFile]:
    """The files without copies of each other, and without those in reduced logs."""
    sizes = collections.Counter(
        [file.file.size for file, _ in files] + [part.size for each in parts for part in each.files]
    )
    known = {part.identity: f"{part.name}, which a reduced log holds" for each in parts for part in each.files}
    kept = []
    for each in files:
        file = each.file
        if sizes[file.file.size] > 1:
            identity = file.file.size, file.sha256
            if identity in known:
                _warn(f"{file.file} was given twice: it has the content of {known[identity]}. It is counted once.")
                continue
            known[identity] = str(file.file)
        kept.append(each)
    return kept


def _check_times(files: Sequence[PlacedFile], parts: Sequence[Reduction]) -> None:
    """Sees to it that it can be said which query came first.

    Raises:
        LogError: it cannot.
    """
    names = [file.file.last_name for file, position in files if position or (parts and file.start_time is None)]
    in_parts = [part.name for each in parts for part in _untimed(each)]
    if len(parts) + bool(files) > 1 and (names or in_parts):
        raise LogError(
            f"{len(names) + len(in_parts)} files record no times: {_listed(in_parts + names)}. It cannot be said where "
            "their queries belong among those of other reduced logs. Reduce all files together, in the order in which "
            "they were logged."
        )
    if names and len(names) < len(files):
        raise LogError(
            f"{len(names)} of {len(files)} files record no times: {_listed(names)}. It cannot be said where their "
            f"queries belong among those of the others. The {len(files) - len(names)} files with times can be reduced "
            "without them."
        )
    if names:
        _warn(
            f"None of the {len(names)} files records times. They count in the order given: {_listed(names)}. A query "
            "is the first of its hash entry only if this is the order in which they were logged."
        )


def _untimed(reduction: Reduction) -> list[FilePart]:
    met = reduction.meetings
    timed = set(met["file"][met["time"] > -np.inf].tolist())
    return [reduction.files[number] for number in sorted(set(met["file"].tolist()) - timed)]


def _resumed(path: Path, files: Sequence[PlacedFile], job: Job) -> Reduction:
    """What an earlier call left behind.

    Raises:
        LogError: it was about something else, or is damaged.
    """
    remedy = f"Delete {path} to begin anew, or name another output."
    try:
        own_files.open_own(path).close()
        found = reduction_file.read(path)
    except own_files.NotOwnError as error:
        raise LogError(f"{error} It looks like what an interrupted reduction left. {remedy}") from error
    except LogError as error:
        raise LogError(f"{path}, which an interrupted reduction left, cannot be read. {remedy}") from error
    if found.hash_sha256 != job.marked.sha256:
        what = "another owner model, another key or other settings of the mark"
        raise LogError(f"{path} was left by a reduction with {what}. {remedy}")
    if found.input_name != job.input:
        raise LogError(f"{path} was left by a reduction of the input {found.input_name!r}, not {job.input!r}. {remedy}")
    sizes = {part.size for part in found.files}
    known = {(file.file.size, file.sha256): position for file, position in files if file.file.size in sizes}
    others = [part.name for part in found.files if known.get(part.identity) != part.position]
    if others:
        raise LogError(
            f"{path} was left by a reduction of another log. Of its {len(found.files)} files, {len(others)} are not "
            f"among those given now, or stand elsewhere: {_listed(others)}. {remedy}"
        )
    return found


def _merged(
    files: Sequence[PlacedFile], resumed: Reduction | None, job: Job, engine: Engine, partial: Path
) -> Reduction:
    """Reduces files, and saves from time to time what was found."""
    saved = time.monotonic()
    before = [] if resumed is None else [resumed]
    current: Callable[[], Reduction] | None = None
    for current in engine(files, job) if files else ():
        if time.monotonic() - saved >= SECONDS_BETWEEN_SAVES:
            reduction_file.write(_together([*before, current()]), partial, overwrite=True)
            saved = time.monotonic()
    return _together([*before, *([] if current is None else [current()])])


def _check_found(found: Reduction, parts: Sequence[Reduction], given: Sequence[str | os.PathLike[str]]) -> None:
    """Warns of what an owner should know about the files that were read.

    Raises:
        LogError: no request can be used.
    """
    known = {part.identity for each in parts for part in each.files}
    read = [part for part in found.files if part.identity not in known]
    reason = next((part.problem for part in read if part.problem), "")
    if not found.num_queries:
        raise nothing_found(given, Selection(), reason, dict, dict)
    for part in read:
        for note in part.notes:
            _warn(note)
        if not part.counts:
            _warn(f"{part.name} holds no request.")
    left_out = sum(counts.left_out for part in read for counts in part.counts.values())
    if left_out:
        kept = sum(counts.requests for part in read for counts in part.counts.values())
        _warn(f"{left_out} logged requests were left out, {kept} were taken. The first: {reason}")
    if gaps := found.gaps_told():
        _warn(gaps)


def _together(parts: Sequence[Reduction]) -> Reduction:
    return merge(parts) if len(parts) > 1 else parts[0]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)
