"""The attacks by name: extractions, which steal a model, and removal attacks on the surrogate.

`dynamarks audit` and the robustness study choose from `EXTRACTIONS` and `REMOVALS`. An extraction turns an `Attacker`
into a `TransferSet`; a removal attack turns a surrogate into a suspect. The modules imported here hold the mathematics
and name its sources.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from dynamarks_tf._support.input_kind import KINDS, Kind
from dynamarks_tf.attacks import post_processing, query_sets, scheme_aware
from dynamarks_tf.attacks.architectures import MAIN, SECOND, new_model
from dynamarks_tf.attacks.attacker import Api, Array, Attacker, TransferSet
from dynamarks_tf.attacks.batches import as_batch, predicted
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.attacks.quantization import QuantizedModel
from dynamarks_tf.attacks.removal import (
    add_weight_noise,
    average_weights,
    copied,
    distill,
    fine_tune,
    prune,
    replace_head,
)
from dynamarks_tf.errors import ArgumentError

PostProcessing = Callable[[Array], Array]

TIE_GAP = 0.12  # a budget of 0.05 can turn ties up to 0.1; an attacker who drops ties drops a little more
_PILOT_SHARE = 0.2
_ROUNDS = 4  # of generated inputs, the first of them random
_GENERATED = 10_000
_OWN_PASSES = 3  # of a model on the few true labels, in proportion to a surrogate's


@dataclasses.dataclass(frozen=True)
class Extraction:
    """One way to steal a model.

    Attributes:
        gather: queries the API, and makes a transfer set of the answers.
        description: one line about it.
        training: further arguments of `train_classifier`.
        needs: names of the attacker's attributes that must not be `None`.
        num_queries: number of inputs that the attacker's pool must hold.
        kinds: the kinds of inputs that it makes sense for.
        passes: how often the surrogate sees the transfer set, in proportion to other extractions.
    """

    gather: Callable[[Attacker], TransferSet]
    description: str
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    needs: tuple[str, ...] = ()
    num_queries: int = 1
    kinds: tuple[Kind, ...] = KINDS
    passes: float = 1.0


@dataclasses.dataclass(frozen=True)
class Removal:
    """One way to remove a mark from a surrogate.

    Attributes:
        apply: makes a suspect of the surrogate: a Keras model, or a function from inputs to probabilities. The
            surrogate itself is not changed.
        description: one line about it.
        needs: as for `Extraction`.
        kinds: as for `Extraction`.
        takes_trees: whether the surrogate may be any function, as decision trees are, and not only a Keras model.
    """

    apply: Callable[[keras.Model, TransferSet, Attacker], Any]
    description: str
    needs: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = KINDS
    takes_trees: bool = False


def _from_pool(post_process: PostProcessing, attacker: Attacker) -> TransferSet:
    return TransferSet(attacker.pool, post_process(attacker.answers), attacker.pool)


def _few(count: int, attacker: Attacker) -> TransferSet:
    _check_pool(attacker, count)
    chosen = query_sets.in_distribution(attacker.pool, count, attacker.seed)
    return _part_of_pool(chosen, attacker)


def _uncertain(predicted: Array, sent: Array, count: int) -> Array:
    return query_sets.most_uncertain(predicted, count)


def _chosen_by_pilot(choose: Callable[[Array, Array, int], Array], count: int, attacker: Attacker) -> TransferSet:
    """A few inputs by lot; the rest are chosen by what a pilot that learned from these answers predicts."""
    _check_pool(attacker, count)
    first = query_sets.in_distribution(attacker.pool, int(count * _PILOT_SHARE), attacker.seed)
    pilot = attacker.pilot(attacker.pool[first], attacker.answers[first])
    rest = np.setdiff1d(np.arange(len(attacker.pool)), first)
    others, sent = (predicted(pilot, attacker.pool[part]) for part in (rest, first))
    chosen = np.concatenate([first, rest[choose(others, sent, count - len(first))]])
    return _part_of_pool(chosen, attacker)


def _generated(attacker: Attacker) -> TransferSet:
    rng = np.random.default_rng(attacker.seed)
    like = attacker.pool[: -(-min(len(attacker.pool), _GENERATED) // _ROUNDS)]
    inputs = query_sets.random_inputs(like, rng)
    answers = np.asarray(attacker.api(inputs))
    for _ in range(_ROUNDS - 1):
        pilot = attacker.pilot(inputs, answers)
        made = query_sets.between_classes(pilot, query_sets.random_inputs(like, rng), rng)
        inputs, answers = np.concatenate([inputs, made]), np.concatenate([answers, np.asarray(attacker.api(made))])
    return TransferSet(inputs, answers, inputs)


def _without_signs(attacker: Attacker) -> TransferSet:
    own = attacker.pilot(attacker.pool, post_processing.labels_only(attacker.answers))
    targets = scheme_aware.without_signs(attacker.answers, predicted(own, attacker.pool))
    return TransferSet(attacker.pool, targets, attacker.pool)


def _without_signs_and_ties(attacker: Attacker) -> TransferSet:
    kept, cleaned = post_processing.far_from_ties(attacker.answers, TIE_GAP), _without_signs(attacker)
    return TransferSet(cleaned.inputs[kept], cleaned.targets[kept], attacker.pool)


def _two_clients(pool_answers: Callable[[Array, Array], Array], attacker: Attacker) -> TransferSet:
    second: Api | None = attacker.second_client
    assert second is not None
    return TransferSet(attacker.pool, pool_answers(attacker.answers, np.asarray(second(attacker.pool))), attacker.pool)


def _averaged(answers: Array, others: Array) -> Array:
    return np.asarray((answers + others) / 2, answers.dtype)


def _half_each(answers: Array, others: Array) -> Array:
    return np.concatenate([answers[: len(answers) // 2], others[len(answers) // 2 :]])


def _among_true_labels(count: int, attacker: Attacker) -> TransferSet:
    stolen = _few(count, attacker)
    inputs, labels = attacker.labeled
    true = np.eye(stolen.targets.shape[1], dtype=stolen.targets.dtype)[labels]
    return TransferSet(np.concatenate([inputs, stolen.inputs]), np.concatenate([true, stolen.targets]), stolen.sent)


def _part_of_pool(chosen: Array, attacker: Attacker) -> TransferSet:
    return TransferSet(attacker.pool[chosen], attacker.answers[chosen], attacker.pool[chosen])


def _check_pool(attacker: Attacker, count: int) -> None:
    if len(attacker.pool) < count:
        raise ArgumentError(
            f"The attacker would send {count:,} inputs and has {len(attacker.pool):,}. Leave this extraction out."
        )


def _other_domain(attacker: Attacker) -> TransferSet:
    inputs = attacker.other_domain
    assert inputs is not None
    return TransferSet(inputs, np.asarray(attacker.api(inputs)), inputs)


def _copies(attacker: Attacker) -> TransferSet:
    answers, sent = query_sets.averaged_over_copies(attacker.api, attacker.pool, copies=5, seed=attacker.seed)
    return TransferSet(attacker.pool, answers, sent)


def _made(make: Callable[[Array, np.random.Generator], Array], attacker: Attacker) -> TransferSet:
    inputs = make(attacker.pool, np.random.default_rng(attacker.seed))
    return TransferSet(inputs, np.asarray(attacker.api(inputs)), inputs)


def _two_apis(attacker: Attacker) -> TransferSet:
    rival: Api | None = attacker.rival
    assert rival is not None
    return TransferSet(attacker.pool, _averaged(attacker.answers, rival(attacker.pool)), attacker.pool)


def _without_ties(post_process: PostProcessing, attacker: Attacker) -> TransferSet:
    kept = post_processing.far_from_ties(attacker.answers, TIE_GAP)
    return TransferSet(attacker.pool[kept], post_process(attacker.answers[kept]), attacker.pool)


def _as_is(answers: Array) -> Array:
    return answers


_one_decimal = partial(post_processing.rounded, decimals=1)
_two_decimals = partial(post_processing.rounded, decimals=2)
_top_3 = partial(post_processing.top_k, k=3)
_top_2 = partial(post_processing.top_k, k=2)

EXTRACTIONS: Mapping[str, Extraction] = MappingProxyType(
    {
        # The answers of the API, whole or in part.
        "full": Extraction(partial(_from_pool, _as_is), "all probabilities in float32"),
        "2 decimals": Extraction(partial(_from_pool, _two_decimals), "rounded to 2 decimals"),
        "1 decimal": Extraction(partial(_from_pool, _one_decimal), "rounded to 1 decimal"),
        "top 3": Extraction(partial(_from_pool, _top_3), "the three largest probabilities"),
        "top 2": Extraction(partial(_from_pool, _top_2), "the two largest probabilities"),
        "top 1": Extraction(
            partial(_from_pool, post_processing.flatten_tails),
            "the best class and its probability; the rest is spread evenly",
        ),
        "labels": Extraction(partial(_from_pool, post_processing.labels_only), "the best class alone"),
        # Evidence from labels is what the surrogate remembers of ties (docs/settings.md).
        "labels, few passes": Extraction(
            partial(_from_pool, post_processing.labels_only), "labels; a third of the training", passes=1 / 3
        ),
        "labels, many passes": Extraction(
            partial(_from_pool, post_processing.labels_only), "labels; three times the training", passes=3
        ),
        "sharpened": Extraction(
            partial(_from_pool, post_processing.sharpened), "probabilities sharpened, temperature 0.5"
        ),
        "smoothed": Extraction(partial(_from_pool, post_processing.smoothed), "probabilities with label smoothing 0.1"),
        "early stopping": Extraction(
            partial(_from_pool, _as_is), "all probabilities; training stops early", {"early_stopping": True}
        ),
        # An attacker who knows the scheme, but not the key.
        "floor subtracted": Extraction(
            partial(_from_pool, post_processing.subtract_class_floor),
            "less the part that each class nearly always gets",
        ),
        "tails whitened": Extraction(
            partial(_from_pool, post_processing.whiten_tails), "the same mean and deviation for all classes' logarithms"
        ),
        "signs subtracted": Extraction(
            _without_signs, "class signs are estimated from all answers, and the raised class is taken back"
        ),
        "signs subtracted, no ties": Extraction(
            _without_signs_and_ties, "as signs subtracted; answers near a tie are dropped"
        ),
        "top 1, no ties": Extraction(
            partial(_without_ties, post_processing.flatten_tails), "as top 1; answers near a tie are dropped"
        ),
        "top 2, no ties": Extraction(partial(_without_ties, _top_2), "as top 2; answers near a tie are dropped"),
        "1 decimal, no ties": Extraction(
            partial(_without_ties, _one_decimal), "as 1 decimal; answers near a tie are dropped"
        ),
        "labels, no ties": Extraction(
            partial(_without_ties, post_processing.labels_only), "as labels; answers near a tie are dropped"
        ),
        "5 copies averaged": Extraction(_copies, "answers averaged over 5 perturbed copies of each input"),
        "two APIs averaged": Extraction(_two_apis, "answers averaged with a rival API's", needs=("rival",)),
        # Two clients of one owner, whose keys differ, pool what they are answered.
        "two clients averaged": Extraction(
            partial(_two_clients, _averaged), "two clients' answers to each input averaged", needs=("second_client",)
        ),
        "two clients, half each": Extraction(
            partial(_two_clients, _half_each),
            "half of the inputs sent by each of two clients",
            needs=("second_client",),
        ),
        "two clients, smallest": Extraction(
            partial(_two_clients, post_processing.smallest),
            "the smaller of two clients' probabilities for each class",
            needs=("second_client",),
        ),
        # Other queries.
        "1,000 queries": Extraction(partial(_few, 1000), "all probabilities of 1,000 inputs", num_queries=1000),
        "5,000 queries": Extraction(partial(_few, 5000), "all probabilities of 5,000 inputs", num_queries=5000),
        "5,000 uncertain": Extraction(
            partial(_chosen_by_pilot, _uncertain, 5000),
            "all probabilities of 1,000 inputs and the 4,000 of which a pilot is least certain",
            num_queries=5000,
        ),
        "5,000 k-center": Extraction(
            partial(_chosen_by_pilot, query_sets.k_centers, 5000),
            "all probabilities of 1,000 inputs and the 4,000 that a pilot answers most unlike the others",
            num_queries=5000,
        ),
        "1,000 among true labels": Extraction(
            partial(_among_true_labels, 1000),
            "all probabilities of 1,000 inputs beside the attacker's own true labels, as a forger plants a mark",
            num_queries=1000,
        ),
        "other domain": Extraction(
            _other_domain, "all probabilities of inputs of another domain (knockoff)", needs=("other_domain",)
        ),
        # An attacker without data.
        "random inputs": Extraction(
            partial(_made, query_sets.random_inputs),
            "all probabilities of even noise in the range of the inputs (data-free)",
            kinds=("images", "vectors"),
        ),
        "generated inputs": Extraction(
            _generated,
            "all probabilities of up to 10,000 inputs, made from noise so that a pilot wavers (data-free)",
            kinds=("images", "vectors"),
        ),
        # Other queries, made from the attacker's inputs.
        "rows noised": Extraction(
            partial(_made, query_sets.noised), "noise of 0.3 of each column's deviation", kinds=("vectors",)
        ),
        "columns permuted": Extraction(
            partial(_made, query_sets.permuted), "rows of values that were drawn column by column", kinds=("vectors",)
        ),
        "rows mixed": Extraction(partial(_made, query_sets.mixed), "mixtures of two rows each", kinds=("vectors",)),
        "words shuffled": Extraction(
            partial(_made, query_sets.shuffled_words), "the words of each text in random order", kinds=("text",)
        ),
        "words cropped": Extraction(partial(_made, query_sets.cropped_words), "half of each text", kinds=("text",)),
    }
)


def _none(model: keras.Model, transfer_set: TransferSet, attacker: Attacker) -> Any:
    return model


def _tuned(model: keras.Model, transfer_set: TransferSet, attacker: Attacker, *, share: int = 1, **options: Any) -> Any:
    inputs, labels = attacker.labeled
    count = -(-len(inputs) // share)
    return fine_tune(copied(model), inputs[:count], labels[:count], batch_size=attacker.batch_size, **options)


def _pruned(
    model: keras.Model, transfer_set: TransferSet, attacker: Attacker, *, share: float, tuned: bool = False
) -> Any:
    pruned = prune(copied(model), share)
    return _tuned(pruned, transfer_set, attacker) if tuned else pruned


def _noisy(model: keras.Model, transfer_set: TransferSet, attacker: Attacker, *, strength: float) -> Any:
    return add_weight_noise(copied(model), strength, seed=attacker.seed)


def _quantized(model: keras.Model, transfer_set: TransferSet, attacker: Attacker, *, kind: str) -> Any:
    return QuantizedModel(model, kind, representative=transfer_set.inputs)


def _distilled(model: keras.Model, transfer_set: TransferSet, attacker: Attacker, *, labels: bool) -> Any:
    student = new_model(SECOND[attacker.kind], transfer_set.inputs, model.outputs[0].shape[-1])
    return distill(
        student, model, transfer_set.inputs, labels=labels, epochs=attacker.epochs, batch_size=attacker.batch_size
    )


def _new_head(model: keras.Model, transfer_set: TransferSet, attacker: Attacker) -> Any:
    return replace_head(copied(model), *attacker.labeled, seed=attacker.seed, batch_size=attacker.batch_size)


def _answers(model: Any, inputs: Array) -> Array:
    """A surrogate's probabilities, of a Keras model or of a function."""
    if isinstance(model, keras.Model):
        return np.asarray(model(as_batch(inputs), training=False))
    return np.asarray(model(inputs))


def _with_rival(model: keras.Model, transfer_set: TransferSet, attacker: Attacker) -> Any:
    rival: Any = attacker.rival
    return lambda inputs: _averaged(_answers(model, inputs), rival(inputs))


def own_model(transfer_set: TransferSet, attacker: Attacker, architecture: str, num_classes: int) -> keras.Model:
    """A model that the attacker trains on the few true labels; a surrogate of this architecture began with its weights.

    Args:
        transfer_set: that of the surrogate, whose inputs give a vocabulary or scale.
        attacker: the attacker.
        architecture: a name for `new_model`.
        num_classes: number of classes.
    """
    keras.utils.set_random_seed(attacker.seed)
    model = new_model(architecture, transfer_set.inputs, num_classes)
    epochs = _OWN_PASSES * attacker.epochs
    return train_classifier(model, *attacker.labeled, epochs=epochs, batch_size=attacker.batch_size)


def _with_independent(model: Any, transfer_set: TransferSet, attacker: Attacker) -> Any:
    architecture = model.name if isinstance(model, keras.Model) else MAIN[attacker.kind]
    own = own_model(transfer_set, attacker, architecture, attacker.answers.shape[1])
    return lambda inputs: _averaged(_answers(model, inputs), _answers(own, inputs))


def _merged(model: keras.Model, transfer_set: TransferSet, attacker: Attacker) -> Any:
    own = own_model(transfer_set, attacker, model.name, model.outputs[0].shape[-1])
    return average_weights(copied(model), own, transfer_set.inputs)


def _contrasted(model: keras.Model, transfer_set: TransferSet, attacker: Attacker, *, amount: float) -> Any:
    weaker = _tuned(model, transfer_set, attacker)
    return lambda inputs: post_processing.contrasted(_answers(model, inputs), _answers(weaker, inputs), amount)


def _post_processed(
    post_process: PostProcessing, model: keras.Model, transfer_set: TransferSet, attacker: Attacker
) -> Any:
    def answer(inputs: Array) -> Array:
        return post_process(_answers(model, inputs))

    return answer


_LITE: tuple[Kind, ...] = ("images", "vectors")  # TensorFlow Lite has no words of text
_LAYERS = {"all": "every layer", "last": "the last layer"}
_SHARES = {1: ("", "all"), 3: (", a third", "a third of the")}
_RATES = {1e-3: ("", "full rate"), 1e-4: (", low rate", "a tenth of the rate")}
_FINE_TUNINGS = {
    f"fine-tune {layers}{few}{slow}": Removal(
        partial(_tuned, layers=layers, share=share, learning_rate=rate),
        f"{_LAYERS[layers]}, {labels} true labels, 5 epochs, {speed}",
    )
    for layers in _LAYERS
    for share, (few, labels) in _SHARES.items()
    for rate, (slow, speed) in _RATES.items()
}

REMOVALS: Mapping[str, Removal] = MappingProxyType(
    {
        "none": Removal(_none, "the surrogate as it was trained", takes_trees=True),
        **_FINE_TUNINGS,
        "new head": Removal(_new_head, "a new last layer, trained on all true labels"),
        "prune 30 %": Removal(partial(_pruned, share=0.3), "the smallest 30 % of each kernel's weights set to zero"),
        "prune 60 %": Removal(partial(_pruned, share=0.6), "the smallest 60 %"),
        "prune 80 %": Removal(partial(_pruned, share=0.8), "the smallest 80 %"),
        "prune 60 %, fine-tune all": Removal(partial(_pruned, share=0.6, tuned=True), "pruned, then fine-tuned"),
        "noise 10 %": Removal(partial(_noisy, strength=0.1), "noise of a tenth of each kernel's deviation"),
        "float16": Removal(partial(_quantized, kind="float16"), "TensorFlow Lite with float16 weights", kinds=_LITE),
        "int8": Removal(partial(_quantized, kind="int8"), "TensorFlow Lite in eight bits", kinds=_LITE),
        "distil, probabilities": Removal(
            partial(_distilled, labels=False), "a second surrogate learns the probabilities of the first"
        ),
        "distil, labels": Removal(
            partial(_distilled, labels=True), "a second surrogate learns the labels of the first"
        ),
        "mean with rival": Removal(
            _with_rival, "answers averaged with another owner's model", needs=("rival",), takes_trees=True
        ),
        "mean with independent": Removal(
            _with_independent, "answers averaged with a model trained on the attacker's true labels", takes_trees=True
        ),
        "weights averaged": Removal(
            _merged, "weights averaged with those of a model trained on true labels from the same initial weights"
        ),
        "contrasted": Removal(
            partial(_contrasted, amount=1.0),
            "log-probabilities extrapolated past the surrogate fine-tuned on all layers",
        ),
        "amplified": Removal(
            partial(_contrasted, amount=-2.0), "extrapolated the other way, as a forger does: the mark is amplified"
        ),
        "sells top 1": Removal(
            partial(_post_processed, post_processing.flatten_tails),
            "the best class and its probability; the rest is spread evenly",
            takes_trees=True,
        ),
        "sells sharpened": Removal(
            partial(_post_processed, post_processing.sharpened), "answers sharpened, temperature 0.5", takes_trees=True
        ),
        "sells 2 decimals": Removal(
            partial(_post_processed, _two_decimals), "answers rounded to 2 decimals", takes_trees=True
        ),
    }
)


def applicable(catalogue: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """The attacks of `EXTRACTIONS` or `REMOVALS` that make sense for a kind of inputs."""
    return {name: attack for name, attack in catalogue.items() if kind in attack.kinds}


def by_name(catalogue: Mapping[str, Any], name: str, kind: str) -> Any:
    """Looks up an attack or an architecture.

    Args:
        catalogue: `EXTRACTIONS`, `REMOVALS` or `ARCHITECTURES`.
        name: a key of it.
        kind: noun for the entries, for the message.

    Raises:
        ArgumentError: the name is unknown; the message lists the known ones.
    """
    if name not in catalogue:
        raise ArgumentError(f"There is no {kind} called {name!r}. There are: {'; '.join(catalogue)}.")
    return catalogue[name]
