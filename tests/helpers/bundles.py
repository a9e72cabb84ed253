"""Evidence bundles that were changed after they were made."""

import dataclasses
import hashlib
import io
import itertools
import json
import zipfile

import numpy as np

import dynamarks_tf as dm
from dynamarks_tf._support.digests import json_digest
from dynamarks_tf.case import bundle as bundles
from dynamarks_tf.case import transcript_chain as chains
from dynamarks_tf.case.members import read_residuals
from dynamarks_tf.evidence.channels import evidence_of_stated
from dynamarks_tf.evidence.residuals import Residuals
from dynamarks_tf.keys import commitment
from dynamarks_tf.keys.seal import Seal


def rewritten(source, target, key, change, *, sign=True, claims=None):
    """Writes a bundle anew with changed members; a forger without the key cannot sign it."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if name != bundles.MANIFEST}
    change(members)
    bundles.write_bundle(
        target,
        members,
        (),
        commitment=claims or key.commitment,
        public_key=commitment.public_key(key),
        sign=(lambda data: commitment.sign(data, key)) if sign else (lambda data: commitment.sign(data, other_key())),
    )


def rechain(members, key):
    """Makes the chain of batches, and its codes, fit their content, as an owner can."""
    seal = Seal(key)
    head = json.loads(members[chains.HEAD])
    head["mac"] = seal(json_digest({entry: value for entry, value in head.items() if entry != "mac"}))
    members[chains.HEAD] = json.dumps(head).encode()
    chain = hashlib.sha256(members[chains.HEAD]).hexdigest()
    for index in itertools.count():
        answers, name = chains.batch_names(index)
        if name not in members:
            return
        record = json.loads(members[name])
        record["previous"] = chain
        record["answers_sha256"] = hashlib.sha256(members[answers]).hexdigest()
        record["chain"] = chain = json_digest(
            {entry: value for entry, value in record.items() if entry not in ("chain", "mac")}
        )
        record["mac"] = seal(chain)
        members[name] = json.dumps(record).encode()


def other_key():
    return dm.MarkKey(bytes(range(1, 33)), "ACME Vision")


def npz(**arrays):
    """A member that holds arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def state_the_largest_statistic(members):
    """Changes the evidence of a bundle whose only channel is that of 10 classes: T is as if every sign agreed."""
    state_a_statistic(members, lambda channel: channel.largest_possible)


def state_a_statistic(members, statistic, num_classes=10):
    """The same with a T of the forger's choice; the p-value is made to fit."""
    evidence = dm.VerificationResult.from_dict(json.loads(members[bundles.EVIDENCE]), bundles.EVIDENCE)
    (channel,) = evidence.channels
    table = read_residuals(members[bundles.RESIDUALS], {"class": (num_classes, num_classes)})["class"]
    residuals = Residuals(table, channel.num_queries, channel.num_cells, channel.slope)
    stated = statistic(channel)
    nearest = evidence_of_stated("class", min(stated, channel.largest_possible), residuals, tolerance=1)
    forged = dataclasses.replace(nearest, statistic=stated)
    growth = (*evidence.growth[:-1], dataclasses.replace(evidence.growth[-1], log10_p=forged.log10_p))
    forged = dataclasses.replace(evidence, channels=(forged,), log10_p=forged.log10_p, growth=growth)
    members[bundles.EVIDENCE] = json.dumps(forged.to_dict()).encode()
