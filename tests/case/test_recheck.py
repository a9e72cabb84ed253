"""Evidence bundles: made by verify, rechecked without TensorFlow, refused when a byte is changed, resumed."""

import io
import json
import os
import stat
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import dynamarks_tf as dm
import dynamarks_tf.errors
from dynamarks_tf import recheck
from dynamarks_tf.case import bundle as bundles
from dynamarks_tf.case import transcript
from dynamarks_tf.case import transcript_chain as chains
from dynamarks_tf.case.bundle import Bundle
from dynamarks_tf.case.members import read_selection
from dynamarks_tf.errors import ArgumentError, BundleError, CommitmentError, FormatError, SuspectError, TranscriptError
from dynamarks_tf.evidence.exact_tail import on_lattice
from dynamarks_tf.keys import commitment
from dynamarks_tf.watermark import codebook
from tests.helpers import ROOT, verifying
from tests.helpers.bundles import npz, other_key, rewritten, state_a_statistic, state_the_largest_statistic

SETTINGS = dm.MarkParams(budget=0.1, tie_margin=0)


class Flaky:
    """A suspect that fails at its `fail_at`-th batch, and remembers what it was asked."""

    description = "flaky"
    input_shape = None

    def __init__(self, model, fail_at=None):
        self.model = model
        self.fail_at = fail_at
        self.asked = []

    def predict(self, batch):
        if self.fail_at is not None and len(self.asked) == self.fail_at:
            raise SuspectError("flaky did not answer within 30 s.")
        self.asked.append(batch)
        return np.asarray(self.model(batch))

    def close(self):
        pass


@pytest.fixture
def verify(digits, owner_model, key):
    def verify(suspect, path, **options):
        options = {"queries": digits.x_test[:120], "batch_size": 25, **options}
        return verifying.verify(suspect, owner=owner_model, key=key, params=SETTINGS, bundle=path, **options)

    return verify


@pytest.fixture
def bundle(verify, surrogate, key, tmp_path):
    path = tmp_path / "bundle.zip"
    verify(surrogate, path, statement=commitment.commit(key))
    return path


def test_a_bundle_is_private_complete_and_bears_out_the_verdict(verify, surrogate, key, tmp_path):
    path = tmp_path / "bundle.zip"
    evidence = verify(surrogate, path, logged=True, statement=commitment.commit(key, date="2026-01-01"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not (tmp_path / "bundle.zip.partial").exists()
    without_key, with_key = recheck.recheck(path), recheck.recheck(path, key=key)
    assert without_key.evidence == with_key.evidence == evidence
    assert (without_key.with_key, with_key.with_key) == (False, True)
    told = " ".join(with_key.steps)
    assert "committed to this key in a signed statement that says 2026-01-01" in told
    assert "(amplitude, class-choice) follow from the recorded answers" in told
    assert "can be checked with the key only" in without_key.steps[-1]
    assert "is the owner's unverified claim" in without_key.caveats[0]
    assert with_key.caveats == without_key.caveats[1:]
    assert "No bundle can show that the recorded answers" in with_key.caveats[-1]
    assert "holds digests only" in with_key.caveats[-1]
    with zipfile.ZipFile(path) as archive:
        assert bundles.KEY not in archive.namelist()
        head = json.loads(archive.read(chains.HEAD))
        first = json.loads(archive.read(chains.batch_names(0)[1]))
        assert head["fixed_at"] <= first["asked_at"] <= first["answered_at"]
        assert head["plan_sha256"] == evidence.plan.digest
        contents = b"".join(archive.read(name) for name in archive.namelist())
    for secret in (bytes(range(32)), b"AAECAwQFBgcICQoLDA0ODw", bytes(range(32)).hex().encode()):
        assert secret not in contents


def test_a_bundle_about_the_clean_model_itself_holds_no_evidence_and_can_be_checked(verify, owner_model, key, tmp_path):
    assert verify(owner_model, tmp_path / "bundle.zip").log10_p == 0
    assert recheck.recheck(tmp_path / "bundle.zip", key=key).evidence.log10_p == 0


def test_the_key_and_the_queries_are_in_the_bundle_only_if_asked_for(verify, surrogate, key, digits, tmp_path):
    verify(surrogate, tmp_path / "open.zip", reveal_key=True, include_queries=True)
    result = recheck.recheck(tmp_path / "open.zip")
    assert result.with_key
    with Bundle(tmp_path / "open.zip") as opened:
        kept = transcript.TranscriptBatch.from_bytes(opened.read(chains.batch_names(0)[0]))
        np.testing.assert_array_equal(kept.queries, digits.x_test[:25])
        assert dm.MarkKey.from_json(opened.read(bundles.KEY), "k") == key
    assert "holds no published commitment" in result.caveats[0]
    assert "digests only" not in result.caveats[-1]
    verify(surrogate, tmp_path / "closed.zip")
    with Bundle(tmp_path / "closed.zip") as opened:
        assert bundles.KEY not in opened
        assert transcript.TranscriptBatch.from_bytes(opened.read(chains.batch_names(0)[0])).queries is None


def test_recheck_runs_where_there_is_only_numpy_and_cryptography(bundle, key, tmp_path):
    """A process in which importing anything else fails, TensorFlow, Keras, click and wrapt included."""
    key.save(tmp_path / "acme.key")
    script = f"""
import sys
allowed = set(sys.stdlib_module_names) | {{"numpy", "cryptography", "cffi", "_cffi_backend", "dynamarks_tf"}}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
from dynamarks_tf.recheck import main
code = main([{str(bundle)!r}, "--key", {str(tmp_path / "acme.key")!r}])
assert not {{"tensorflow", "keras", "click", "wrapt"}} & set(sys.modules)
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "MARK FOUND: log10 p" in done.stdout
    assert "With the key, signs, statistics and p-values come out as stated" in done.stdout


def test_any_changed_byte_is_refused(bundle, tmp_path):
    """Every byte of the archive's structure, and a sample of the rest; each change in three ways."""
    data = bundle.read_bytes()
    rng = np.random.default_rng(0)
    structure = [*range(60), *range(len(data) - 700, len(data))]
    places = sorted({*structure, *rng.integers(0, len(data), 300).tolist()})
    changed = tmp_path / "changed.zip"
    for number, place in enumerate(places):
        altered = bytearray(data)
        altered[place] ^= (1, 0x80, 0xFF)[number % 3]
        changed.write_bytes(altered)
        with pytest.raises(BundleError):
            recheck.recheck(changed)
    for altered in (data[:-1], data + b"x", data[: len(data) // 2], b"", data[1:]):
        changed.write_bytes(altered)
        with pytest.raises(BundleError):
            recheck.recheck(changed)


def change_json(name, **entries):
    def change(members):
        content = json.loads(members[name])
        members[name] = json.dumps({**content, **entries}).encode()

    return change


def change_channels(change):
    def change_members(members):
        content = json.loads(members[bundles.EVIDENCE])
        members[bundles.EVIDENCE] = json.dumps({**content, "channels": change(content["channels"])}).encode()

    return change_members


def change_plan(**entries):
    """The owner rewrites the plan, and everything that depends on it."""

    def change(members):
        from dynamarks_tf._support.digests import json_digest

        head, evidence = json.loads(members[chains.HEAD]), json.loads(members[bundles.EVIDENCE])
        plan = {**head["plan"], **entries}
        digest = "0" * 64 if plan["alpha"] != plan["alpha"] else json_digest(plan)
        members[chains.HEAD] = json.dumps({**head, "plan": plan, "plan_sha256": digest}).encode()
        evidence |= {"plan": plan, "plan_sha256": digest}
        members[bundles.EVIDENCE] = json.dumps(evidence).encode()
        rechain(members)

    return change


def change_answers(members):
    name = chains.batch_names(1)[0]
    batch = transcript.TranscriptBatch.from_bytes(members[name])
    suspect = batch.suspect.copy()
    suspect[0] = np.roll(suspect[0], 1)
    members[name] = transcript.TranscriptBatch(batch.clean, suspect, None).to_bytes()


def change_residuals(members):
    with np.load(io.BytesIO(members[bundles.RESIDUALS])) as content:
        arrays = dict(content)
    arrays["class.values"] = arrays["class.values"] * 1.01
    members[bundles.RESIDUALS] = npz(**arrays)


def drop_last_batch(members):
    for name in chains.batch_names(4):
        del members[name]


def swap_batches(members):
    one, two = (chains.batch_names(index) for index in (1, 2))
    for a, b in zip(one, two, strict=True):
        members[a], members[b] = members[b], members[a]


def backdate(members):
    """A plan that says it was fixed after the first question; the chain is made anew to fit."""
    head = json.loads(members[chains.HEAD])
    head["fixed_at"] = "2999-01-01T00:00:00.000+00:00"
    members[chains.HEAD] = json.dumps(head).encode()
    rechain(members)


def fix_in_another_zone(members):
    """The same digits of the clock, in a zone where they come half a day later."""
    head = json.loads(members[chains.HEAD])
    head["fixed_at"] = head["fixed_at"].replace("+00:00", "-12:00")
    members[chains.HEAD] = json.dumps(head).encode()
    rechain(members)


def rechain(members):
    import hashlib

    from dynamarks_tf._support.digests import json_digest

    chain = hashlib.sha256(members[chains.HEAD]).hexdigest()
    for index in range(5):
        answers, name = chains.batch_names(index)
        record = json.loads(members[name])
        record["previous"] = chain
        record["answers_sha256"] = hashlib.sha256(members[answers]).hexdigest()
        record["chain"] = chain = json_digest({k: v for k, v in record.items() if k not in ("chain", "mac")})
        members[name] = json.dumps(record).encode()


def change_answers_and_chain(members):
    change_answers(members)
    rechain(members)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            change_json(bundles.EVIDENCE, log10_p=-99.0),
            BundleError,
            "log10 p is stated as -99 and comes out as",
        ),
        (change_json(bundles.EVIDENCE, num_queries=7), FormatError, "its entries contradict each other"),
        (change_json(bundles.EVIDENCE, suspect="somebody else's"), BundleError, "names another suspect than the plan"),
        (change_json(bundles.EVIDENCE, suspect_sha256=None), BundleError, "names another suspect than the plan"),
        (change_json(bundles.EVIDENCE, fidelity=0.5), BundleError, "fidelity is stated as 0.5 and comes out as"),
        (change_json(bundles.EVIDENCE, key_id="0" * 16), BundleError, "key_id is stated as"),
        (change_json(bundles.EVIDENCE, answers="labels"), BundleError, "answers is stated as 'labels'"),
        (change_json(bundles.EVIDENCE, untested={}), BundleError, "untested is stated as"),
        (
            change_channels(lambda channels: channels * 20),
            FormatError,
            "its entry channels is .* a list of 0 to 4 entries",
        ),
        (change_channels(lambda channels: channels * 2), BundleError, "its channels are not those"),
        (
            change_channels(lambda channels: [{**channels[0], "num_cells": 7}]),
            BundleError,
            "num_cells of the class channel",
        ),
        (change_plan(channels=[]), FormatError, "its channels .* are not those that can be tested"),
        (change_plan(logged=True), FormatError, "its entries about logged queries contradict each other"),
        (change_plan(budget=7.0), FormatError, "`budget` is the largest total variation"),
        (change_plan(num_queries="120"), FormatError, r"its entry plan\.num_queries is '120', not a whole number"),
        (change_plan(num_classes=10**30), FormatError, r"its entry plan\.num_classes is"),
        (change_plan(alpha=float("nan")), BundleError, "it holds NaN, which is no number of JSON"),
        (
            change_json(bundles.EVIDENCE, version=9),
            FormatError,
            "is evidence of version 9; this release reads version 5",
        ),
        (change_json(chains.HEAD, version=9), TranscriptError, "the transcript of a test of version 9"),
        (change_json(chains.HEAD, plan_sha256="0" * 64), BundleError, "not about the plan that was fixed"),
        (change_answers, TranscriptError, "batch 1: its answers were changed"),
        (change_answers_and_chain, BundleError, "the table of the class channel does not follow from the answers"),
        (change_residuals, BundleError, "the table of the class channel does not follow from the answers"),
        (drop_last_batch, BundleError, "holds the answers to 100 queries; the plan was to ask 120"),
        (swap_batches, TranscriptError, "batch 1: its record does not follow from the one before"),
        (backdate, BundleError, "batch 0: it was asked or answered before what precedes it"),
        (fix_in_another_zone, BundleError, "batch 0: it was asked or answered before what precedes it"),
        (
            change_json(bundles.EVIDENCE, tested_at="1999-01-01"),
            BundleError,
            "dated 1999-01-01, before the last answer",
        ),
        (change_json(bundles.EVIDENCE, tested_at="2026-02-30"), BundleError, "there is no time 2026-02-30"),
        (change_json(bundles.STATEMENT, date="1999-01-01"), CommitmentError, "was altered after it was signed"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_bundle_that_does_not_bear_out_what_it_says_is_refused(bundle, key, tmp_path, change, error, message):
    """Even if the owner himself wrote and signed it."""
    rewritten(bundle, tmp_path / "other.zip", key, change)
    with pytest.raises(error, match=message):
        recheck.recheck(tmp_path / "other.zip")


def change_pairs(change):
    def changed(members):
        pairs = np.load(io.BytesIO(members[bundles.PAIRS]))["pairs"]
        members[bundles.PAIRS] = npz(pairs=change(pairs))

    return changed


def swap_first(pairs):
    met = np.argwhere(pairs[..., 0] >= 0)[0]
    pairs[tuple(met)] = pairs[tuple(met)][::-1]
    return pairs


def halve_first(pairs):
    pairs[tuple(np.argwhere(pairs[..., 0] >= 0)[0])] = [-1, 2]
    return pairs


def test_a_bundle_holds_the_pairs_of_the_signs_that_were_met_and_no_others(verify, surrogate, key, tmp_path):
    path = tmp_path / "logged.zip"
    evidence = verify(surrogate, path, logged=True)
    met = {channel.channel: channel.num_cells for channel in evidence.channels}["class-choice"]
    with zipfile.ZipFile(path) as archive:
        pairs = np.load(io.BytesIO(archive.read(bundles.PAIRS)))["pairs"]
    assert 0 < met == (pairs[..., 0] >= 0).sum() < 120
    for index, (change, with_key, message) in enumerate(
        (
            (swap_first, None, "the table of the class-choice channel does not follow from the answers"),
            (swap_first, key, "its pairs are not those that the key gives"),
            (halve_first, None, "pairs.npz does not hold pairs of 10 classes"),
            (lambda pairs: pairs[:5], None, "pairs.npz does not hold pairs of 10 classes"),
            (lambda pairs: pairs + 10, None, "pairs.npz does not hold pairs of 10 classes"),
        )
    ):
        changed = tmp_path / f"changed-{index}.zip"
        rewritten(path, changed, key, change_pairs(change))
        with pytest.raises(BundleError, match=message):
            recheck.recheck(changed, key=with_key)


def junk_of_every_kind():
    """What a forger may put into a member: other types, other shapes, nothing."""
    yield from (b"", b"{", b"[]", b"null", b"NaN", b"[" * 100_000, b"PK\x05\x06" + bytes(18))
    yield json.dumps({"format": "dynamarks-evidence", "version": 2}).encode()
    yield json.dumps({"format": "dynamarks-transcript", "version": 1, "plan": 3}).encode()
    yield npz(clean=np.zeros((25, 9), np.float32), suspect=np.zeros((25, 10), np.float32))
    yield npz(clean=np.full((25, 10), 0.1, np.float32), suspect=np.full((25, 10), "x"))
    yield npz(clean=np.full((25, 10), np.nan, np.float32), suspect=np.full((25, 10), 0.1, np.float32))
    yield npz(clean=np.full((25, 10), 0.1, np.float32), suspect=np.full(25, 99))
    yield npz(**{"class.shape": np.array([10**6, 10**6]), "class.cells": np.arange(3), "class.values": np.ones(3)})
    yield npz(**{"class.shape": np.array([10, 10]), "class.cells": np.array([10**9]), "class.values": np.ones(1)})
    yield npz(row_of_class=np.full(10, -1, np.int32))


def test_members_of_any_content_are_refused_and_never_crash(bundle, key, tmp_path):
    """Each member is replaced by each kind of junk, and signed by the owner himself; the chain is made to fit."""
    with zipfile.ZipFile(bundle) as archive:
        names = [name for name in archive.namelist() if name != bundles.MANIFEST and "00000" not in name[:-5]]
        names += [*chains.batch_names(0)]
    for number, name in enumerate(names):
        for kind, junk in enumerate(junk_of_every_kind()):

            def replace(members, name=name, junk=junk):
                members[name] = junk
                if name == chains.batch_names(0)[0]:
                    rechain(members)

            target = tmp_path / f"{number}-{kind}.zip"
            rewritten(bundle, target, key, replace)
            with pytest.raises(dm.errors.DynaMarksError):
                recheck.recheck(target, key=key)
    assert recheck.main([str(target)]) == 2


def test_compressed_members_are_refused(bundle, tmp_path):
    """They could unpack to a thousand times their size."""
    with zipfile.ZipFile(bundle) as archive, zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    with pytest.raises(BundleError, match="is compressed; those of such a file are not"):
        recheck.recheck(tmp_path / "b.zip")


def test_queries_that_are_kept_are_those_that_were_asked(verify, surrogate, key, tmp_path):
    path = tmp_path / "bundle.zip"
    verify(surrogate, path, include_queries=True)
    assert "the queries are in the bundle and are those of the plan" in " ".join(recheck.recheck(path).steps)

    def other_queries(members):
        name = chains.batch_names(2)[0]
        batch = transcript.TranscriptBatch.from_bytes(members[name])
        members[name] = transcript.TranscriptBatch(batch.clean, batch.suspect, batch.queries + 1).to_bytes()
        rechain(members)

    rewritten(path, tmp_path / "other.zip", key, other_queries)
    with pytest.raises(BundleError, match="batch 2: its queries are not those that were asked"):
        recheck.recheck(tmp_path / "other.zip")


def test_a_bundle_is_bound_to_its_key(bundle, key, tmp_path):
    rewritten(bundle, tmp_path / "unsigned.zip", key, lambda members: None, sign=False)
    with pytest.raises(BundleError, match="the signature of the manifest does not fit"):
        recheck.recheck(tmp_path / "unsigned.zip")
    with pytest.raises(BundleError, match="signed with another key than the one given"):
        recheck.recheck(bundle, key=other_key())


def test_a_statistic_that_the_signs_do_not_give_is_found_out_with_the_key(bundle, key, tmp_path):
    """Without the key, T has to be believed: the steps say so."""
    rewritten(bundle, tmp_path / "forged.zip", key, state_the_largest_statistic)
    result = recheck.recheck(tmp_path / "forged.zip")
    assert "can be checked with the key only" in result.steps[-1]
    with pytest.raises(BundleError, match="T of the class channel is stated as .* and comes out as"):
        recheck.recheck(tmp_path / "forged.zip", key=key)


@pytest.mark.parametrize(
    ("factor", "message"),
    [(1.0001, "it is no sum of residuals that are whole multiples of"), (99, "it lies beyond its largest possible")],
)
def test_a_statistic_that_no_signs_give_is_found_out_without_the_key(bundle, key, tmp_path, factor, message):
    rewritten(
        bundle, tmp_path / "forged.zip", key, lambda members: state_a_statistic(members, lambda c: factor * c.statistic)
    )
    with pytest.raises(BundleError, match=f"T of the class channel is stated as .*; {message}"):
        recheck.recheck(tmp_path / "forged.zip")


def test_a_bundle_of_another_processor_holds_although_residuals_differ_in_their_last_digits(bundle, key, tmp_path):
    """Some of them are then rounded to another step of the lattice, and p is that of the tables in the bundle."""

    def elsewhere(members):
        with np.load(io.BytesIO(members[bundles.RESIDUALS])) as content:
            arrays = dict(content)
        noise = np.random.default_rng(0).normal(size=arrays["class.values"].shape)
        arrays["class.values"] = arrays["class.values"] * (1 + 2e-5 * noise)
        members[bundles.RESIDUALS] = npz(**arrays)
        plan = dm.VerificationResult.from_dict(json.loads(members[bundles.EVIDENCE]), "x").plan
        signs = codebook.expand(key.bind(plan.owner_model_sha256) if plan.bound else key, 10, plan.params).class_signs
        steps, step = on_lattice(arrays["class.values"])
        state_a_statistic(members, lambda _: int((signs.ravel()[arrays["class.cells"]] * steps).sum()) * step)

    rewritten(bundle, tmp_path / "elsewhere.zip", key, elsewhere)
    without_key, with_key = (recheck.recheck(tmp_path / "elsewhere.zip", key=given) for given in (None, key))
    assert without_key.evidence == with_key.evidence != recheck.recheck(bundle).evidence


def test_what_may_be_published_holds_aggregates_only(bundle):
    """No number for each cell: nothing from which a sign could be read."""
    summary = recheck.public_summary(recheck.recheck(bundle))
    assert summary["log10_p"] < -5

    def lists(content):
        if isinstance(content, dict):
            return [found for value in content.values() for found in lists(value)]
        return [content] if isinstance(content, list) else []

    assert max(len(found) for found in lists(summary)) <= 12


def test_a_file_that_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="cannot be read as an evidence bundle"):
        recheck.recheck(tmp_path / "none.zip")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("hello.txt", "x")
    with pytest.raises(BundleError, match="is not an evidence bundle: expected"):
        recheck.recheck(tmp_path / "empty.zip")


def test_an_interrupted_test_goes_on_without_asking_anything_twice(verify, surrogate, tmp_path, digits):
    path = tmp_path / "bundle.zip"
    first = Flaky(surrogate, fail_at=3)
    with pytest.raises(
        SuspectError, match=r"did not answer .* are kept in .*bundle.zip.partial; the same call goes on"
    ):
        verify(first, path)
    assert not path.exists()
    partial = tmp_path / "bundle.zip.partial"
    assert stat.S_IMODE(partial.stat().st_mode) == 0o700
    second = Flaky(surrogate)
    evidence = verify(second, path)
    asked = np.concatenate([*first.asked, *second.asked])
    np.testing.assert_array_equal(asked, digits.x_test[:120])
    assert [len(batch) for batch in second.asked] == [25, 20]
    assert recheck.recheck(path).evidence == evidence
    whole = verify(Flaky(surrogate), tmp_path / "whole.zip")
    assert whole.log10_p == evidence.log10_p
    assert whole.growth == evidence.growth


def test_a_server_that_goes_away_is_asked_the_rest_when_it_is_back(
    verify, surrogate, digits, key, tmp_path, monkeypatch
):
    """Over a real socket; the server's own log shows that no query came twice and none is missing."""
    from dynamarks_tf.export import export_saved_model
    from dynamarks_tf.request_logs import open_log
    from dynamarks_tf.serving.local_server import LocalServer

    export_saved_model(surrogate, tmp_path / "clf" / "1")
    logs, path = tmp_path / "logs", tmp_path / "bundle.zip"
    server = LocalServer(tmp_path / "clf", grpc_port=0, rest_port=None, request_log=logs)
    server.start()
    url = server.grpc_url
    add, written = transcript.Transcript.add, []

    def add_and_stop_the_server(self, *args, **kwargs):
        add(self, *args, **kwargs)
        written.append(1)
        if len(written) == 2:
            server.stop()

    monkeypatch.setattr(transcript.Transcript, "add", add_and_stop_the_server)
    monkeypatch.setattr("dynamarks_tf.suspects.retries.FIRST_WAIT_S", 0.01)
    with pytest.raises(SuspectError, match="the same call goes on from there"):
        verify(url, path, timeout_s=5)
    monkeypatch.undo()
    port = int(url.split(":")[2].split("/")[0])
    with LocalServer(tmp_path / "clf", grpc_port=port, rest_port=None, request_log=logs):
        evidence = verify(url, path)
    assert recheck.recheck(path, key=key).evidence == evidence
    asked = np.concatenate(list(open_log(logs).batches(1000)))
    np.testing.assert_array_equal(asked, digits.x_test[:120])


def test_a_process_that_is_killed_loses_no_answer(verify, surrogate, tmp_path, monkeypatch):
    """The batch under way may be lost with the process, answers that were written down are not."""
    written = []
    add = transcript.Transcript.add

    def add_and_die(self, *args, **kwargs):
        add(self, *args, **kwargs)
        written.append(1)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(transcript.Transcript, "add", add_and_die)
    with pytest.raises(KeyboardInterrupt):
        verify(surrogate, tmp_path / "bundle.zip")
    monkeypatch.undo()
    second = Flaky(surrogate)
    with pytest.raises(TranscriptError, match="whose suspect is"):
        verify(second, tmp_path / "bundle.zip")
    evidence = verify(surrogate, tmp_path / "bundle.zip")
    assert recheck.recheck(tmp_path / "bundle.zip").evidence == evidence


def test_an_interrupted_test_is_not_mixed_with_another(verify, surrogate, digits, tmp_path):
    path = tmp_path / "bundle.zip"
    with pytest.raises(SuspectError):
        verify(Flaky(surrogate, fail_at=2), path)
    with pytest.raises(TranscriptError, match="holds an interrupted test whose plan_sha256 is"):
        verify(Flaky(surrogate), path, queries=digits.x_test[1:121])
    with pytest.raises(TranscriptError, match="whose keeps_queries is False; this one's is True"):
        verify(Flaky(surrogate), path, include_queries=True)
    name = tmp_path / "bundle.zip.partial" / chains.batch_names(1)[0]
    name.write_bytes(name.read_bytes()[:-1])
    with pytest.raises(TranscriptError, match="batch 1: its answers were changed"):
        verify(Flaky(surrogate), path)


def test_an_interrupted_test_is_not_gone_on_with_on_another_suspect_of_the_same_name(
    verify, surrogate, unmarked_surrogate, tmp_path, monkeypatch
):
    """Models in memory and files are told apart by their content."""
    import keras

    independent = keras.models.clone_model(surrogate)
    independent.set_weights(unmarked_surrogate.get_weights())
    add, written = transcript.Transcript.add, []

    def add_and_die(self, *args, **kwargs):
        add(self, *args, **kwargs)
        written.append(1)
        if len(written) == 2:
            raise KeyboardInterrupt

    for number, (first, second) in enumerate([(surrogate, independent), (tmp_path / "s.keras",) * 2]):
        if number:
            surrogate.save(first)
        written.clear()
        monkeypatch.setattr(transcript.Transcript, "add", add_and_die)
        with pytest.raises(KeyboardInterrupt):
            verify(first, tmp_path / f"{number}.zip")
        monkeypatch.undo()
        if number:
            independent.save(second)
        with pytest.raises(TranscriptError, match="whose suspect_sha256 is"):
            verify(second, tmp_path / f"{number}.zip")


def test_a_damaged_transcript_is_refused_in_words(verify, surrogate, tmp_path):
    for number, (name, content, message) in enumerate(
        [
            (chains.HEAD, b"[" * 100_000, "cannot be read as the transcript of a test: it is nested more than"),
            (
                chains.HEAD,
                json.dumps({"format": transcript.FORMAT, "version": transcript.FORMAT_VERSION}).encode(),
                "its entry plan_sha256",
            ),
            (chains.batch_names(1)[1], b"{", "batch 1, cannot be read as a record: it is no JSON"),
            (chains.batch_names(1)[1], b"{}", "batch 1: its record is damaged: its entry batch is missing"),
        ]
    ):
        path = tmp_path / f"{number}.zip"
        with pytest.raises(SuspectError):
            verify(Flaky(surrogate, fail_at=3), path)
        (tmp_path / f"{number}.zip.partial" / name).write_bytes(content)
        with pytest.raises(TranscriptError, match=message):
            verify(Flaky(surrogate), path)


def test_two_tests_do_not_write_into_one_recording(verify, surrogate, tmp_path):
    seen = []

    class Nested(Flaky):
        def predict(self, batch):
            if not seen:
                seen.append(1)
                with pytest.raises(TranscriptError, match="Another process is at work in"):
                    verify(Flaky(surrogate), tmp_path / "bundle.zip")
                seen.append(2)
            return super().predict(batch)

    verify(Nested(surrogate), tmp_path / "bundle.zip")
    assert seen == [1, 2]


def test_a_bundle_that_cannot_be_written_is_refused_before_anything_is_asked(verify, surrogate, tmp_path):
    (tmp_path / "file").write_text("")
    for path, message in (
        (f"{tmp_path}/folder/", "is a folder. Name another file"),
        (tmp_path, "exists; evidence is not|is a folder"),
        (tmp_path / "file" / "bundle.zip", "cannot be written"),
    ):
        suspect = Flaky(surrogate)
        with pytest.raises(ArgumentError, match=message):
            verify(suspect, path)
        assert not suspect.asked


def test_queries_that_are_shuffled_anew_leave_no_transcript_behind(verify, surrogate, digits, tmp_path):
    import tensorflow as tf

    shuffled = tf.data.Dataset.from_tensor_slices(digits.x_test).shuffle(1000, seed=1).batch(64)
    with pytest.raises(ArgumentError, match="gave other inputs when they were read again"):
        verify(surrogate, tmp_path / "bundle.zip", queries=shuffled)
    assert os.listdir(tmp_path) == []


def test_bundles_are_not_overwritten(bundle, verify, surrogate):
    with pytest.raises(ArgumentError, match="exists; evidence is not overwritten"):
        verify(surrogate, bundle)


def test_a_statement_about_another_key_is_refused_before_anything_is_asked(verify, surrogate, tmp_path):
    suspect = Flaky(surrogate)
    with pytest.raises(CommitmentError, match="Use the key that was committed to"):
        verify(suspect, tmp_path / "bundle.zip", statement=commitment.commit(other_key()))
    assert not suspect.asked
    assert os.listdir(tmp_path) == []


def test_a_plan_for_a_table_of_another_release_is_refused(verify, surrogate, tmp_path):
    """Earlier releases gave 1,000 classes 1,000 rows."""
    from dynamarks_tf.case.plan import TestPlan

    content = verify(surrogate, tmp_path / "bundle.zip").plan.to_dict()
    assert TestPlan.from_dict(content, "the plan").table_rows == 10
    for change in ({"num_classes": 1000, "table_rows": 1000, "table_columns": 1000}, {"table_columns": 11}):
        with pytest.raises(FormatError, match=r"The plan was made for a table of .*Use the release that wrote it"):
            TestPlan.from_dict({**content, **change}, "The plan")


def test_a_bundle_says_which_of_the_inputs_were_asked(verify, surrogate, digits, tmp_path):
    verify(surrogate, tmp_path / "all.zip")
    assert recheck.recheck(tmp_path / "all.zip").case.selected is None
    evidence = verify(surrogate, tmp_path / "some.zip", queries=digits.x_test, max_queries=60, include_queries=True)
    selected = recheck.recheck(tmp_path / "some.zip").case.selected
    with Bundle(tmp_path / "some.zip") as opened:
        first = transcript.TranscriptBatch.from_bytes(opened.read(chains.batch_names(0)[0]))
    np.testing.assert_array_equal(first.queries, digits.x_test[selected[:25]])
    for wrong in (selected[:-1], selected[::-1], selected - selected[0] - 1, selected.astype(float)):
        with pytest.raises(BundleError, match="does not hold 60 increasing indices"):
            read_selection(npz(indices=wrong), evidence.plan)


def test_a_statement_that_was_made_after_the_test_was_planned_is_told(bundle, key, tmp_path):
    later = commitment.commit(key, date="2999-01-01").to_bytes()
    rewritten(bundle, tmp_path / "later.zip", key, lambda members: members.__setitem__(bundles.STATEMENT, later))
    told = [
        caveat for caveat in recheck.recheck(tmp_path / "later.zip").caveats if "after the test was planned" in caveat
    ]
    assert len(told) == 1
    assert "is dated 2999-01-01" in told[0]
    assert not any("after the test was planned" in caveat for caveat in recheck.recheck(bundle).caveats)
