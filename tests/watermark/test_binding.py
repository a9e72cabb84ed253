"""The key is bound to the clean model: another model, another mark."""

import json

import keras
import numpy as np
import pytest

import dynamarks_tf as dm
from dynamarks_tf.errors import ArgumentError, ModelError
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.verification.owner import resolve_owner
from dynamarks_tf.watermark import codebook, marking
from dynamarks_tf.watermark.model_digest import model_sha256
from tests.helpers import reference

SECRET, OWNER = bytes(range(32)), "ACME Vision"
KEY = MarkKey(SECRET, OWNER)


def classifier(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, activation="softmax")])


def test_a_bound_key_expands_as_docs_key_format_says():
    digest = "ab" * 32
    salt = b"dynamarks-tf/v1/model\0" + len(OWNER).to_bytes(4, "big") + OWNER.encode() + bytes.fromhex(digest)
    expected = reference.chacha20_keystream(
        reference.hkdf_sha256(SECRET, reference.sha256(salt), b"dynamarks-tf/v1/tie-code/signs/10x4096", 32), 64
    )
    assert KEY.bind(digest).derive("tie-code/signs/10x4096", 64) == expected
    assert KEY.derive("tie-code/signs/10x4096", 64) != expected


@pytest.mark.parametrize("digest", ["", "ab" * 31, "AB" * 32, None])
def test_a_key_is_bound_to_digests_only(digest):
    with pytest.raises(ArgumentError, match="64 hexadecimal digits"):
        KEY.bind(digest)


def test_mark_binds_and_publishes_the_digest_but_nothing_secret(tmp_path):
    model = classifier()
    marked = dm.mark(model, KEY)
    layer = marking.find_mark(marked)
    assert layer.model_sha256 == model_sha256(model)
    assert layer.model_sha256 in json.dumps(layer.get_config())
    assert layer.was_made_with(KEY)
    marked.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert marking.find_mark(loaded).was_made_with(KEY)
    assert resolve_owner(loaded, KEY).bound


def test_a_doctored_model_gets_other_signs_in_half_of_the_places():
    """Two tables of fair signs agree in half of their cells: 20,480 cells, six deviations of 72."""
    model = classifier()
    doctored = keras.models.clone_model(model)
    doctored.set_weights([weight + 1e-6 for weight in model.get_weights()])
    books = [codebook.expand(KEY.bind(model_sha256(one)), 5, dm.MarkParams()) for one in (model, doctored)]
    agreeing = np.count_nonzero(books[0].amplitude_signs == books[1].amplitude_signs)
    assert abs(agreeing - 5 * 4096 / 2) < 6 * 72


def test_who_trains_a_marked_model_further_is_told_to_mark_anew():
    marked = dm.mark(classifier(), KEY)
    kernel = marked.layers[0].kernel
    kernel.assign(kernel + 0.01)
    with pytest.raises(ModelError, match=r"no longer the one that its key is bound to.*dm\.mark\(dm\.strip"):
        resolve_owner(marked, KEY)
    assert resolve_owner(dm.mark(dm.strip(marked), KEY), KEY).bound


def test_a_layer_without_a_digest_is_unbound():
    model = classifier()
    marked = keras.Sequential([*model.layers, dm.DynaMarkLayer(KEY)])
    marked.build((None, 4))
    assert not resolve_owner(marked, KEY).bound


def test_results_say_that_a_key_is_unbound_and_that_settings_were_assumed():
    model, x = classifier(), np.random.default_rng(1).normal(size=(40, 4)).astype("float32")
    by_hand = keras.Sequential([*model.layers, dm.DynaMarkLayer(KEY)])
    by_hand.build((None, 4))
    said = {
        name: " ".join(dm.verify(model, owner=owner, key=KEY, queries=x).warnings)
        for name, owner in (("marked", dm.mark(model, KEY)), ("by hand", by_hand), ("clean", model))
    }
    assert ("not bound" in said["by hand"], "given without its mark" in said["by hand"]) == (True, False)
    assert ("not bound" in said["clean"], "given without its mark" in said["clean"]) == (False, True)
    assert "bound" not in said["marked"]
    assert "given without its mark" not in said["marked"]
