"""A request log reduced to what evidence needs of it: for each hash entry, the first query that met it.

Of a log, every channel uses only the first query that met each hash entry (`evidence.meetings`). Which entry a query
meets follows from the clean model and the keyed hash alone: from no secret sign, and from no suspect. One reduction
thus serves every suspect. Its size is bounded by the number of entries, whatever the length of the log.

Queries are ordered by a key: running maximum of the time within the file, file, offset in the file, row of the request.
`merge` takes the smallest key of each entry. It is associative, commutative and idempotent, so parts of a log can be
reduced by themselves, in any order, and again after a failure.
"""

from __future__ import annotations

import array
import dataclasses
import math
import tempfile
import weakref
from collections.abc import Collection, Iterator, Sequence
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import texts
from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs.pauses import Times, gaps_told

Array = npt.NDArray[Any]

MOST_CLIENTS = 4  # of an entry, that are told apart
MANY = -2  # in place of the first client: more than that
NO_CLIENT = -1  # in an empty place

_KEY = [("time", "<f8"), ("file", "<i4"), ("offset", "<i8"), ("row", "<i4")]
MEETING = np.dtype([("entry", "<i8"), *_KEY, ("is_own", "?"), ("clients", "<i4", (MOST_CLIENTS,))])
QUERY = np.dtype([*_KEY, ("origin", "<i4"), ("form", "<i4"), ("size", "<i8"), ("best", "<i4"), ("confidence", "<f4")])
_KEY_NAMES = [name for name, _ in _KEY]

_IN_MEMORY = 64 * 2**20  # bytes of inputs; what is more goes to a temporary file
_TEXT = "bytes"  # in place of NumPy's name of the type


class Origin(NamedTuple):
    """Who asked what.

    Attributes:
        client: the client's name, `None` if it was not recorded. Nameless requests count as those of one more client.
        model: the name of the model that was asked, `None` if it was not recorded.
        version: the version that answered, `None` if it was not recorded.
    """

    client: str | None
    model: str | None
    version: int | None


class Counts(NamedTuple):
    """How much of one origin stands in a file.

    Attributes:
        requests: requests whose inputs can be read.
        queries: their rows.
        left_out: requests whose inputs cannot be read, or do not fit the model.
    """

    requests: int = 0
    queries: int = 0
    left_out: int = 0


class Form(NamedTuple):
    """Type and shape of an input.

    Attributes:
        dtype: NumPy's name of the type, little-endian; `"bytes"` for text and bytes.
        shape: of one input.
    """

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, inputs: Array) -> Form:
        """The form of inputs of shape `(n, ...)`."""
        is_text = texts.may_be_text(inputs)
        return cls(_TEXT if is_text else inputs.dtype.newbyteorder("<").str, tuple(inputs.shape[1:]))

    @property
    def is_text(self) -> bool:
        """Whether they are text or bytes."""
        return self.dtype == _TEXT


@dataclasses.dataclass(frozen=True)
class FilePart:
    """One file of a log, as far as it was read.

    Attributes:
        name: of the file, without its folder.
        size: how many bytes of it were read.
        sha256: digest of these bytes.
        position: place among the files given, from 1, if several were given and this one records no times; otherwise 0.
        counts: how much of each origin it holds.
        problem: the first reason why something was left out; empty if nothing was.
        notes: what else an owner should know, such as that its end is missing.
        times: when requests were logged; `None` if some record no time, or if an older release read the file.
    """

    name: str
    size: int
    sha256: str
    position: int
    counts: dict[Origin, Counts]
    problem: str = ""
    notes: tuple[str, ...] = ()
    times: Times | None = None

    @property
    def identity(self) -> tuple[int, str]:
        """What two copies of a file have in common."""
        return self.size, self.sha256

    @property
    def order(self) -> tuple[int, str, str, int]:
        """By which files are numbered."""
        return self.position, self.name, self.sha256, self.size


class InputStore:
    """Inputs one after the other, in memory while they are few, otherwise in a temporary file."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 -- lives as long as this object
        weakref.finalize(self, self._file.close)
        self._starts = array.array("q", [0])
        self._at = 0

    def add(self, data: bytes) -> int:
        """Keeps one more input; returns its number."""
        end = self._starts[-1]
        self._go_to(end)
        self._file.write(data)
        self._at = end + len(data)
        self._starts.append(self._at)
        return len(self._starts) - 2

    def read(self, number: int) -> bytes:
        """The input of a number."""
        start, stop = self._starts[number : number + 2]
        self._go_to(start)
        self._at = stop
        return self._file.read(stop - start)

    def _go_to(self, place: int) -> None:
        if place != self._at:
            self._file.seek(place)


def encoded(row: Array, form: Form) -> bytes:
    """One input as bytes."""
    if not form.is_text:
        return np.ascontiguousarray(row, np.dtype(form.dtype)).tobytes()
    data, lengths = texts.packed(np.asarray(row, object))
    return lengths.astype("<i8").tobytes() + data.tobytes()


def decoded(data: bytes, form: Form) -> Array:
    """What was `encoded`.

    Raises:
        ValueError: it has another size than its form says.
    """
    count = math.prod(form.shape)
    if not form.is_text:
        return np.frombuffer(data, np.dtype(form.dtype)).reshape(form.shape)
    lengths = np.frombuffer(data[: 8 * count], "<i8").astype(np.int64)
    return texts.unpacked(np.frombuffer(data[8 * count :], np.uint8), lengths.reshape(form.shape))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Reduction:
    """A reduced log. It shows the structure of the keyed hash, so it is as private as the log itself.

    Attributes:
        hash_sha256: digest of clean model, keyed hash and settings of the mark, which decide who meets what.
        files: what was read, in the order of their numbers.
        origins: who asked what, sorted.
        forms: types and shapes of the inputs, sorted.
        meetings: the first meeting of each entry, of type `MEETING`, increasing by `entry`. `clients` are numbers of
            names in `clients`, of all that met the entry.
        queries: the queries that met an entry first and can be asked about it, of type `QUERY`, in the order of the
            log. `origin` and `form` are numbers of `origins` and `forms`, `best` and `confidence` the clean model's
            best class and its probability.
        inputs: the inputs of these queries, in that order.
        input_name: which input was read, of requests with several; `None` for the only one.
    """

    hash_sha256: str
    files: tuple[FilePart, ...]
    origins: tuple[Origin, ...]
    forms: tuple[Form, ...]
    meetings: Array
    queries: Array
    inputs: InputStore
    input_name: str | None = None

    @property
    def clients(self) -> tuple[str | None, ...]:
        """The names of all clients, sorted; `None`, which stands for nameless requests, is the first."""
        return clients_of(self.origins)

    @property
    def num_queries(self) -> int:
        """How many queries the log holds."""
        return sum(counts.queries for part in self.files for counts in part.counts.values())

    def check_made_with(self, hash_sha256: str, name: str = "The log") -> None:
        """Checks by what the log was reduced.

        Args:
            hash_sha256: of the model, key and settings at hand.
            name: of the log, for the message.

        Raises:
            LogError: a different model, key or setting of the mark.
        """
        if hash_sha256 != self.hash_sha256:
            raise LogError(
                f"{name} was reduced with another owner model, another key or other settings of the mark than those "
                "given. Use the same, or reduce the log again: dynamarks reduce."
            )

    def gaps_told(self) -> str:
        """Says which times the log seems to lack; empty if none."""
        return gaps_told([(part.name, part.times) for part in self.files if part.counts])

    def total(self) -> dict[Origin, Counts]:
        """How much of each origin the log holds."""
        found: dict[Origin, Counts] = {}
        for part in self.files:
            for origin, counts in part.counts.items():
                before = found.get(origin, Counts())
                found[origin] = Counts(*(one + other for one, other in zip(before, counts, strict=True)))
        return found

    def query_of_meeting(self) -> npt.NDArray[np.int64]:
        """For each meeting, the number of its query in `queries`; -1 where the meeting is not the query's own."""
        found = np.full(len(self.meetings), -1, np.int64)
        own = np.flatnonzero(self.meetings["is_own"])
        of_queries, of_meetings = _ranks(self.queries, self.meetings[own])
        found[own] = np.searchsorted(of_queries, of_meetings)
        return found

    def batches(self, chosen: npt.NDArray[np.int64], batch_size: int) -> Iterator[Array]:
        """Yields the inputs of some queries, which have one form, `batch_size` at a time."""
        for start in range(0, len(chosen), batch_size):
            numbers = chosen[start : start + batch_size]
            form = self.forms[self.queries["form"][numbers[0]]] if len(numbers) else None
            if form is None:
                return
            rows = [decoded(self.inputs.read(int(number)), form) for number in numbers]
            batch = np.empty((len(rows), *form.shape), object if form.is_text else np.dtype(form.dtype))
            for index, row in enumerate(rows):
                batch[index] = row if not (form.is_text and form.shape == ()) else row.item()
            yield batch


def clients_of(origins: Collection[Origin]) -> tuple[str | None, ...]:
    """The names of all clients, sorted; `None` comes first."""
    return tuple(sorted({origin.client for origin in origins}, key=lambda name: (name is not None, name or "")))


def merge(reductions: Sequence[Reduction]) -> Reduction:
    """The reduction of all their files together.

    Raises:
        LogError: they were made with different models, keys or settings.
    """
    if len({each.hash_sha256 for each in reductions}) != 1:
        raise LogError("The reduced logs were made with different owner models, keys or settings of the mark.")
    if len({each.input_name for each in reductions}) != 1:
        raise LogError("The reduced logs hold different inputs of the model (--input NAME).")
    parts: dict[tuple[int, str], FilePart] = {}
    for part in sorted(
        (part for each in reductions for part in each.files), key=lambda part: (part.order, part.times is None)
    ):
        parts.setdefault(part.identity, part)
    files = tuple(sorted(parts.values(), key=lambda part: part.order))
    origins = tuple(sorted({origin for each in reductions for origin in each.origins}, key=_origin_order))
    forms = tuple(sorted({form for each in reductions for form in each.forms}))
    file_numbers = {part.identity: number for number, part in enumerate(files)}
    meetings, queries, sources = [], [], []
    for which, each in enumerate(reductions):
        of_file = np.array([file_numbers[part.identity] for part in each.files], np.int32)
        of_client, of_origin = _renumbered(each.clients, clients_of(origins)), _renumbered(each.origins, origins)
        of_form = _renumbered(each.forms, forms)
        met, asked = each.meetings.copy(), each.queries.copy()
        for table in (met, asked):
            table["file"] = of_file[table["file"]]
        is_client = met["clients"] >= 0
        met["clients"][is_client] = of_client[met["clients"][is_client]]
        asked["origin"] = of_origin[asked["origin"]]
        asked["form"] = of_form[asked["form"]]
        meetings.append(met)
        queries.append(asked)
        sources.append(np.stack([np.full(len(asked), which), np.arange(len(asked))], axis=1))
    first = first_of_each(np.concatenate(meetings))
    asked, source = np.concatenate(queries), np.concatenate(sources)
    of_asked, of_first = _ranks(asked, first[first["is_own"]])
    kept, where = np.unique(of_asked, return_index=True)  # in order; a query of two reductions stands once
    where = where[np.isin(kept, of_first)]
    store = InputStore()
    for which, number in source[where].tolist():
        store.add(reductions[which].inputs.read(number))
    name = reductions[0].input_name
    return Reduction(reductions[0].hash_sha256, files, origins, forms, first, asked[where], store, name)


def _renumbered(old: Sequence[Any], new: Sequence[Any]) -> npt.NDArray[np.int32]:
    """The number in `new` of each item of `old`."""
    number_of = {item: number for number, item in enumerate(new)}
    return np.array([number_of[item] for item in old], np.int32)


def first_of_each(meetings: Array) -> Array:
    """The first meeting of each entry, with the clients of all of them; increasing by entry."""
    if not len(meetings):
        return meetings
    order = np.lexsort([~meetings["is_own"], *(meetings[name] for name in reversed(_KEY_NAMES)), meetings["entry"]])
    ordered = meetings[order]
    is_first = np.r_[True, ordered["entry"][1:] != ordered["entry"][:-1]]
    first = ordered[is_first]
    first["clients"] = _united(np.cumsum(is_first) - 1, ordered["clients"], len(first))
    return first


def _united(groups: Array, clients: Array, num_groups: int) -> Array:
    """The clients of each group of rows, increasing, as one row of `MOST_CLIENTS` places."""
    every = clients.ravel().astype(np.int64)
    width = int(every.max(initial=0)) - MANY + 1
    codes = np.repeat(groups, clients.shape[1]) * width + (every - MANY)
    group, client = np.divmod(np.unique(codes[every != NO_CLIENT]), width)
    client += MANY
    rank = np.arange(len(group)) - np.searchsorted(group, group)
    found = np.full((num_groups, clients.shape[1]), NO_CLIENT, np.int32)
    fits = rank < clients.shape[1]
    found[group[fits], rank[fits]] = client[fits]
    are_many = np.zeros(num_groups, bool)
    are_many[group[~fits | (client == MANY)]] = True
    found[are_many] = [MANY, *[NO_CLIENT] * (clients.shape[1] - 1)]
    return found


def _origin_order(origin: Origin) -> tuple[bool, str, bool, str, bool, int]:
    client, model, version = origin
    return client is not None, client or "", model is not None, model or "", version is not None, version or 0


def _ranks(*tables: Array) -> list[npt.NDArray[np.int64]]:
    """The place of each row's order key among all keys of some tables; equal keys have equal places."""
    columns = [np.concatenate([table[name] for table in tables]) for name in _KEY_NAMES]
    order = np.lexsort(columns[::-1])
    changes = np.zeros(len(order), bool)
    for column in columns:
        changes[1:] |= column[order[1:]] != column[order[:-1]]
    places = np.empty(len(order), np.int64)
    places[order] = np.cumsum(changes)
    return np.split(places, np.cumsum([len(table) for table in tables])[:-1])
