"""The study of rows: each arm marks and is tested with its own table, and the default one is what a mark does."""

import numpy as np
import pytest

pytest.importorskip("PIL", reason="Pillow is in the extra `study`")

from benchmarks.studies import class_rows
from dynamarks_tf.audit.examination import Examiner
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark import codebook
from dynamarks_tf.watermark.params import MarkParams

KEY = MarkKey(bytes(range(32)), "ACME Vision").bind("0" * 64)


@pytest.fixture(scope="module")
def clean():
    logits = 2 * np.random.default_rng(0).standard_normal((2000, 50))
    exponentials = np.exp(logits)
    return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("name", ["50:1", "50:4", "50:50", "50:50t"])
def test_the_answers_of_an_arm_show_its_own_mark(name, clean):
    arm = class_rows.arm(name)
    assert arm.name == name
    examiner = Examiner(KEY, arm, lambda inputs: inputs, (clean, clean.argmax(axis=1)))
    found = examiner.examine(lambda inputs: class_rows.released(inputs, KEY, arm), clean)
    assert found["findings"]["1000 fresh"]["log10_p"] < -6
    assert ("class-choice" in found["findings"]["logged"]["channels"]) == name.endswith("t")
    nothing = examiner.examine(lambda inputs: inputs, clean)
    assert nothing["findings"]["1000 fresh"]["log10_p"] > -3


def test_the_default_arms_are_those_of_a_mark():
    assert [arm.name for arm in class_rows.ARMS if arm.is_default] == ["20:20t", "50:1", "100:1"]
    for name in ("20:20t", "50:1"):
        arm = class_rows.arm(name)
        ours, usual = (codebook.expand(KEY, arm.classes, params) for params in (arm, MarkParams()))
        np.testing.assert_array_equal(ours.class_signs, usual.class_signs)
        assert (ours.target_classes is None) == (usual.target_classes is None)


@pytest.mark.parametrize("name", ["50:51", "50:4t", "30:1", "50:0"])
def test_arms_that_cannot_be_are_refused(name):
    with pytest.raises(ValueError, match=name):
        class_rows.arm(name)
