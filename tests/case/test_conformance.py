"""The conformance vectors: this package accepts and reports the valid ones, and refuses the others for their defect."""

import hashlib
import json
import shutil
import warnings

import numpy as np
import pytest

from dynamarks_tf import recheck
from dynamarks_tf.cli.main import main
from dynamarks_tf.errors import DynaMarksError
from dynamarks_tf.keys.commitment import Statement
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.keys.timestamp import load_roots
from dynamarks_tf.request_logs import open_log
from tests.helpers import GOLDEN

VECTORS = json.loads((GOLDEN / "vectors.json").read_text())["vectors"]
FOLDERS = ("valid", "invalid")


MESSAGES = {  # what this package says, for each reason in the list
    "secret and owner do not give the commitment": "its secret and owner do not give the commitment",
    "an entry is malformed": "an entry is missing or malformed",
    "an entry is missing": "an entry is missing or malformed|its entries are not|its entry signature is missing",
    "an unknown entry": "its entries are not|it has an unknown entry",
    "unknown version": "of version (3|9|99|True); this release reads",
    "not a key file": "is not a key file",
    "not a statement": "is not a commitment statement",
    "no JSON": "does not hold JSON|holds no JSON|Cannot read a commitment|it is no JSON|is nested more than",
    "encrypted, and no passphrase is given": "is encrypted. Give its passphrase",
    "another passphrase, or altered": "the passphrase is another, or the file was altered",
    "scrypt's n is at most 2^18": "n from 2.14 to 2.18",
    "scrypt's n is at least 2^14": "n from 2.14 to 2.18",
    "only scrypt": "is not one of scrypt",
    "the nonce has 12 bytes": "is not one of scrypt",
    "altered after it was signed": "was altered after it was signed",
    "pool below twice the draw": "A pool must hold at least twice",
    "roots are given, no timestamp": "the statement has no timestamp|no statement that a timestamp could be of",
    "the timestamp is about another statement": "a timestamp of something else than the statement",
    "no timestamp": "is not a timestamp",
    "the timestamp's signature does not lead to the roots": "not signed by an authority that the given roots trust",
    "a timestamp, no statement": "no statement that a timestamp could be of",
    "no request log": "There is no request in|cannot be read: it is not UTF-8",
    "no line holds inputs": 'it has no "inputs"',
    "no TFRecord file": "offset 0: it is corrupt",
    "log10 p does not follow from table and T": "log10 p .*is stated as -99 and comes out as",
    "T is no signed sum of residuals": "it is no sum of residuals that are whole multiples of",
    "T is beyond its largest value": "it lies beyond its largest possible value",
    "entries contradict each other": "its entries contradict each other",
    "this kind of test has no e-value": "it states an e-value, which a test of its plan does not have",
    "fidelity does not follow from the answers": "fidelity is stated as 0.5 and comes out as 1",
    "warnings do not follow from the answers": "warnings is stated as .* and comes out as",
    "number of signs does not follow from the answers": "num_cells of the class channel is stated as 7",
    "evidence and transcript name different suspects": "the evidence names another suspect than the plan",
    "evidence.json is missing": "has no member evidence.json",
    "residuals.npz is missing": "has no member residuals.npz",
    "the plan's digest does not fit": "the evidence is not about the plan that was fixed beforehand",
    "alpha lies between 0 and 1": "its entry (plan.)?alpha is 2.0",
    "the budget is at most 0.5": "`budget` is the largest total variation",
    "a number is a text": "its entry (plan.)?num_queries is '30'",
    "a number is out of its range": "its entry (plan.)?num_classes is 10",
    "channels are not those that can be tested": "are not those that can be tested",
    "unknown rule": "was made with rule 'best-of-three/1'",
    "30 answers, 50 were planned": "answers to 30 queries; the plan was to ask 50",
    "15 answers, 30 were planned": "answers to 15 queries; the plan was to ask 30",
    "stopped before p <= alpha": "answers to 20 queries; the plan was to ask 30",
    "times do not increase": "it was asked or answered before what precedes it",
    "the digest of a batch does not fit": "batch 1: its answers were changed",
    "the table does not follow from the answers": "the table of the class channel does not follow from the answers",
    "clean answers do not add up to 1": "they sum to between 2 and 2 instead of 1",
    "answers do not fit the plan": "the clean answers are float32 of shape",
    "the chain is broken": "its record does not follow from the one before",
    "arrays are missing": "does not hold row_of_class",
    "statement and plan are about different keys": "is about another key than the plan",
    "the plan names another model file": "The statement is about a model file with SHA-256",
    "with the key, T comes out otherwise": "T of the class channel is stated as .* and comes out as",
    "with the key, the keyed hash comes out otherwise": "its keyed hash is not the one that the key gives",
    "queries are not those of the plan": "its queries are not those that were asked",
    "signed with another key": "was signed with another key than the one given",
    "the manifest's signature does not fit": "the signature of the manifest does not fit",
    "manifest and plan name different commitments": "plan and manifest name different commitments",
    "a member's digest does not fit": "the member evidence.json was changed",
    "the file's digest does not fit": "was changed outside of its members",
    "with the key, the code of a record does not fit": "was not written with this key",
    "a member of JSON stands twice": "it holds the member .* twice",
    "a name with controls": "its entry suspect is",
    "a number that JSON has not": "NaN, which is no number",
    "an entry is of another type": "its entry owner is ",
    "no bundle": "is not an evidence bundle|cannot be read as an evidence bundle",
    "a member is missing": "residuals.npz is missing",
    "a member was added": "more.json was added",
    "a member stands twice": "holds a member twice",
    "members are not compressed": "is compressed; those of such a file are not",
}


def vectors(*kinds, folder):
    chosen = [one for one in VECTORS if one["kind"] in kinds and one["name"].startswith(f"{folder}/")]
    return pytest.mark.parametrize("vector", chosen, ids=lambda vector: vector["name"].partition("/")[2])


def found_in(vector):
    """What this package makes of a file, in the words of the list."""
    path, given = GOLDEN / vector["name"], vector["given"]
    roots = load_roots(GOLDEN / given["timestamp_roots"]) if "timestamp_roots" in given else None
    if vector["kind"] == "key":
        key = MarkKey.from_json(path.read_bytes(), path.name, passphrase=given.get("passphrase"))
        return {"owner": key.owner, "commitment": key.commitment}
    if vector["kind"] == "statement":
        statement = Statement.load(path)
        date = statement.proven_date(roots)
        return {**statement.to_dict(), "existed_at": date and date.is_verified and date.moment}
    if vector["kind"] == "log":
        queries = np.concatenate([*open_log(path).batches(3)])
        return {"queries": len(queries), "sha256": hashlib.sha256(queries.astype("<f4").tobytes()).hexdigest()}
    key = MarkKey.from_json((GOLDEN / given["key"]).read_bytes(), "key") if "key" in given else None
    result = recheck.recheck(path, key=key, timestamp_roots=roots)
    evidence, date = result.evidence, result.case.statement_date
    return {
        "detected": evidence.detected(),
        "log10_p": evidence.log10_p,
        "num_queries": evidence.num_queries,
        "fidelity": evidence.fidelity,
        "channels": [channel.channel for channel in evidence.channels],
        "plan_sha256": evidence.plan.digest,
        "with_key": result.with_key,
        "existed_at": date and date.is_verified and date.moment,
    }


@vectors("bundle", "statement", "key", "log", folder="valid")
def test_valid_files_are_accepted_and_reported(vector):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a log that is cut off
        found = found_in(vector)
    assert {name: found[name] for name in vector["expected"]} == vector["expected"]


@vectors("bundle", "statement", "key", "log", folder="invalid")
def test_invalid_files_are_refused_for_their_defect(vector):
    with pytest.raises(DynaMarksError, match=MESSAGES[vector["expected"]["refused"]]):
        found_in(vector)


def arguments(vector, folder):
    """Options of `check` and of `python -m dynamarks_tf.recheck`; the key has the mode that git does not keep."""
    options = []
    if "key" in vector["given"]:
        key = shutil.copy(GOLDEN / vector["given"]["key"], folder / "acme.key")
        (folder / "acme.key").chmod(0o600)
        options += ["--key", str(key)]
    if "timestamp_roots" in vector["given"]:
        options += ["--timestamp-roots", str(GOLDEN / vector["given"]["timestamp_roots"])]
    return [str(GOLDEN / vector["name"]), *options]


@pytest.mark.parametrize("folder", FOLDERS)
def test_both_commands_accept_and_refuse_the_same_bundles(folder, tmp_path, capsys):
    chosen = [one for one in VECTORS if one["kind"] == "bundle" and one["name"].startswith(f"{folder}/")]
    code = {"valid": 0, "invalid": 2}[folder]
    for vector in chosen if folder == "valid" else chosen[::3]:
        given = arguments(vector, tmp_path)
        assert (main(["check", *given]), recheck.main(given)) == (code, code), vector["name"]
    told = capsys.readouterr()
    assert (told.out.count("MARK FOUND") + told.out.count("mark not found") == 2 * len(chosen)) == (folder == "valid")


def test_every_file_is_in_the_list_and_all_are_small():
    named = {one["name"] for one in VECTORS} | {one["given"].get("key") for one in VECTORS} - {None}
    assert {one["expected"]["refused"] for one in VECTORS if "refused" in one["expected"]} == MESSAGES.keys()
    there = [path for part in FOLDERS for path in (GOLDEN / part).iterdir()]
    sidecars = {f"{name}.tsr" for name in named}
    assert {path.relative_to(GOLDEN).as_posix() for path in there} - sidecars == named
    assert sum(path.stat().st_size for path in there) < 1_000_000
