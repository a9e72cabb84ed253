"""Which of the logged queries are asked: those that met a hash entry first, and can say something about the suspect.

First meetings are those of the whole log, of all clients, models and versions. Then requests are selected, and of the
queries that are left as few are taken as are wanted. Every step uses clean answers alone: no secret sign, and no answer
of the suspect (docs/assumptions.md).
"""

from __future__ import annotations

import collections
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import progress
from dynamarks_tf.case.query_provenance import LOG, OWN
from dynamarks_tf.errors import ArgumentError, LogError
from dynamarks_tf.evidence.meetings import MetBefore, num_class_cells, num_tie_cells
from dynamarks_tf.evidence.tracing import Exclusive
from dynamarks_tf.request_logs import QueryLog
from dynamarks_tf.request_logs.query_log import SHOWN_CLIENTS, Selection, nothing_found, several_versions
from dynamarks_tf.request_logs.reduced_log import ReducedLog
from dynamarks_tf.request_logs.reduction import MOST_CLIENTS, NO_CLIENT, Origin, Reduction
from dynamarks_tf.suspects import Suspect
from dynamarks_tf.suspects.queries import QuerySource, confident_balanced_choice
from dynamarks_tf.verification.choosing import CheckedQueries, Chosen, digest_of, no_queries
from dynamarks_tf.verification.owner import Owner
from dynamarks_tf.verification.whole_log import marked_of, reduced
from dynamarks_tf.watermark.keyed_hash import TWO_CLASSES, KeyedHash

Array = npt.NDArray[Any]

NAMELESS = "(not recorded)"
GROUP_SIGN = " + "
ALL, TIES, FEWEST, TIES_FIRST = "first-meetings/1", "first-ties/1", "fewest/2", "ties-and-sure/2"
_CONTROLS = 20
SURE = 0.9  # clean probability of the best class from which on one of the first queries is a confident one
_FIRST_QUERIES = 100
_SUREST = 0.6  # from then on a query is if it is surer than this share of those before its block
_ONE_IN = 5


class LoggedQueries:
    """Queries of a reduced log, in its order.

    Args:
        reduction: the log.
        chosen: which of its queries, increasing ints of shape `(n,)`, all of one form.
    """

    def __init__(self, reduction: Reduction, chosen: npt.NDArray[np.int64]) -> None:
        self.reduction = reduction
        self.chosen = chosen

    def batches(self, batch_size: int) -> Iterator[Array]:
        """Yields the inputs."""
        return self.reduction.batches(self.chosen, batch_size)


def choose_logged(
    queries: QuerySource,
    owner: Owner,
    suspect: Suspect,
    keyed_hash: KeyedHash,
    *,
    labels: bool,
    max_queries: int | None,
    seed: int,
    batch_size: int,
    beside_fresh: bool = False,
    groups: Sequence[Sequence[str]] | None = None,
    verbose: bool = False,
) -> Chosen:
    """Fixes which logged queries will be asked, before the suspect answers anything.

    Args:
        queries: a request log, a reduced one, or inputs in the order in which clients sent them.
        owner: the owner's side.
        suspect: the suspect, opened; only the shape of its inputs is looked at.
        keyed_hash: which secret signs an output gets.
        labels: whether the suspect is said to answer labels only.
        max_queries: the largest number of queries; `None` for all that can say something.
        seed: seed of the few other queries that labels are asked with.
        batch_size: how many inputs are read at once.
        beside_fresh: whether fresh queries are asked as well, of which the clean model is sure.
        groups: names of clients to be told apart together, beside each by itself; `None` tells no clients apart.
        verbose: whether to show progress.

    Raises:
        ArgumentError: there are no queries, their shape does not fit the owner model, or a group names no clients of
            the log.
        LogError: the log cannot be read, holds no such request, or several versions answered and none was chosen.
        SuspectError: the suspect takes inputs of another shape.
    """
    log = queries if isinstance(queries, (QueryLog, ReducedLog)) else None
    selection = Selection() if log is None else log.selection
    source = log or CheckedQueries(queries, owner.input_shape, suspect)
    reduction = reduced(source, marked_of(owner, keyed_hash), verbose=verbose)
    if log is not None:
        _check_selection(log, reduction, selection)
    elif not reduction.num_queries:
        raise no_queries()
    choice = LogChoice(reduction, selection, owner.num_classes, owner.num_labels)
    if choice.num_of_other_forms:
        warnings.warn(
            f"{choice.num_of_other_forms} logged queries are not asked: their inputs have another type or shape than "
            "those of the first one.",
            stacklevel=2,
        )
    if labels:
        name, chosen = TIES, choice.first_ties(max_queries)
    elif max_queries is not None:  # however few the log holds: its length may depend on what was answered
        name, num_ties = (TIES_FIRST, 3 * max_queries // 4) if beside_fresh else (FEWEST, max_queries // 2)
        num_ties = num_ties if owner.params.tie_margin else 0
        chosen = choice.fewest(max_queries, num_ties)
    else:
        name, chosen = ALL, choice.all()
    if not len(chosen):
        raise LogError(_nothing_to_ask(choice, reduction, labels=labels))
    progress.note(
        f"the log holds {reduction.num_queries} queries; {len(choice.all())} of those selected met a secret sign "
        f"first, {len(choice.ties)} of these are ties; {len(chosen)} are asked",
        enabled=verbose,
    )
    asked = CheckedQueries(LoggedQueries(reduction, chosen), owner.input_shape, suspect)
    count, digest = digest_of(asked, batch_size)
    scope = None if log is None else _scope(reduction, selection)
    places = (reduction.queries["offset"] + reduction.queries["row"])[chosen] if log is None else None
    parties = None if groups is None else choice.parties(chosen, groups)
    provenance = dict(OWN if log is None else LOG)
    met_before = choice.met_before(chosen)
    return Chosen(asked, name, count, digest, places, None, met_before, scope, parties, provenance=provenance)


def _check_selection(log: QueryLog | ReducedLog, reduction: Reduction, selection: Selection) -> None:
    """Warns of what was left out of the selected requests.

    Raises:
        LogError: none can be used, or several versions answered and none was chosen.
    """
    total = reduction.total()
    selected = {origin: counts for origin, counts in total.items() if selection.takes(origin)}
    of_version = {
        (origin.model, origin.version): counts.requests
        for origin, counts in selected.items()
        if origin.version is not None and counts.requests
    }
    reason = next((part.problem for part in reduction.files if part.problem), "")
    left_out = sum(counts.left_out for counts in selected.values())
    if not any(counts.requests for counts in selected.values()):
        raise nothing_found(
            log.paths,
            selection,
            reason if left_out else "",
            lambda: _counted(reduction, lambda origin: origin.client),
            lambda: _counted(reduction, lambda origin: (origin.model, origin.version), selection),
        )
    models = {model for model, _ in of_version if model is not None}
    if len(models) > 1 or (selection.versions is None and len({version for _, version in of_version}) > 1):
        versions = _counted(reduction, lambda origin: (origin.model, origin.version), selection)
        raise several_versions(log.paths, selection, versions)
    warn = log.warn if isinstance(log, QueryLog) else warnings.warn
    if left_out:
        warn(f"{left_out} logged requests were left out. The first: {reason}")
    unversioned = sum(
        counts.requests
        for origin, counts in total.items()
        if origin.version is None and selection.takes_model(origin) and not selection.takes(origin)
    )
    if unversioned:
        warn(f"{unversioned} logged requests were left out: the version that answered was not recorded.")


def _counted(reduction: Reduction, of: Callable[[Origin], Any], selection: Selection | None = None) -> dict[Any, int]:
    """How many requests of each kind the log holds, of the clients and the model selected."""
    found = collections.Counter[Any]()
    for origin, counts in reduction.total().items():
        if selection is None or selection.takes_model(origin):
            found[of(origin)] += counts.requests
    return dict(found)


def _scope(reduction: Reduction, selection: Selection) -> dict[str, Any]:
    """The log and what was selected from it, as plain values for JSON."""
    return {
        "files": [{"name": part.name, "size": part.size, "sha256": part.sha256} for part in reduction.files],
        "num_queries": reduction.num_queries,
        "clients": None if selection.clients is None else sorted(selection.clients),
        "model": selection.model,
        "versions": None if selection.versions is None else sorted(selection.versions),
    }


def _nothing_to_ask(choice: LogChoice, reduction: Reduction, *, labels: bool) -> str:
    if labels and len(choice.all()):
        return (
            "Labels can be tested by ties only: inputs whose two best classes are nearly equal for the clean model. "
            f"None of the {reduction.num_queries} logged queries that were selected is one, or each had been asked "
            "before. Take a longer log, or put the suspect's probabilities within reach."
        )
    return (
        f"None of the requests that were selected met a secret sign first: of the {reduction.num_queries} logged "
        "queries, others had shown their signs before, so they can say nothing. Select more, or take the whole log."
    )


class LogChoice:
    """What is asked of a log.

    Args:
        reduction: the log.
        selection: which requests are wanted.
        num_classes: number of classes C.
        num_labels: number of labels L.

    Attributes:
        num_of_other_forms: how many queries that are selected cannot be asked with the others: type or shape differ.
    """

    num_of_other_forms = 0

    def __init__(self, reduction: Reduction, selection: Selection, num_classes: int, num_labels: int) -> None:
        self._reduction = reduction
        self._num_classes = num_classes
        self._num_class_cells = num_class_cells(num_classes, num_labels)
        self._num_tie_cells = num_tie_cells(num_classes, num_labels)
        wanted = np.array([selection.takes(origin) for origin in reduction.origins], bool)
        queries = reduction.queries
        selected = np.flatnonzero(wanted[queries["origin"]]) if len(queries) else np.zeros(0, np.int64)
        if len(selected):  # the form of the first: one that later queries could change would depend on their answers
            forms = queries["form"][selected]
            of_form = np.flatnonzero(forms == forms[0])
            self.num_of_other_forms, selected = len(selected) - len(of_form), selected[of_form]
        is_usable = np.zeros(len(queries) + 1, bool)
        is_usable[selected] = True
        query = reduction.query_of_meeting()
        counted = is_usable[query]  # the last one stands for -1
        self._entries, self._query = reduction.meetings["entry"][counted], query[counted]
        self._clients = reduction.meetings["clients"][counted]

    @property
    def ties(self) -> npt.NDArray[np.int64]:
        """The usable queries that are the first of an entry of the tie channel."""
        return np.unique(self._query[self._entries >= self._num_class_cells])

    def all(self) -> npt.NDArray[np.int64]:
        """The usable queries."""
        return np.unique(self._query)

    def first_ties(self, count: int | None) -> npt.NDArray[np.int64]:
        """The first ties: what says most about a suspect that answers labels only.

        With two classes, which class the suspect calls which shows in no tie, nor does it in few ties of more classes.
        Then up to a fifth, at most 20, are others of which the clean model is sure.
        """
        total = len(self.ties) if count is None else count
        if self._num_classes > TWO_CLASSES and min(total, len(self.ties)) >= _ONE_IN * _CONTROLS:
            return self.ties[:total]
        wanted = _CONTROLS if count is None else min(_CONTROLS, count // _ONE_IN)
        controls = self._sure(wanted, np.setdiff1d(self.all(), self.ties), seed=0)
        return np.union1d(self.ties if count is None else self.ties[: count - len(controls)], controls)

    def fewest(self, count: int, num_ties: int) -> npt.NDArray[np.int64]:
        """The first ties, up to a number, and the first others of each class of which the clean model is sure.

        Whether a query is asked follows from it and from those before it. A later one could not displace it: the client
        who sends that may know what this one's answer showed.
        """
        ties = self.ties[:num_ties]
        others = np.setdiff1d(self.all(), ties)
        found = self._reduction.queries[others]
        sure = others[found["confidence"] >= self._limits()[others]]
        classes = self._reduction.queries["best"][sure]
        order = np.argsort(classes, kind="stable")
        rank = np.empty(len(sure), np.int64)
        rank[order] = np.arange(len(sure)) - np.searchsorted(classes[order], classes[order], side="left")
        wanted = count - num_ties
        return np.union1d(ties, sure[rank < -(-wanted // self._num_classes)][:wanted])

    def _limits(self) -> npt.NDArray[np.float64]:
        """How sure the clean model must be of each query of the log, by what came before it; blocks double."""
        confidence = self._reduction.queries["confidence"]
        limits = np.full(len(confidence), SURE)
        start = _FIRST_QUERIES
        while start < len(confidence):
            limits[start : 2 * start] = np.quantile(confidence[:start], _SUREST)
            start *= 2
        return limits

    def _sure(self, count: int, among: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
        if count < 1 or not len(among):
            return among[:0]
        found = self._reduction.queries[among]
        return among[confident_balanced_choice(found["best"], found["confidence"], count, seed)]

    def met_before(self, chosen: npt.NDArray[np.int64]) -> MetBefore:
        """The secret signs that count as met: all but those that one of the chosen queries met first."""
        entries = self._entries[np.isin(self._query, chosen)]
        found = np.ones(self._num_class_cells + self._num_tie_cells, bool)
        found[entries] = False
        return MetBefore(found[: self._num_class_cells], found[self._num_class_cells :])

    def parties(self, chosen: npt.NDArray[np.int64], groups: Sequence[Sequence[str]]) -> list[Exclusive]:
        """The secret signs that each client and each group met alone, and first by one of the chosen queries.

        Args:
            chosen: the queries that are asked.
            groups: names of clients.

        Raises:
            ArgumentError: a group names no two clients of the log.
        """
        counted = np.isin(self._query, chosen)
        entries, clients = self._entries[counted], self._clients[counted]
        names = [NAMELESS if name is None else name for name in self._reduction.clients]
        if len(set(names)) < len(names):
            raise ArgumentError(f"A client is called {NAMELESS!r}, as are requests of which no client was recorded.")
        members = {name: {number} for number, name in enumerate(names)}
        for group in groups:
            missing = [name for name in group if name not in names]
            if missing or len(set(group)) < 2 or len(set(group)) > MOST_CLIENTS:
                known = ", ".join(map(repr, names[:SHOWN_CLIENTS])) + (" ..." if len(names) > SHOWN_CLIENTS else "")
                raise ArgumentError(
                    f"`groups` (--group) takes two to {MOST_CLIENTS} clients of the log each: {known}. "
                    f"Received: {', '.join(map(repr, group))}"
                )
            joined = GROUP_SIGN.join(sorted(set(group)))
            if joined in names:  # it would hide the client
                raise ArgumentError(f"A client is called {joined!a}, as this group would be. Leave the group out.")
            members[joined] = {names.index(name) for name in group}
        found = []
        for name, numbers in members.items():
            are_theirs = np.isin(clients, [*numbers, NO_CLIENT]).all(axis=1)
            found.append(Exclusive(name, entries[are_theirs]))
        return found
