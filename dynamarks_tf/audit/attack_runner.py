"""Runs scenarios: an attack on the marked model, a removal attack on the surrogate, then the tests of `verify`."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import keras
import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import progress
from dynamarks_tf._support.input_kind import Kind, input_kind
from dynamarks_tf.attacks.architectures import MAIN, new_model
from dynamarks_tf.attacks.attacker import Attacker, TransferSet
from dynamarks_tf.attacks.batches import batches
from dynamarks_tf.attacks.catalogue import EXTRACTIONS, REMOVALS
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.attacks.trees import TreeSurrogate
from dynamarks_tf.audit.examination import Examiner
from dynamarks_tf.audit.results import Results
from dynamarks_tf.audit.scenario import Scenario, check_feasible
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.suspects import as_suspect
from dynamarks_tf.verification.provenance import package_versions
from dynamarks_tf.watermark import marking, metrics
from dynamarks_tf.watermark.model_digest import model_sha256
from dynamarks_tf.watermark.params import MarkParams
from dynamarks_tf.watermark.probabilities import softmax

Array = npt.NDArray[Any]

BATCH_SIZE = 128  # inputs in one step of training
PILOT_EPOCHS = 3
_BATCH = 500
_TIMED_STEPS = 8


def audit_key(seed: int, which: int = 0) -> MarkKey:
    """A key for audits, which anyone can derive. It is not secret; never mark a real model with it."""
    words = f"dynamarks rehearsal, seed {seed}, key {which}"  # other words would be another key, and other figures
    return MarkKey(hashlib.sha256(words.encode()).digest(), "Rehearsal")


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """What an `AttackRunner` is made of.

    Attributes:
        owner: the clean model.
        rival: another model, or `None`.
        options: the other arguments.
    """

    owner: keras.Model
    rival: keras.Model | None
    options: dict[str, Any]


class Jobs(Protocol):
    """Runs groups of scenarios elsewhere; `audit.parallel.Processes` does."""

    def map(self, recipe: Recipe, groups: Sequence[Sequence[Scenario]]) -> Iterator[list[dict[str, Any]]]:
        """Yields the rows of each group, in the order of the groups."""
        ...


class AttackRunner:
    """Runs attacks on one model.

    Args:
        owner: the clean model.
        pool: inputs that the attacker sends, shape `(n, ...)`.
        pool_labels: their true class indices, shape `(n,)`, for an independent model trained on them; or `None`.
        labeled: inputs with true class indices, on which the attacker fine-tunes.
        fresh: inputs with true class indices, for fresh queries and for the accuracy.
        other_domain: inputs of another domain in the owner's shape, or `None`.
        rival: another model for the same classes, or `None`.
        from_logits: whether the owner model answers with logits.
        seed: seed of keys, weights and choices.
        epochs: passes over the transfer set.
        batch_size: inputs in one step of training.
        verbose: whether to show progress.
    """

    def __init__(
        self,
        owner: keras.Model,
        *,
        pool: Array,
        pool_labels: Array | None,
        labeled: tuple[Array, Array],
        fresh: tuple[Array, Array],
        other_domain: Array | None = None,
        rival: keras.Model | None = None,
        from_logits: bool = False,
        seed: int = 0,
        epochs: int = 10,
        batch_size: int = BATCH_SIZE,
        verbose: bool = False,
    ) -> None:
        self._owner, self._model_sha256 = owner, model_sha256(owner)
        self._clean = _probabilities(owner, from_logits)
        self._from_logits = from_logits
        self._pool, self._pool_labels = pool, pool_labels
        self._labeled, self._fresh = labeled, fresh
        self._other_domain = other_domain
        self._rival = None if rival is None else _probabilities(rival, from_logits=False)
        self._seed, self._epochs, self._batch_size, self._verbose = seed, epochs, batch_size, verbose
        self._num_classes = int(owner.outputs[0].shape[-1])
        self._last: tuple[MarkParams, Examiner, Attacker] | None = None
        self._made_by = Recipe(
            owner,
            rival,
            dict(
                pool=pool,
                pool_labels=pool_labels,
                labeled=labeled,
                fresh=fresh,
                other_domain=other_domain,
                from_logits=from_logits,
                seed=seed,
                epochs=epochs,
                batch_size=batch_size,
            ),
        )

    @property
    def kind(self) -> Kind:
        """What the inputs are: images, vectors or text."""
        return input_kind(self._pool)

    @property
    def available(self) -> tuple[str, ...]:
        """The attacker's means beyond the API, by name."""
        named = {"pool_labels": self._pool_labels, "other_domain": self._other_domain, "rival": self._rival}
        return ("second_client", *(name for name, value in named.items() if value is not None))

    def estimated_seconds(self, scenarios: Sequence[Scenario]) -> float:
        """Estimated time to train all surrogates, from a few timed steps of each architecture."""
        trained = {scenario.surrogate: scenario.architecture for scenario in scenarios}
        per_step = {name: self._seconds_per_step(name) for name in sorted(set(trained.values()))}
        steps = self._epochs * -(-len(self._pool) // self._batch_size)
        return sum(per_step[name] for name in trained.values()) * steps

    def run(self, scenarios: Sequence[Scenario], results: Results, *, jobs: Jobs | None = None) -> None:
        """Runs the scenarios that the results lack, and adds their rows.

        Args:
            scenarios: in the order of running. Scenarios with the same surrogate share its training.
            results: receives a row for each scenario, and one for the cost of each setting of the mark.
            jobs: runs surrogates in processes of their own; `None` runs one after the other in this one. The rows are
                the same.

        Raises:
            ArgumentError: the attacker lacks something that a scenario needs.
        """
        check_feasible(scenarios, self.available, self.kind)
        waiting = [scenario for scenario in scenarios if not results.has(**scenario.to_dict())]
        with progress.Meter("running attacks", len(waiting), enabled=self._verbose, unit="scenarios") as meter:
            for params, same in itertools.groupby(waiting, key=lambda scenario: scenario.params):
                for row in self._with_mark(params, list(same), results, jobs):
                    results.add(row, package_versions())
                    if "extraction" in row:
                        meter.advance()

    def _with_mark(
        self, params: MarkParams, scenarios: list[Scenario], results: Results, jobs: Jobs | None
    ) -> Iterator[dict[str, Any]]:
        """The rows of all scenarios with one setting of the mark."""
        setting = {"budget": params.budget, "tie_margin": params.tie_margin}
        if not results.has(kind="cost", **setting):
            yield {"kind": "cost", **setting, **self._cost(self._api(audit_key(self._seed), params))}
        groups: dict[tuple[Any, ...], list[Scenario]] = {}
        for scenario in scenarios:
            groups.setdefault(scenario.surrogate, []).append(scenario)
        same = list(groups.values())
        for rows in map(self.with_surrogate, same) if jobs is None else jobs.map(self._made_by, same):
            yield from rows

    def with_surrogate(self, scenarios: Sequence[Scenario]) -> Iterator[dict[str, Any]]:
        """The rows of scenarios that share their surrogate."""
        start = time.monotonic()
        params = scenarios[0].params
        examiner, attacker = self.sides(params)
        surrogate, transfer_set = self.stolen(scenarios[0])
        for scenario in scenarios:
            keras.utils.set_random_seed(self._seed)
            suspect = as_suspect(REMOVALS[scenario.removal].apply(surrogate, transfer_set, attacker))
            found = examiner.examine(_in_batches(suspect.predict), transfer_set.sent)
            seconds = round(time.monotonic() - start, 1)
            kind = "independent" if scenario.is_independent else "theft"
            yield {"kind": kind, **scenario.to_dict(), **found, "seconds": seconds}
            start = time.monotonic()

    def stolen(self, scenario: Scenario) -> tuple[Any, TransferSet]:
        """The surrogate of a scenario before any removal attack, and what it was trained on."""
        _, attacker = self.sides(scenario.params)
        keras.utils.set_random_seed(self._seed)
        transfer_set = self._transfer_set(scenario, attacker, scenario.params)
        return self.trained(scenario, transfer_set), transfer_set

    def sides(self, params: MarkParams) -> tuple[Examiner, Attacker]:
        """The owner's and the attacker's side with one setting of the mark; those of the last one are kept."""
        if self._last is None or self._last[0] != params:
            key = audit_key(self._seed)
            examiner = Examiner(key.bind(self._model_sha256), params, self._clean, self._fresh, seed=self._seed)
            self._last = params, examiner, self._attacker(self._api(key, params), params)
        return self._last[1:]

    def _api(self, key: MarkKey, params: MarkParams) -> Callable[[Array], Array]:
        marked = marking.mark(
            self._owner, key, params.budget, tie_margin=params.tie_margin, from_logits=self._from_logits
        )
        return _probabilities(marked, self._from_logits)

    def _attacker(self, api: Callable[[Array], Array], params: MarkParams) -> Attacker:
        return Attacker(
            api,
            self._pool,
            self._labeled,
            pilot=self._pilot,
            other_domain=self._other_domain,
            rival=self._rival,
            second_client=lambda inputs: self._api(audit_key(self._seed, 2), params)(inputs),
            epochs=self._epochs,
            batch_size=self._batch_size,
            seed=self._seed,
        )

    def _pilot(self, inputs: Array, targets: Array) -> keras.Model:
        return train_classifier(
            self._new_model(MAIN[self.kind], inputs), inputs, targets, epochs=PILOT_EPOCHS, batch_size=self._batch_size
        )

    def _transfer_set(self, scenario: Scenario, attacker: Attacker, params: MarkParams) -> TransferSet:
        if not scenario.is_independent:
            return EXTRACTIONS[scenario.extraction].gather(attacker)
        if scenario.extraction == "true labels":
            assert self._pool_labels is not None
            return TransferSet(self._pool, self._pool_labels, self._pool)
        if scenario.extraction == "another key":
            return TransferSet(self._pool, self._api(audit_key(self._seed, 1), params)(self._pool), self._pool)
        return TransferSet(self._pool, self._clean(self._pool), self._pool)

    def trained(self, scenario: Scenario, transfer_set: TransferSet) -> Any:
        """A surrogate, trained on a transfer set as the scenario says."""
        options, epochs = {}, self._epochs
        if not scenario.is_independent:
            extraction = EXTRACTIONS[scenario.extraction]
            options, epochs = dict(extraction.training), max(1, round(self._epochs * extraction.passes))
        keras.utils.set_random_seed(self._seed)  # so that an attacker's own model can begin with the same weights
        model = self._new_model(scenario.architecture, transfer_set.inputs)
        if isinstance(model, TreeSurrogate):
            return model.fit(transfer_set.inputs, transfer_set.targets)
        return train_classifier(
            model,
            transfer_set.inputs,
            transfer_set.targets,
            epochs=epochs,
            batch_size=self._batch_size,
            **options,
        )

    def _new_model(self, architecture: str, inputs: Array) -> Any:
        return new_model(architecture, inputs, self._num_classes)

    def _cost(self, api: Callable[[Array], Array]) -> dict[str, Any]:
        inputs, labels = self._fresh
        return {"cost": metrics.mark_cost(self._clean(inputs), api(inputs), labels).to_dict()}

    def _seconds_per_step(self, architecture: str) -> float:
        inputs = self._pool[: _TIMED_STEPS * self._batch_size]
        model = self._new_model(architecture, inputs)
        if isinstance(model, TreeSurrogate):
            return 0.0  # trees take no steps, and little time beside the networks
        targets = self._clean(inputs)
        train_classifier(model, inputs, targets, epochs=1, batch_size=self._batch_size)  # the first steps compile
        start = time.monotonic()
        model.fit(batches(inputs, targets, batch_size=self._batch_size, shuffled=True), verbose=0, shuffle=False)
        return (time.monotonic() - start) / -(-len(inputs) // self._batch_size)


def _probabilities(model: keras.Model, from_logits: bool) -> Callable[[Array], Array]:
    """A model as a function from any number of inputs to probabilities."""
    predict = _in_batches(as_suspect(model).predict)
    return (lambda inputs: softmax(predict(inputs))) if from_logits else predict


def _in_batches(predict: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def whole(inputs: Array) -> Array:
        parts = [predict(inputs[start : start + _BATCH]) for start in range(0, len(inputs), _BATCH)]
        return np.concatenate(parts)

    return whole
