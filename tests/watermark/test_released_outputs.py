"""What the layer released when `dynamarks-5` was fixed, for 20 settings, is what it releases today.

Layers wrote `table_rows: 1024` into their configuration then. Those of today write `null`.

The file holds inputs and outputs. Its inputs lie away from the steps of the keyed hash, so that another processor's
last bits change nothing. It changes only with the scheme's name: models that are marked already must keep their
answers.
"""

import json

import numpy as np
import pytest
from keras import ops

import dynamarks_tf as dm
from dynamarks_tf.watermark.layer import SCHEME
from tests.helpers import GOLDEN

KEY = dm.MarkKey(bytes(range(32)), "Golden Owner")
RECORDED = np.load(GOLDEN / "released_outputs.npz")
SETTINGS = json.loads(str(RECORDED["settings"]))
TOLERANCE = {"float16": 1e-3, "float32": 2e-6}


@pytest.mark.parametrize("number", range(len(SETTINGS)), ids=lambda number: str(SETTINGS[number]))
def test_the_layer_releases_what_it_released(number):
    assert SCHEME == "dynamarks-5"
    options = {name: value for name, value in SETTINGS[number].items() if name not in ("num_classes", "dtype")}
    inputs, expected = RECORDED[f"{number:02d}.inputs"], RECORDED[f"{number:02d}.released"]
    layer = dm.DynaMarkLayer(KEY, budget=0.05, **({"table_rows": 1024} | options))
    released = ops.convert_to_numpy(layer(ops.convert_to_tensor(inputs), training=False))
    assert released.dtype == expected.dtype
    scale = np.abs(expected).max() if options.get("from_logits") else 1.0
    np.testing.assert_allclose(released, expected, rtol=0, atol=scale * TOLERANCE[str(expected.dtype)])
    assert not np.allclose(expected, inputs, atol=1e-3), "the golden outputs hold no mark"
