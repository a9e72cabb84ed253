"""From the files of a request log to its reduction: which query met which hash entry first.

It needs the clean model, the keyed hash and the settings of the mark: no secret sign, no key, no suspect. So it can run
on machines that must know none of these.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support.storage import CutOffError
from dynamarks_tf.errors import DynaMarksError, LogError
from dynamarks_tf.evidence.answers import confidence, main_class
from dynamarks_tf.evidence.batch import Batch
from dynamarks_tf.evidence.meetings import meetings, num_class_cells, num_tie_cells
from dynamarks_tf.request_logs.entries import (
    LogEntry,
    LogFile,
    TruncatedError,
    UnreadableEntry,
    UnusableError,
    is_time,
)
from dynamarks_tf.request_logs.pauses import LongestPauses
from dynamarks_tf.request_logs.query_log import Selection
from dynamarks_tf.request_logs.reduction import (
    MANY,
    MEETING,
    MOST_CLIENTS,
    NO_CLIENT,
    QUERY,
    Counts,
    FilePart,
    Form,
    InputStore,
    Origin,
    Reduction,
    clients_of,
    encoded,
    merge,
)
from dynamarks_tf.watermark.keyed_hash import KeyedHash
from dynamarks_tf.watermark.params import MarkParams

Array = npt.NDArray[Any]

BATCH_SIZE = 1024  # queries that the clean model answers at once; the same everywhere, to the last bit
_BLOCK_BYTES = 2**24  # of inputs that are answered at once
_LONGEST_REASON = 500  # characters; it may quote what a client sent
_STEP_BACK = 300  # seconds; requests that are answered at once may be logged in any order
_MOST_REFUSED = 256  # inputs that the model does not take, before the first that it takes


@dataclasses.dataclass(frozen=True, eq=False)
class Marked:
    """What decides which query meets which hash entry.

    Attributes:
        model_sha256: digest of the clean model.
        answers: gives its probabilities, shape `(n, ..., C)`, for inputs of shape `(n, ...)`.
        keyed_hash: which hash entry an output meets.
        params: settings of the mark.
        input_shape: shape of one input, `None` for unknown axes.
        takes_text: whether inputs are text or bytes.
    """

    model_sha256: str
    answers: Callable[[Array], Array]
    keyed_hash: KeyedHash
    params: MarkParams
    input_shape: tuple[int | None, ...]
    takes_text: bool

    @property
    def sha256(self) -> str:
        """Digest of model, keyed hash and settings, 64 hexadecimal digits."""
        digest = hashlib.sha256()
        settings = {"model": self.model_sha256, "budget": self.params.budget, "tie_margin": self.params.tie_margin}
        digest.update(json.dumps(settings, sort_keys=True).encode())
        for field in dataclasses.fields(self.keyed_hash):
            values = np.ascontiguousarray(getattr(self.keyed_hash, field.name))
            digest.update(f"{field.name}{values.dtype.str}{values.shape}".encode() + values.tobytes())
        return digest.hexdigest()

    @property
    def num_entries(self) -> int:
        """How many hash entries there are."""
        classes, labels = self.keyed_hash.num_classes, self.keyed_hash.num_labels
        return num_class_cells(classes, labels) + num_tie_cells(classes, labels)


class PlacedFile(NamedTuple):
    """A file of a log, and its place.

    Attributes:
        file: the file.
        position: its place among the files given, from 1, if it records no times and is not the only one; otherwise 0.
    """

    file: LogFile
    position: int


def placed(files: Sequence[LogFile]) -> list[PlacedFile]:
    """Files with their places, in the order given."""
    if len(files) == 1:
        return [PlacedFile(files[0], 0)]
    return [PlacedFile(file, 0 if file.start_time is not None else place) for place, file in enumerate(files, 1)]


def in_order(files: Sequence[PlacedFile]) -> list[PlacedFile]:
    """Files in the order of their numbers, whatever order they were given in, so that equal times decide the same."""
    return sorted(
        files, key=lambda each: (each.position, each.file.file.last_name, each.file.sha256, each.file.file.size)
    )


class Row(NamedTuple):
    """Where a query stands.

    Attributes:
        time: the running maximum of the time within its file.
        offset: of its request in the file.
        row: its place in the request.
        origin: number of who asked it.
        client: number of the client alone.
    """

    time: float
    offset: int
    row: int
    origin: int
    client: int


class Reducer:
    """Reduces the files of a log one by one. Its memory does not grow with the log.

    Args:
        marked: decides which query meets which hash entry.
        input: name of the input, of requests with several.
        batch_size: how many queries the clean model answers at once.

    Example:

    >>> reducer = Reducer(marked)
    >>> for file in files:
    ...     reducer.file(file)
    >>> reducer.reduction()
    """

    def __init__(self, marked: Marked, *, input: str | None = None, batch_size: int = BATCH_SIZE) -> None:
        self._marked = marked
        self._input_name = input
        self._taken = Selection(input=input, input_shapes=(marked.input_shape,), text=marked.takes_text)
        self._batch_size = batch_size
        self._first = np.zeros(marked.num_entries, MEETING)
        self._first["clients"] = NO_CLIENT
        self._is_met = np.zeros(marked.num_entries, bool)
        self._place = np.zeros(marked.num_entries, np.intp)
        self._queries: list[Array] = []
        self._inputs = InputStore()
        self.files: list[FilePart] = []
        self._forms: dict[Form, int] = {}
        self._origins: dict[Origin, int] = {}
        self._clients: dict[str | None, int] = {}
        self._refused = 0
        self.problems: list[str] = []

    def file(self, file: LogFile, *, position: int = 0, after: float = -math.inf) -> float:
        """Adds a file.

        Args:
            file: the file.
            position: its place among the files given, if it records no times.
            after: where in time it begins, if it records none.

        Returns:
            The last time in it.

        Raises:
            LogError: it is damaged, or cannot be read.
        """
        asked: dict[tuple[str | None, str | None, int | None], _Asked] = {}
        name, reason, notes = file.file.last_name, "", list[str]()
        last, step_back = after, 0.0
        pauses, all_timed = LongestPauses(), True

        def rows() -> Iterator[tuple[Array, Row]]:
            nonlocal reason, last, step_back, all_timed
            for entry in self._entries(file, notes):
                if is_time(time := entry.time):
                    pauses.add(time)
                    if time > last:
                        last = time
                    elif last - time > step_back:
                        step_back = last - time
                elif not isinstance(entry, UnreadableEntry):  # which a client could send to hide a pause
                    all_timed = False
                by = entry.client, entry.model, entry.version
                seen = asked.get(by)
                if seen is None:
                    seen = asked[by] = _Asked(self.row(Origin(*by)))
                try:
                    inputs = self._taken.inputs(entry)
                except UnusableError as error:
                    seen.left_out += 1
                    reason = reason or f"{name}, offset {entry.offset}: {error}"[:_LONGEST_REASON]
                    continue
                seen.requests += 1
                seen.queries += len(inputs)
                yield inputs, Row(last, entry.offset, 0, seen.origin, seen.client)

        self.add(rows(), number=len(self.files))
        if step_back > _STEP_BACK:
            notes.append(
                f"{name}: its times step back by up to {step_back:.0f} s: a clock was set, or clocks disagree. "
                "Its queries count as no earlier than those before them in the file, so of several clients who asked "
                "the same, another than the first may count as the first."
            )
        self.problems += notes
        counts = {Origin(*by): Counts(seen.requests, seen.queries, seen.left_out) for by, seen in asked.items()}
        times = pauses.times() if all_timed else None
        self.files.append(FilePart(name, file.file.size, file.sha256, position, counts, reason, tuple(notes), times))
        return last

    def add(self, requests: Iterable[tuple[Array, Row]], *, number: int) -> None:
        """Adds the requests of one file, in their order.

        Args:
            requests: the inputs of each, shape `(n, ...)`, and where it stands.
            number: of the file.
        """
        for inputs, rows in _blocks(requests, self._batch_size):
            for answers, part in self._answered(inputs, np.arange(len(inputs))):
                self._meet(answers, inputs[part], rows[part], number)

    def reduction(self) -> Reduction:
        """What was read so far."""
        entries = np.flatnonzero(self._is_met)
        met = self._first[entries]
        met["entry"] = entries
        number_of = {name: number for number, name in enumerate(clients_of(self._origins))}
        renumbered = np.array([number_of[name] for name in self._clients], np.int32)
        are_clients = met["clients"] >= 0
        met["clients"][are_clients] = renumbered[met["clients"][are_clients]]
        queries = np.concatenate(self._queries) if self._queries else np.zeros(0, QUERY)
        return merge(
            [
                Reduction(
                    self._marked.sha256,
                    tuple(self.files),
                    tuple(self._origins),
                    tuple(self._forms),
                    met,
                    queries,
                    self._inputs,
                    self._input_name,
                )
            ]
        )

    def _entries(self, file: LogFile, notes: list[str]) -> Iterator[LogEntry]:
        try:
            yield from file.entries()
        except (TruncatedError, CutOffError) as error:
            notes.append(
                str(error).replace(str(file.file), file.file.last_name)
            )  # wherever the file lies, the same bytes
        except OSError as error:
            raise LogError(str(error)) from error

    def row(self, origin: Origin, *, time: float = -math.inf, offset: int = 0) -> Row:
        """Where the first query of a request stands."""
        client = self._clients.setdefault(origin.client, len(self._clients))
        return Row(time, offset, 0, self._origins.setdefault(origin, len(self._origins)), client)

    def _answered(self, inputs: Array, part: Array) -> Iterator[tuple[Array, Array]]:
        """Clean answers in order, without those to inputs that the model does not take: they show no sign."""
        try:
            answers = self._marked.answers(inputs[part])
        except DynaMarksError:
            if len(part) > 1:
                yield from self._answered(inputs, part[: len(part) // 2])
                yield from self._answered(inputs, part[len(part) // 2 :])
                return
            self._refused += 1
            if self._refused >= _MOST_REFUSED and not self._is_met.any():
                raise
        else:
            yield answers, part

    def _meet(self, answers: Array, inputs: Array, rows: Array, file: int) -> None:
        """Adds queries of one form, with the clean model's answers to them."""
        batch = Batch.of_answers(answers, np.zeros(answers.shape[:-1], int), self._marked.keyed_hash)
        found = meetings(batch, self._marked.keyed_hash, self._marked.params)
        query = found.queries // (len(batch) // len(answers))
        self._add_clients(found.entries, rows["client"][query])
        new = np.flatnonzero(self._is_earlier(found.entries, rows[query], file))
        self._place[found.entries[new[::-1]]] = new[::-1]  # of one entry, the last assignment holds: the first query
        new = new[self._place[found.entries[new]] == new]
        entries, query, is_own = found.entries[new], query[new], found.is_own[new]
        for name in ("time", "offset", "row"):
            self._first[name][entries] = rows[name][query]
        self._first["file"][entries], self._first["is_own"][entries] = file, is_own
        self._is_met[entries] = True
        self._keep(np.unique(query[is_own]), inputs, rows, file, answers)

    def _is_earlier(self, entries: Array, rows: Array, file: int) -> Array:
        """Whether queries came before the first one of their entry that is known."""
        known = self._first[entries]
        earlier = ~self._is_met[entries]
        equal = self._is_met[entries]
        for name in ("time", "file", "offset", "row"):
            value = file if name == "file" else rows[name]
            earlier |= equal & (value < known[name])
            equal &= value == known[name]
        return np.asarray(earlier)

    def _add_clients(self, entries: Array, clients: Array) -> None:
        """Adds who met which entry."""
        known = self._first["clients"]
        are_new = ~((known[entries] == clients[:, None]).any(axis=1) | (known[entries, 0] == MANY))
        width = len(self._clients)
        pairs = np.unique(entries[are_new] * width + clients[are_new])
        while len(pairs):
            entry, client = np.divmod(pairs, width)
            is_first = np.r_[True, entry[1:] != entry[:-1]]  # one client of each entry at a time
            entry, client = entry[is_first], client[is_first]
            filled = (known[entry] != NO_CLIENT).sum(axis=1)
            fits = filled < MOST_CLIENTS
            known[entry[fits], filled[fits]] = client[fits]
            known[entry[~fits]] = [MANY, *[NO_CLIENT] * (MOST_CLIENTS - 1)]
            pairs = pairs[~is_first]

    def _keep(self, numbers: Array, inputs: Array, rows: Array, file: int, answers: Array) -> None:
        """Keeps the inputs of queries that met an entry first."""
        if not len(numbers):
            return
        form = Form.of(inputs)
        kept = np.zeros(len(numbers), QUERY)
        for name in ("time", "offset", "row", "origin"):
            kept[name] = rows[name][numbers]
        kept["file"], kept["form"] = file, self._forms.setdefault(form, len(self._forms))
        kept["best"], kept["confidence"] = main_class(answers[numbers]), confidence(answers[numbers])
        for index, number in enumerate(numbers.tolist()):
            data = encoded(inputs[number], form)
            kept["size"][index] = len(data)
            self._inputs.add(data)
        self._queries.append(kept)


class _Asked:
    """How much of one origin was read so far."""

    __slots__ = ("client", "left_out", "origin", "queries", "requests")

    def __init__(self, row: Row) -> None:
        self.origin, self.client = row.origin, row.client
        self.requests = self.queries = self.left_out = 0


_ROW = np.dtype([("time", "<f8"), ("offset", "<i8"), ("row", "<i4"), ("origin", "<i4"), ("client", "<i4")])


def _blocks(requests: Iterable[tuple[Array, Row]], batch_size: int) -> Iterator[tuple[Array, Array]]:
    """Joins requests of one form, and splits what is large."""
    waiting: list[tuple[Array, Row]] = []
    count, size = 0, 0
    form: tuple[Any, ...] = ()
    for inputs, row in requests:
        for start in range(0, len(inputs), batch_size):
            part = inputs if len(inputs) <= batch_size else inputs[start : start + batch_size]
            length, nbytes, of_part = len(part), part.nbytes, (part.dtype, *part.shape[1:])
            if waiting and (count + length > batch_size or size + nbytes > _BLOCK_BYTES or of_part != form):
                yield _joined(waiting)
                waiting, count, size = [], 0, 0
            form = of_part
            waiting.append((part, row._replace(row=row.row + start) if start else row))
            count, size = count + length, size + nbytes
    if waiting:
        yield _joined(waiting)


def _joined(requests: Sequence[tuple[Array, Row]]) -> tuple[Array, Array]:
    lengths = [len(inputs) for inputs, _ in requests]
    rows = np.repeat(np.array([tuple(row) for _, row in requests], _ROW), lengths)
    rows["row"] += (np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)).astype(np.int32)
    return np.concatenate([inputs for inputs, _ in requests]), rows
