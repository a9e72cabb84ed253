"""A test written down while it runs: the plan before the first question, each batch of answers as it comes.

A transcript is a private folder. An interrupted test goes on from it without asking anything twice, and a finished one
becomes part of the evidence bundle. Its records form a chain: each holds the digest of the one before, the first that
of the plan, so that the order plan, question, answer can be seen afterwards.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import archives, bounds, digests, files, own_files, texts
from dynamarks_tf._support.strict_json import read_json
from dynamarks_tf.case.plan import TestPlan
from dynamarks_tf.case.transcript_chain import (
    FOLDERS,
    FORMAT,
    FORMAT_VERSION,
    HEAD,
    Block,
    Continued,
    batch_names,
    check_record,
    check_sealed,
    earlier_name,
    follows,
    joints,
    read_head,
)
from dynamarks_tf.errors import TranscriptError

Array = npt.NDArray[Any]

_LARGEST = 2**33  # bytes of one file
_OLD_HEAD = "recording.json"  # of releases that wrote version 1
ANSWER_FILES = (".npz", ".csv", ".parquet", ".jsonl")
"""How files of answers end: no other suspect is named so."""


def were_answers_given(suspect: str, suspect_sha256: str | None) -> bool:
    """Whether a suspect was a file of answers, which were there before the test.

    Args:
        suspect: its description in plan and evidence.
        suspect_sha256: its digest; `None` for servers and functions.
    """
    return suspect_sha256 is not None and suspect.endswith(ANSWER_FILES)


@dataclasses.dataclass(frozen=True)
class TranscriptBatch:
    """One batch of a test.

    Attributes:
        clean: the clean owner model's probabilities, shape `(n, ..., C)`.
        suspect: the suspect's probabilities, the same shape, or class indices, shape `(n, ...)`.
        queries: the inputs, if they were kept; text and bytes as `bytes` objects.
        references: the probabilities of R reference models, shape `(n, ..., R, C)`; `None` without.
    """

    clean: Array
    suspect: Array
    queries: Array | None
    references: Array | None = None

    @property
    def answers(self) -> tuple[Array, ...]:
        """Clean and suspect answers, and with reference models theirs."""
        both = self.clean, self.suspect
        return both if self.references is None else (*both, self.references)

    def to_bytes(self) -> bytes:
        """The arrays as an `.npz` file."""
        arrays = {"clean": self.clean, "suspect": self.suspect}
        if self.references is not None:
            arrays["references"] = self.references
        if self.queries is not None and texts.may_be_text(self.queries):  # objects would have to be pickled
            data, lengths = texts.packed(texts.as_bytes(self.queries))
            arrays |= {"query_bytes": data, "query_lengths": lengths}
        elif self.queries is not None:
            arrays["queries"] = self.queries
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> TranscriptBatch:
        """Reads what `to_bytes` wrote.

        Raises:
            TranscriptError: it is damaged.
        """
        try:
            with archives.Archive(data, is_packed=False) as archive:
                arrays = archive.arrays(archives.NUMBERS)
            queries = arrays.get("queries")
            if "query_bytes" in arrays:
                queries = texts.unpacked(arrays["query_bytes"], arrays["query_lengths"])
            return cls(arrays["clean"], arrays["suspect"], queries, arrays.get("references"))
        except (KeyError, ValueError) as error:
            raise TranscriptError(f"A recorded batch cannot be read: {bounds.reason(error)}") from error


class Transcript:
    """The folder of one test: new, or that of an interrupted one to go on with.

    Args:
        folder: where to write; created with mode 0700.
        plan: what was fixed before the suspect is asked.
        suspect: what is tested.
        batch_size: how many queries a batch holds; an interrupted transcript keeps its own.
        suspect_sha256: digest of the suspect's file or weights, if it has one.
        seal: makes the owner's code over a digest, so that nobody else can have written what is gone on with.
        keep_queries: whether to write down the inputs too.
        blocks: of a sequential test, what it will ask.
        continued: the sequential test that this one extends.

    Attributes:
        batch_size: how many queries a batch holds.

    Raises:
        TranscriptError: the folder holds the transcript of another test, is damaged, or may be somebody else's.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        plan: TestPlan,
        suspect: str,
        batch_size: int,
        *,
        suspect_sha256: str | None = None,
        seal: Callable[[str], str],
        keep_queries: bool,
        blocks: Sequence[Block] | None = None,
        continued: Continued | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._keep_queries = keep_queries
        about = {
            "plan_sha256": plan.digest,
            "suspect": suspect,
            "suspect_sha256": suspect_sha256,
            "keeps_queries": keep_queries,
        }
        head = self.folder / HEAD
        self._seal = seal
        if os.path.lexists(self.folder):
            self._check_folders()
        if (self.folder / _OLD_HEAD).exists():
            raise TranscriptError(
                f"{self.folder} holds an interrupted test that an earlier release began (version 1). Go on with that "
                "release, name another bundle, or remove the folder if its answers are not needed."
            )
        if not os.path.lexists(head):
            own_files.make_folders(self.folder, files.PRIVATE_FOLDER)
            self._check_folders()
            self._take_over(continued)
            content: dict[str, Any] = {
                "format": FORMAT,
                "version": FORMAT_VERSION,
                **about,
                "plan": plan.to_dict(),
                "batch_size": batch_size,
                "blocks": None if blocks is None else [[*block] for block in blocks],
                "continues": None if continued is None else continued.to_dict(),
                "fixed_at": now(),
            }
            content["mac"] = seal(digests.json_digest(content))
            _write(head, json.dumps(content, indent=2).encode())
        content = read_head(_read(head), str(head))
        for name, value in about.items():
            if content[name] != value:
                raise TranscriptError(
                    f"{self.folder} holds an interrupted test whose {name} is {content[name]!r}; this one's is "
                    f"{value!r}. Repeat the interrupted test with its own settings, name another bundle, or remove "
                    "the folder if its answers are not needed."
                )
        self.batch_size = int(content["batch_size"])
        heads = [_read(path) for path in (*self._earlier(), head)]
        for data in heads:
            check_sealed(read_head(data, str(head)), seal, str(self.folder))
        self._chain, self._joints = hashlib.sha256(heads[0]).hexdigest(), joints(heads, str(head))
        self._next = 0
        self._lock = _locked(head)

    def _check_folders(self) -> None:
        """Refuses what somebody else may have put there.

        Raises:
            TranscriptError: a folder is a link, belongs to somebody else, or others can write to it.
        """
        try:
            for folder in (self.folder, *(self.folder / name for name in FOLDERS)):
                if os.path.lexists(folder):
                    own_files.check_own_folder(folder)
        except OSError as error:
            raise TranscriptError(f"{error} It looks like an interrupted test.") from error

    def close(self) -> None:
        """Lets another process go on with the transcript. May be called twice."""
        self._lock.close()

    def _take_over(self, continued: Continued | None) -> None:
        """Writes down what an earlier test holds, before the first file says that this is a transcript."""
        if continued is None:
            return
        named = [(earlier_name(index), head) for index, head in enumerate(continued.heads)]
        for index, record in enumerate(continued.records):
            named += zip(batch_names(index), record, strict=True)
        for name, data in named:
            _write(self.folder / name, data)

    def _earlier(self) -> list[Path]:
        """The first files of the tests that this one extends, the oldest first."""
        paths = (self.folder / earlier_name(index) for index in itertools.count())
        return [*itertools.takewhile(os.path.lexists, paths)]

    def recorded(self, queries: Array) -> TranscriptBatch | None:
        """Returns the next batch if it was recorded before the interruption.

        Args:
            queries: the inputs of the batch, to be sure that they are the same.

        Raises:
            TranscriptError: it was recorded for other inputs, or the transcript is damaged.
        """
        if not os.path.lexists(self._record_path):
            return None
        where = f"{self.folder}, batch {self._next},"
        record = read_json(_read(self._record_path), where, "a record", error=TranscriptError)
        data = _read(self._answers_path)
        check_record(record, data, self._next, self._previous, str(self.folder))
        check_sealed(record, self._seal, where)
        if record["queries_sha256"] != digests.query_digest(queries):
            raise TranscriptError(f"{self.folder}, batch {self._next}, was recorded for other inputs.")
        self._advance(record)
        return TranscriptBatch.from_bytes(data)

    def add(
        self, queries: Array, clean: Array, suspect: Array, references: Array | None = None, *, asked_at: str
    ) -> None:
        """Writes the next batch down; when this returns, it will survive a crash.

        Args:
            queries: the inputs.
            clean: the clean model's answers.
            suspect: the suspect's answers.
            references: those of the reference models, if there are any.
            asked_at: when the suspect was asked, ISO 8601 in UTC.
        """
        data = TranscriptBatch(clean, suspect, queries if self._keep_queries else None, references).to_bytes()
        record: dict[str, Any] = {
            "batch": self._next,
            "rows": len(clean),
            "queries_sha256": digests.query_digest(queries),
            "answers_sha256": hashlib.sha256(data).hexdigest(),
            "asked_at": asked_at,
            "answered_at": now(),
            "previous": self._previous,
        }
        record["chain"] = digests.json_digest(record)
        record["mac"] = self._seal(record["chain"])
        _write(self._answers_path, data)
        _write(self._record_path, json.dumps(record, indent=2).encode())  # last: it says that the batch is whole
        self._advance(record)

    def files(self) -> Iterator[tuple[str, Path]]:
        """Yields name and path of every file, in order."""
        yield HEAD, self.folder / HEAD
        for path in self._earlier():
            yield path.relative_to(self.folder).as_posix(), path
        for index in range(self._next):
            for name in batch_names(index):
                yield name, self.folder / name

    @property
    def _previous(self) -> str:
        return follows(self._chain, self._next, self._joints)

    @property
    def _answers_path(self) -> Path:
        return self.folder / batch_names(self._next)[0]

    @property
    def _record_path(self) -> Path:
        return self.folder / batch_names(self._next)[1]

    def _advance(self, record: dict[str, Any]) -> None:
        self._chain = record["chain"]
        self._next += 1


def _locked(path: Path) -> IO[bytes]:
    """Opens a file and keeps other processes of this kind from doing the same; lets go when closed, or at death."""
    try:
        file = own_files.open_own(path)
    except OSError as error:
        raise TranscriptError(str(error)) from error
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # not on Windows
        pass
    except OSError as error:
        file.close()
        raise TranscriptError(
            f"Another process is at work in {path.parent}. Wait for it, or name another bundle."
        ) from error
    return file


def now() -> str:
    """The time, ISO 8601 in UTC."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")


def _read(path: Path) -> bytes:
    try:
        return own_files.read_own(path, _LARGEST)
    except OSError as error:
        raise TranscriptError(str(error)) from error


def _write(path: Path, data: bytes) -> None:
    files.write_atomically(path, data, mode=files.PRIVATE_FILE)
