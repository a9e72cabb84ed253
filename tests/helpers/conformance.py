"""Makes the conformance vectors: files that every verifier must accept, and files that every verifier must refuse.

    python -m tests.helpers.conformance

Each invalid file is named after its defect. All are about models on paper: the clean answers are quotients of small
whole numbers, and the suspect follows the secret signs without any training. Nothing is drawn at random, so the same
release makes the same files, but for the last digits of logarithms on another processor. The timestamp is kept as it
is: an authority made of `openssl ts` signed it, whose key is gone. Only if the statement changes, a new one is made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import itertools
import json
import secrets
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from dynamarks_tf._support.digests import json_digest
from dynamarks_tf.case import bundle as bundles
from dynamarks_tf.case import transcript_chain as chains
from dynamarks_tf.case.transcript import TranscriptBatch
from dynamarks_tf.errors import CommitmentError
from dynamarks_tf.keys import commitment, passphrases, timestamp
from dynamarks_tf.keys.commitment import Statement, commit
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.keys.pool import CommittedPool
from tests.helpers import GOLDEN
from tests.helpers.bundles import npz, rechain, rewritten, state_a_statistic

KEY = MarkKey(bytes(range(32)), "ACME Vision", created="2026-01-02T03:04:05+00:00")
OTHER_KEY = MarkKey(bytes(range(1, 33)), "ACME Vision", created="2026-01-02T03:04:05+00:00")
PASSPHRASE = "the passphrase of a test vector"
LIST = "vectors.json"
ROOTS = "timestamp-roots.pem"
Members = dict[str, bytes]


class Vector(NamedTuple):
    """What a verifier must make of a file.

    Attributes:
        kind: `bundle`, `statement`, `key` or `log`.
        name: of the file, which says whether it is valid, and of an invalid one, its defect.
        given: what it is checked with: `key`, `timestamp_roots`, `passphrase`.
        expected: what is reported of a valid one; the reason for which an invalid one is refused.
    """

    kind: str
    name: str
    given: dict[str, str]
    expected: dict[str, Any]


def make(folder: Path, timestamps: Path) -> list[Vector]:
    """Writes all vectors and their list.

    Args:
        folder: where to; `valid` and `invalid` below it are replaced.
        timestamps: the folder with the timestamp until now, and its roots; both are copied if they fit.
    """
    made = _Maker(folder)
    reply, roots = _timestamp(timestamps)
    for part in ("valid", "invalid"):
        shutil.rmtree(folder / part, ignore_errors=True)
        (folder / part).mkdir(parents=True)
    (folder / ROOTS).write_bytes(roots)
    made.keys()
    made.statements(reply)
    made.logs()
    made.bundles(reply)
    rows = [vector._asdict() for vector in made.vectors]
    content = {"format": "dynamarks-conformance", "version": 1, "vectors": rows}
    (folder / LIST).write_text(json.dumps(content, indent=1) + "\n")
    return made.vectors


class _Maker:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vectors: list[Vector] = []

    def valid(self, kind: str, name: str, data: bytes, given: dict[str, str] | None = None, **expected: Any) -> None:
        (self.folder / "valid" / name).write_bytes(data)
        self.vectors.append(Vector(kind, f"valid/{name}", given or {}, expected))

    def invalid(self, kind: str, name: str, data: bytes, reason: str, given: dict[str, str] | None = None) -> None:
        (self.folder / "invalid" / name).write_bytes(data)
        self.vectors.append(Vector(kind, f"invalid/{name}", given or {}, {"refused": reason}))

    # Keys

    def keys(self) -> None:
        public = {"owner": KEY.owner, "commitment": KEY.commitment}
        plain = KEY.to_json()
        self.valid("key", "key.key", plain, **public)
        derived = _secret(KEY.for_client("client-7"))
        client = MarkKey(derived, KEY.owner, created=KEY.created, client="client-7")  # with a date that does not change
        self.valid("key", "key-of-client.key", client.to_json(), owner=KEY.owner, commitment=client.commitment)
        encrypted = _encrypted(KEY)
        opened = {"passphrase": PASSPHRASE}
        self.valid("key", "key-encrypted.key", encrypted, opened, **public)
        for defect, change, reason in (
            ("owner-changed", {"owner": "ACME Visions"}, "secret and owner do not give the commitment"),
            ("commitment-changed", {"commitment": "0" * 64}, "secret and owner do not give the commitment"),
            ("secret-changed", {"secret": "A" * 43 + "="}, "secret and owner do not give the commitment"),
            ("secret-too-short", {"secret": "AAAA"}, "an entry is malformed"),
            ("secret-not-base64", {"secret": "not base64!"}, "an entry is malformed"),
            ("secret-missing", {"secret": None}, "an entry is missing"),
            ("version-unknown", {"version": 3}, "unknown version"),
            ("version-not-a-number", {"version": True}, "unknown version"),
            ("format-of-something-else", {"format": "dynamarks-plan"}, "not a key file"),
        ):
            self.invalid("key", f"key-{defect}.key", _edited(plain, change), reason)
        twice = plain.replace(b'"owner"', b'"owner": "ACME Visions", "owner"', 1)
        self.invalid("key", "key-member-twice.key", twice, "no JSON")
        self.invalid("key", "key-entry-added.key", _edited(plain, {"note": "x"}), "an entry is malformed")
        self.invalid("key", "key-truncated.key", plain[:100], "no JSON")
        self.invalid("key", "key-encrypted-no-passphrase.key", encrypted, "encrypted, and no passphrase is given")
        wrong = {"passphrase": "another passphrase"}
        self.invalid("key", "key-encrypted-wrong-passphrase.key", encrypted, "another passphrase, or altered", wrong)
        for defect, change, reason in (
            ("owner-changed", {"owner": "ACME Visions"}, "another passphrase, or altered"),
            ("created-changed", {"created": "2020-01-01"}, "another passphrase, or altered"),
        ):
            self.invalid("key", f"key-encrypted-{defect}.key", _edited(encrypted, change), reason, opened)
        for defect, change, reason in (
            ("cost-too-high", {"n": 2**30}, "scrypt's n is at most 2^18"),
            ("cost-too-low", {"n": 2}, "scrypt's n is at least 2^14"),
            ("kdf-unknown", {"kdf": "md5"}, "only scrypt"),
            ("nonce-too-short", {"nonce": "AAAA"}, "the nonce has 12 bytes"),
            ("data-changed", {"data": "A" * 64}, "another passphrase, or altered"),
        ):
            content = json.loads(encrypted)
            content["encrypted_secret"] |= change
            self.invalid("key", f"key-encrypted-{defect}.key", json.dumps(content).encode(), reason, opened)

    # Statements

    def statements(self, reply: bytes) -> None:
        dated = statement_of_model()
        pool = CommittedPool("ab" * 32, 1000, 10, 200)
        unpublished = commit(KEY, date="2026-01-03T00:00:00+00:00")
        with_pool = dataclasses.replace(dated, pool=pool, signature="")
        with_pool = dataclasses.replace(with_pool, signature=commitment.sign(commitment._signed_bytes(with_pool), KEY))
        about = {"owner": KEY.owner, "commitment": KEY.commitment}
        self.valid("statement", "statement-key-alone.json", unpublished.to_bytes(), **about, date=unpublished.date)
        self.valid("statement", "statement-model.json", dated.to_bytes(), **about, model_sha256=dated.model_sha256)
        self.valid("statement", "statement-pool.json", with_pool.to_bytes(), **about, pool=dataclasses.asdict(pool))
        moment = timestamp.date_of(dated.to_bytes(), reply, "").moment
        trusted = {"timestamp_roots": ROOTS}
        self.valid("statement", "statement-timestamped.json", dated.to_bytes(), trusted, **about, existed_at=moment)
        (self.folder / "valid" / "statement-timestamped.json.tsr").write_bytes(reply)
        text, altered = dated.to_bytes(), "altered after it was signed"
        for defect, change, reason in (
            ("date-changed", {"date": "2020-01-01T00:00:00+00:00"}, altered),
            ("owner-changed", {"owner": "ACME Visions"}, altered),
            ("model-changed", {"model_sha256": "0" * 64}, altered),
            ("signature-of-another-key", {"signature": commitment.sign(b"", OTHER_KEY)}, altered),
            ("public-key-of-another-key", {"public_key": commitment.public_key(OTHER_KEY)}, altered),
            ("signature-missing", {"signature": None}, "an entry is missing"),
            ("entry-added", {"note": "x"}, "an unknown entry"),
            ("version-unknown", {"version": 9}, "unknown version"),
            ("format-of-something-else", {"format": "dynamarks-key"}, "not a statement"),
        ):
            self.invalid("statement", f"statement-{defect}.json", _edited(text, change), reason)
        small = json.loads(with_pool.to_bytes())
        small["pool"]["size"] = 399
        self.invalid(
            "statement", "statement-pool-too-small.json", json.dumps(small).encode(), "pool below twice the draw"
        )
        twice = text.replace(b'"owner"', b'"owner": "ACME Visions", "owner"', 1)
        self.invalid("statement", "statement-member-twice.json", twice, "a member of JSON stands twice")
        listed = _edited(text, {"owner": [KEY.owner]})
        self.invalid("statement", "statement-owner-as-list.json", listed, "an entry is of another type")
        self.invalid("statement", "statement-truncated.json", text[:100], "no JSON")
        self.invalid("statement", "statement-timestamp-missing.json", text, "roots are given, no timestamp", trusted)
        flipped = reply[:-1] + bytes([reply[-1] ^ 1])
        for defect, statement, token, reason in (
            ("of-another-statement", unpublished.to_bytes(), reply, "the timestamp is about another statement"),
            ("truncated", text, reply[:-5], "no timestamp"),
            ("signature-changed", text, flipped, "the timestamp's signature does not lead to the roots"),
        ):
            self.invalid("statement", f"statement-timestamp-{defect}.json", statement, reason, trusted)
            (self.folder / "invalid" / f"statement-timestamp-{defect}.json.tsr").write_bytes(token)

    # Logs

    def logs(self) -> None:
        from dynamarks_tf.request_logs.tf_record import frame

        rows = [[number, 2, 3] for number in range(4)]
        lines = [{"inputs": [row], "client": "client-7", "time": 100 + row[0]} for row in rows]
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        records = [b"".join(frame(_prediction_log(row))) for row in rows]
        found = {"queries": 4, "sha256": hashlib.sha256(np.array(rows, "<f4").tobytes()).hexdigest()}
        self.valid("log", "log.jsonl", text, **found)
        self.valid("log", "log.tfrecord", b"".join(records), **found)
        self.valid("log", "log.npz", npz(inputs=np.array(rows, np.float32)), **found)
        self.valid("log", "log-last-record-cut-off.tfrecord", b"".join(records) + records[0][:20], **found)
        self.invalid("log", "log-empty.jsonl", b"", "no request log")
        self.invalid("log", "log-not-json.jsonl", b"\xff\xfe{}\n" * 3, "no request log")
        self.invalid("log", "log-inputs-missing.jsonl", b'{"outputs": [[1, 0]]}\n' * 3, "no line holds inputs")
        self.invalid("log", "log-not-records.tfrecord", b"plain text, plain text, plain text", "no TFRecord file")

    # Bundles

    def bundles(self, reply: bytes) -> None:
        with tempfile.TemporaryDirectory() as name, fixed_surroundings():
            made = Path(name)
            statement = dataclasses.replace(statement_of_model(), timestamp=reply)
            fresh = _bundle(made / "fresh.zip", statement=statement)
            trusted = {"timestamp_roots": ROOTS}
            with_key = {"key": "valid/key.key"}
            self._valid_bundle("fresh", fresh, {**trusted, **with_key})
            bare = _bundle(made / "bare.zip")
            self._valid_bundle("without-statement", bare, {})
            self._valid_bundle("mark-not-found", _bundle(made / "other.zip", key_of_suspect=OTHER_KEY), with_key)
            revealed = _bundle(made / "open.zip", include_queries=True, reveal_key=True)
            self._valid_bundle("key-and-queries-revealed", revealed, {})
            sequential = _bundle(made / "sequential.zip", sequential=True)
            self._valid_bundle("sequential", sequential, with_key)
            self._valid_bundle("logged-labels", _bundle(made / "labels.zip", labels=True), with_key)
            enough = _bundle(made / "enough.zip", labels=True, sequential=True)
            self._valid_bundle("sequential-stopped-when-enough", enough, with_key)
            for defect, change, reason in _DEFECTS:
                about_statement = defect.startswith(("statement", "timestamp"))
                self._invalid_bundle(defect, fresh if about_statement else bare, change, reason)
            for defect, change, reason in _DEFECTS_FOR_THE_KEY:
                self._invalid_bundle(defect, bare, change, reason, with_key)
            self._invalid_bundle("queries-changed", revealed, _change_queries, "queries are not those of the plan")
            self._invalid_bundle("key-of-another-owner", revealed, _reveal_another_key, "signed with another key")
            self._invalid_bundle("sequential-stopped-early", sequential, _drop_last_batch, "stopped before p <= alpha")
            self._unsigned(bare, made)
            self._archives(bare.read_bytes())
            self.invalid(
                "bundle",
                "bundle-timestamp-missing.zip",
                bare.read_bytes(),
                "roots are given, no timestamp",
                trusted,
            )
            self.invalid(
                "bundle",
                "bundle-opened-by-another-key.zip",
                bare.read_bytes(),
                "signed with another key",
                {"key": "invalid/other.key"},
            )
            (self.folder / "invalid" / "other.key").write_bytes(OTHER_KEY.to_json())

    def _valid_bundle(self, name: str, path: Path, given: dict[str, str]) -> None:
        from dynamarks_tf import recheck

        key = KEY if "key" in given else None
        found = recheck.recheck(path, key=key)
        expected: dict[str, Any] = {
            "detected": found.evidence.detected(),
            "log10_p": found.evidence.log10_p,
            "num_queries": found.evidence.num_queries,
            "fidelity": found.evidence.fidelity,
            "channels": [channel.channel for channel in found.evidence.channels],
            "plan_sha256": found.evidence.plan.digest,
            "with_key": found.with_key,
        }
        if "timestamp_roots" in given:
            roots = timestamp.load_roots(self.folder / ROOTS)
            date = recheck.recheck(path, timestamp_roots=roots).case.statement_date
            expected["existed_at"] = None if date is None else date.moment
        self.valid("bundle", f"bundle-{name}.zip", path.read_bytes(), given, **expected)

    def _invalid_bundle(
        self,
        defect: str,
        source: Path,
        change: Callable[[Members], None],
        reason: str,
        given: dict[str, str] | None = None,
    ) -> None:
        """A bundle that its owner changed and signed anew."""
        target = source.with_name("changed.zip")
        rewritten(source, target, KEY, change)
        self.invalid("bundle", f"bundle-{defect}.zip", target.read_bytes(), reason, given)
        target.unlink()

    def _unsigned(self, source: Path, folder: Path) -> None:
        for defect, options, reason in (
            ("signature-of-another-key", {"sign": False}, "the manifest's signature does not fit"),
            (
                "commitment-of-another-key",
                {"claims": OTHER_KEY.commitment},
                "manifest and plan name different commitments",
            ),
        ):
            rewritten(source, folder / "x.zip", KEY, lambda members: None, **options)
            self.invalid("bundle", f"bundle-{defect}.zip", (folder / "x.zip").read_bytes(), reason)
            (folder / "x.zip").unlink()

    def _archives(self, data: bytes) -> None:
        """Changes by somebody who cannot sign."""
        middle = data.index(b'"log10_p"')
        changed = data[: middle + 2] + b"x" + data[middle + 3 :]
        self.invalid("bundle", "bundle-byte-of-a-member-changed.zip", changed, "a member's digest does not fit")
        in_date = data.rindex(b"PK\x01\x02") + 12
        changed = data[:in_date] + b"\x01" + data[in_date + 1 :]
        self.invalid("bundle", "bundle-byte-outside-of-members-changed.zip", changed, "the file's digest does not fit")
        self.invalid("bundle", "bundle-truncated.zip", data[: len(data) // 2], "no bundle")
        self.invalid("bundle", "bundle-byte-appended.zip", data + b"x", "the file's digest does not fit")
        self.invalid("bundle", "bundle-empty.zip", b"", "no bundle")
        for defect, change, reason in (
            (
                "member-missing",
                lambda names: [name for name in names if name != bundles.RESIDUALS],
                "a member is missing",
            ),
            ("member-added", lambda names: [*names, "more.json"], "a member was added"),
            ("member-twice", lambda names: [*names, bundles.EVIDENCE], "a member stands twice"),
        ):
            self.invalid("bundle", f"bundle-{defect}.zip", _repacked(data, change), reason)
        packed = _repacked(data, lambda names: names, zipfile.ZIP_DEFLATED)
        self.invalid("bundle", "bundle-members-compressed.zip", packed, "members are not compressed")


def statement_of_model() -> Statement:
    """The statement that the timestamp is about: key and model file."""
    with tempfile.TemporaryDirectory() as name:
        model = Path(name, "model")
        model.write_bytes(b"a model on paper")
        return commit(KEY, model=model, date="2026-01-03T00:00:00+00:00")


def _timestamp(folder: Path) -> tuple[bytes, bytes]:
    """The kept timestamp and its roots, or new ones if the kept ones do not fit."""
    kept, roots = folder / "valid" / "statement-timestamped.json.tsr", folder / ROOTS
    with contextlib.suppress(CommitmentError, OSError):
        timestamp.date_of(statement_of_model().to_bytes(), kept.read_bytes(), "", timestamp.load_roots(roots))
        return kept.read_bytes(), roots.read_bytes()
    from tests.helpers.time_stamping import TimeStampingAuthority

    with tempfile.TemporaryDirectory() as name:
        authority = TimeStampingAuthority(Path(name), "Authority of the test vectors")
        return authority.reply(statement_of_model().timestamp_request()), authority.roots.read_bytes()


def _secret(key: MarkKey) -> bytes:
    import base64

    return base64.b64decode(json.loads(key.to_json())["secret"])


def _encrypted(key: MarkKey) -> bytes:
    """An encrypted key file of the least cost, with salt and nonce that are always the same."""
    cheap = mock.patch.object(passphrases, "COST", passphrases.COSTS[0])
    with cheap, mock.patch.object(secrets, "token_bytes", lambda size: bytes(range(size))):
        return key.to_json(PASSPHRASE)


def _edited(data: bytes, changes: dict[str, Any]) -> bytes:
    """JSON with other entries; `None` removes one."""
    content = {**json.loads(data), **changes}
    return json.dumps({name: value for name, value in content.items() if value is not None}, indent=2).encode()


def _prediction_log(row: list[int]) -> bytes:
    from tensorflow_serving.apis import prediction_log_pb2

    log = prediction_log_pb2.PredictionLog()
    log.log_metadata.timestamp_secs = 100 + row[0]
    tensor = log.predict_log.request.inputs["inputs"]
    tensor.dtype = 1
    for size in (1, len(row)):
        tensor.tensor_shape.dim.add().size = size
    tensor.tensor_content = struct.pack(f"<{len(row)}f", *row)
    return bytes(log.SerializeToString())


def _repacked(data: bytes, change: Callable[[list[str]], list[str]], method: int = zipfile.ZIP_STORED) -> bytes:
    """The archive with other members, its last digest made to fit."""
    import io
    import warnings

    source, out = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as archive:
        warnings.simplefilter("ignore")  # of a name that stands twice
        for name in change(source.namelist()):
            content = source.read(name) if name in source.namelist() else b"{}"
            archive.writestr(zipfile.ZipInfo(name), content, method)
        archive.comment = source.comment
    packed = out.getvalue()[:-64]
    return packed + hashlib.sha256(packed).hexdigest().encode()


# A test on paper


@contextlib.contextmanager
def fixed_surroundings() -> Iterator[None]:
    """Clock and versions of the run that makes the vectors."""
    from dynamarks_tf.case import transcript
    from dynamarks_tf.verification import asking, verify

    ticks = itertools.count()

    def now() -> str:
        moment = datetime.datetime(2026, 2, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(seconds=next(ticks))
        return moment.isoformat(timespec="milliseconds")

    with contextlib.ExitStack() as stack:
        for module in (transcript, asking):
            stack.enter_context(mock.patch.object(module, "now", now))
        stack.enter_context(mock.patch.object(verify, "_now", now))
        stack.enter_context(mock.patch.object(verify, "package_versions", return_value={"dynamarks_tf": "0"}))
        yield


def _bundle(
    path: Path,
    *,
    statement: Statement | None = None,
    key_of_suspect: MarkKey = KEY,
    labels: bool = False,
    sequential: bool = False,
    include_queries: bool = False,
    reveal_key: bool = False,
) -> Path:
    """Tests a suspect on paper, and keeps the bundle."""
    import dynamarks_tf as dm
    from dynamarks_tf.verification.owner import Owner

    num_classes = 3 if labels else 6
    queries = _ties() if labels else _inputs(30, num_classes)
    params = dm.MarkParams(budget=0.1, tie_margin=0.5 if labels else 0, amplitudes=False)

    class OnPaper(Owner):
        @property
        def input_shape(self) -> tuple[int | None, ...]:
            return (num_classes,)

        num_values = num_classes

        @property
        def takes_text(self) -> bool:
            return False

        def answers(self, batch: Any) -> Any:
            return _clean(batch)

    owner = OnPaper(
        model=None,
        params=params,
        activation="softmax",
        from_logits=False,
        num_classes=num_classes,
        num_labels=1,
        model_sha256=hashlib.sha256(b"a model on paper").hexdigest(),
        bound=True,
        marked=True,
        code_outside=(),
        file_sha256=statement_of_model().model_sha256,
        commitment=KEY.commitment,
    )
    book = owner.codebook(key_of_suspect)

    def suspect(batch: Any) -> Any:
        return _winners(book, params, _clean(batch)) if labels else _towards_favored(book, _clean(batch))

    suspect.__name__ = "suspect"
    dm.verify(
        suspect,
        owner=owner,
        key=KEY,
        queries=queries,
        logged=labels,
        sequential=sequential,
        suspect_options=dm.SuspectOptions(batch_size=20 if labels else 15, labels=labels),
        bundle=dm.BundleOptions(path, statement=statement, include_queries=include_queries, reveal_key=reveal_key),
    )
    return path


def _inputs(count: int, num_classes: int) -> Any:
    """Whole numbers from 1 to 90, of which one stands out."""
    found = np.array(
        [[(7 * row + 13 * place + row * place) % 23 + 1 for place in range(num_classes)] for row in range(count)]
    )
    found[np.arange(count), np.arange(count) % num_classes] += 66
    return found.astype(np.float32)


def _ties() -> Any:
    """Whole numbers of which the two largest are nearly equal."""
    rows = [np.roll([400 + step % 7, 400 + step % 5, 20 + 3 * step], step) for step in range(80)]
    return np.array(rows, np.float32)


def _clean(batch: Any) -> Any:
    return (batch / batch.sum(axis=1, keepdims=True, dtype=np.float64)).astype(np.float32)


def _towards_favored(book: Any, clean: Any) -> Any:
    """Answers that follow the class channel."""
    top = clean.argmax(axis=1)
    favored = book.class_signs[book.keyed_hash.row_of_class[top]][:, book.keyed_hash.column_of_class] > 0
    favored[np.arange(len(top)), top] = False
    shifted = clean + np.where(favored, 0.0078125, 0) * (1 + np.arange(len(top)) % 4)[:, None]
    return (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)


def _winners(book: Any, params: Any, clean: Any) -> Any:
    """Labels that follow the tie channel in ties."""
    from dynamarks_tf.evidence import meetings
    from dynamarks_tf.evidence.batch import Batch

    found = meetings.TieMeetings(book.keyed_hash, params.tie_margin, params.budget)
    labels = clean.argmax(axis=1)
    low, high, queries, cells = found.among(Batch(clean, labels))
    labels[queries] = np.where(book.tie_signs.ravel()[cells] > 0, low, high)
    return labels


# Defects of bundles


def _json(name: str, **entries: Any) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        members[name] = json.dumps({**json.loads(members[name]), **entries}).encode()

    return change


def _removed(*names: str) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        for name in names:
            del members[name]

    return change


def _replaced(name: str, data: bytes) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        members[name] = data

    return change


def _twice(name: str) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        members[name] = members[name].replace(b'"log10_p"', b'"log10_p": -99.0, "log10_p"', 1)

    return change


def _plan(**entries: Any) -> Callable[[Members], None]:
    """The owner rewrites the plan, and all that depends on it."""

    def change(members: Members) -> None:
        head, evidence = json.loads(members[chains.HEAD]), json.loads(members[bundles.EVIDENCE])
        plan = {**head["plan"], **entries}
        members[chains.HEAD] = json.dumps({**head, "plan": plan, "plan_sha256": json_digest(plan)}).encode()
        evidence |= {"plan": plan, "plan_sha256": json_digest(plan)}
        members[bundles.EVIDENCE] = json.dumps(evidence).encode()
        rechain(members, KEY)

    return change


def _batch(change: Callable[[TranscriptBatch], TranscriptBatch], *, chained: bool) -> Callable[[Members], None]:
    def changed(members: Members) -> None:
        name = chains.batch_names(1)[0]
        members[name] = change(TranscriptBatch.from_bytes(members[name])).to_bytes()
        if chained:
            rechain(members, KEY)

    return changed


def _rolled(batch: TranscriptBatch) -> TranscriptBatch:
    suspect = batch.suspect.copy()
    suspect[0] = np.roll(suspect[0], 1)
    return dataclasses.replace(batch, suspect=suspect)


def _drop_last_batch(members: Members) -> None:
    last = max(name for name in members if name.startswith("batches/") and name.endswith(".json"))
    _removed(last, last.replace(".json", ".npz"))(members)


def _swap_batches(members: Members) -> None:
    for one, two in zip(chains.batch_names(0), chains.batch_names(1), strict=True):
        members[one], members[two] = members[two], members[one]


def _fix_afterwards(members: Members) -> None:
    _json(chains.HEAD, fixed_at="2999-01-01T00:00:00.000+00:00")(members)
    rechain(members, KEY)


def _scale_residuals(members: Members) -> None:
    import io

    with np.load(io.BytesIO(members[bundles.RESIDUALS])) as content:
        arrays = dict(content)
    arrays["class.values"] = arrays["class.values"] * 1.01
    members[bundles.RESIDUALS] = npz(**arrays)


def _shift_offsets(members: Members) -> None:
    import io

    with np.load(io.BytesIO(members[bundles.KEYED_HASH])) as content:
        arrays = dict(content)
    arrays["offsets"] = (arrays["offsets"] + np.float32(0.5)) % np.float32(1)
    members[bundles.KEYED_HASH] = npz(**arrays)


def _channel(**entries: Any) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        (channel,) = json.loads(members[bundles.EVIDENCE])["channels"]
        _json(bundles.EVIDENCE, channels=[{**channel, **entries}])(members)

    return change


def _statistic(of: Callable[[Any], float]) -> Callable[[Members], None]:
    return lambda members: state_a_statistic(members, of, num_classes=6)


def _other_statement(statement: Statement) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        del members[bundles.TIMESTAMP]
        members[bundles.STATEMENT] = statement.to_bytes()

    return change


def _change_queries(members: Members) -> None:
    _batch(lambda batch: dataclasses.replace(batch, queries=batch.queries + 1), chained=True)(members)


def _reveal_another_key(members: Members) -> None:
    members[bundles.KEY] = OTHER_KEY.to_json()


def _of_another_key() -> Statement:
    return commit(OTHER_KEY, date="2026-01-03T00:00:00+00:00")


def _of_another_model() -> Statement:
    with tempfile.TemporaryDirectory() as name:
        Path(name, "model").write_bytes(b"another model")
        return commit(KEY, model=Path(name, "model"), date="2026-01-03T00:00:00+00:00")


_GROWTH = [{"num_queries": count, "log10_p": -9.0} for count in (10, 20, 30)]
_DEFECTS: tuple[tuple[str, Callable[[Members], None], str], ...] = (
    ("p-value-smaller", _json(bundles.EVIDENCE, log10_p=-99.0), "log10 p does not follow from table and T"),
    ("p-value-of-the-channel-smaller", _channel(log10_p=-99.0), "log10 p does not follow from table and T"),
    (
        "statistic-of-no-signs",
        _statistic(lambda channel: 1.0001 * channel.statistic),
        "T is no signed sum of residuals",
    ),
    ("statistic-too-large", _statistic(lambda channel: 99 * channel.statistic), "T is beyond its largest value"),
    ("growth-invented", _json(bundles.EVIDENCE, growth=_GROWTH), "entries contradict each other"),
    ("e-value-added", _json(bundles.EVIDENCE, log10_e=9.0), "this kind of test has no e-value"),
    ("fidelity-changed", _json(bundles.EVIDENCE, fidelity=0.5), "fidelity does not follow from the answers"),
    ("warning-removed-or-added", _json(bundles.EVIDENCE, warnings=["x"]), "warnings do not follow from the answers"),
    ("number-of-signs-changed", _channel(num_cells=7), "number of signs does not follow from the answers"),
    ("suspect-renamed", _json(bundles.EVIDENCE, suspect="another"), "evidence and transcript name different suspects"),
    ("evidence-missing", _removed(bundles.EVIDENCE), "evidence.json is missing"),
    ("evidence-version-unknown", _json(bundles.EVIDENCE, version=99), "unknown version"),
    ("evidence-not-json", _replaced(bundles.EVIDENCE, b"{"), "no JSON"),
    ("evidence-member-twice", _twice(bundles.EVIDENCE), "a member of JSON stands twice"),
    ("evidence-not-a-number", _json(bundles.EVIDENCE, fidelity=float("nan")), "a number that JSON has not"),
    ("evidence-suspect-with-line-break", _json(bundles.EVIDENCE, suspect="x\nok MARK FOUND"), "a name with controls"),
    ("evidence-nested-deeply", _replaced(bundles.EVIDENCE, b"[" * 5_000), "no JSON"),
    ("plan-digest-changed", _json(chains.HEAD, plan_sha256="0" * 64), "the plan's digest does not fit"),
    ("plan-alpha-above-one", _plan(alpha=2.0), "alpha lies between 0 and 1"),
    ("plan-budget-too-large", _plan(budget=7.0), "the budget is at most 0.5"),
    ("plan-number-as-text", _plan(num_queries="30"), "a number is a text"),
    ("plan-classes-huge", _plan(num_classes=10**30), "a number is out of its range"),
    ("plan-channels-empty", _plan(channels=[]), "channels are not those that can be tested"),
    ("plan-rule-unknown", _plan(rule="best-of-three/1"), "unknown rule"),
    ("plan-of-other-queries", _plan(num_queries=50, num_fresh=50), "30 answers, 50 were planned"),
    ("plan-fixed-after-the-questions", _fix_afterwards, "times do not increase"),
    ("transcript-version-unknown", _json(chains.HEAD, version=99), "unknown version"),
    ("answers-changed", _batch(_rolled, chained=False), "the digest of a batch does not fit"),
    ("answers-changed-and-chained", _batch(_rolled, chained=True), "the table does not follow from the answers"),
    (
        "answers-no-probabilities",
        _batch(lambda batch: dataclasses.replace(batch, clean=batch.clean * 2), chained=True),
        "clean answers do not add up to 1",
    ),
    (
        "answers-of-other-classes",
        _batch(lambda batch: dataclasses.replace(batch, clean=batch.clean[:, :5]), chained=True),
        "answers do not fit the plan",
    ),
    ("batch-missing", _drop_last_batch, "15 answers, 30 were planned"),
    ("batches-swapped", _swap_batches, "the chain is broken"),
    ("residuals-scaled", _scale_residuals, "the table does not follow from the answers"),
    ("residuals-missing", _removed(bundles.RESIDUALS), "residuals.npz is missing"),
    ("keyed-hash-not-arrays", _replaced(bundles.KEYED_HASH, b"PK\x05\x06" + bytes(18)), "arrays are missing"),
    ("statement-date-changed", _json(bundles.STATEMENT, date="2020-01-01"), "altered after it was signed"),
    ("statement-of-another-key", _other_statement(_of_another_key()), "statement and plan are about different keys"),
    ("statement-of-another-model", _other_statement(_of_another_model()), "the plan names another model file"),
    (
        "timestamp-of-another-statement",
        _replaced(bundles.STATEMENT, commit(KEY, date="2026-01-04").to_bytes()),
        "the timestamp is about another statement",
    ),
    ("timestamp-without-statement", _removed(bundles.STATEMENT), "a timestamp, no statement"),
)
_DEFECTS_FOR_THE_KEY: tuple[tuple[str, Callable[[Members], None], str], ...] = (
    (
        "statistic-of-other-signs",
        _statistic(lambda channel: channel.largest_possible),
        "with the key, T comes out otherwise",
    ),
    (
        "records-written-with-another-key",
        lambda members: rechain(members, OTHER_KEY),
        "with the key, the code of a record does not fit",
    ),
    ("keyed-hash-of-another-key", _shift_offsets, "with the key, the keyed hash comes out otherwise"),
)


if __name__ == "__main__":
    made = make(GOLDEN, GOLDEN)
    size = sum(path.stat().st_size for part in ("valid", "invalid") for path in (GOLDEN / part).iterdir())
    print(f"{len(made)} vectors, {size / 1000:.0f} kB")
