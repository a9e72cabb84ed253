"""Evidence bundles that were changed after they were made."""

import zipfile

import dynamarks_tf as dm
from dynamarks_tf.case import bundle as bundles
from dynamarks_tf.keys import commitment


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


def other_key():
    return dm.MarkKey(bytes(range(1, 33)), "ACME Vision")
