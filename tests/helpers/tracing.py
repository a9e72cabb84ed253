"""A log of four clients, two of whom train a surrogate together."""

import numpy as np

import dynamarks_tf as dm
from dynamarks_tf.attacks.extraction import train_classifier
from tests.helpers import small_surrogate

CLIENTS = ("alice", "bob", "carol", "dave")
EACH = 600


def stolen_by_two_clients(path, digits, owner_model, key):
    """Four clients ask mixtures of digits, a quarter of them the same ones; bob and dave train a surrogate together.

    Returns:
        The marked model, the surrogate, and the path of the log, which is written there.
    """
    api = dm.mark(owner_model, key, budget=0.1)
    rng = np.random.default_rng(0)
    count = len(CLIENTS) * EACH
    one, other = rng.permutation(count) % len(digits.x_train), rng.permutation(count) % len(digits.x_train)
    inputs = (0.7 * digits.x_train[one] + 0.3 * digits.x_train[other]).astype(np.float32)
    asked = [inputs[number * EACH : (number + 1) * EACH] for number in range(len(CLIENTS))]
    asked[2] = np.concatenate([asked[0][: EACH // 4], asked[2][EACH // 4 :]])  # carol asks some of alice's again
    np.savez(path, inputs=np.concatenate(asked), client=np.repeat(CLIENTS, EACH), time=np.arange(count) / 10)
    theirs = np.concatenate([asked[1], asked[3]])
    surrogate = train_classifier(small_surrogate(), theirs, api.predict(theirs, verbose=0), epochs=60, batch_size=32)
    return api, surrogate, path
