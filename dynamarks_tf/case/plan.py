"""Everything about a test that is fixed before the suspect is asked, and its digest."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from dynamarks_tf._support import digests
from dynamarks_tf._support.formats import check_format
from dynamarks_tf.case.query_provenance import is_provenance
from dynamarks_tf.errors import ArgumentError, FormatError
from dynamarks_tf.evidence import anytime
from dynamarks_tf.evidence.answer_scale import SCALES
from dynamarks_tf.evidence.exact_tail import TAIL_RULE
from dynamarks_tf.evidence.residual_accumulator import TRANSFORMS, testable_channels
from dynamarks_tf.watermark.keyed_hash import KEYED_HASH, TWO_CLASSES
from dynamarks_tf.watermark.params import MarkParams

FORMAT = "dynamarks-plan"
FORMAT_VERSION = 7
OF_FRESH = ("all", "confident-balanced/1")
OF_DRAWN = "drawn-surest/1"
OF_LOGGED = ("first-meetings/1", "first-ties/1", "fewest/2", "ties-and-sure/2")
_LISTS = ("channels", "code_outside", "looks", "references")
_FIRST_POINT = 10


@dataclasses.dataclass(frozen=True)
class TestPlan:
    """What will be asked and how the answers will be assessed. Its digest in a report shows that nothing was tuned.

    Attributes:
        commitment: commitment to the owner's key.
        owner_model_sha256: digest of the clean owner model, its configuration and weights; the evidence rests on its
            answers as much as on the key.
        owner_file_sha256: digest of the file that it was loaded from, which a published statement may name; `None` if
            from memory.
        from_logits: whether the owner model answers logits.
        suspect_scale: what the numbers of the suspect's answers are read as.
        num_classes: number of classes C.
        activation: what turns the owner's logits into probabilities, `"softmax"` or `"sigmoid"`.
        num_labels: number of labels L, each with an answer of its own; 1 for a softmax.
        bound: whether the tables are those of the key bound to the clean owner model.
        budget: largest total variation of the mark.
        tie_margin: largest |log(p_a / p_b)| of a tie; 0 if the mark leaves ties alone.
        amplitudes: whether the mark varies its strength from input to input.
        table_rows: rows of the class channel's sign table.
        table_columns: columns of that table.
        logged: whether there are queries that clients of the marked API really sent.
        num_fresh: how many of the queries are fresh; these are asked first.
        sequential: whether the evidence is looked at after each batch, and no more is asked once p <= alpha.
        looks: of a sequential test, after how many queries the class channel is looked at.
        labels: whether the suspect was said to answer labels only.
        channels: the channels that will be tested, if the form of the answers lets them be.
        num_queries: how many inputs will be asked.
        queries_sha256: digest of those inputs, in order; of a sequential test, digest of the digests of its blocks.
        selection: how they were chosen from those given.
        max_queries: how many were asked for; `None` for all.
        seed: seed of that choice.
        class_names_sha256: digest of the names that the suspect's answers are read by; `None` if it answers no names.
        align_classes: whether the suspect's order of classes is found from the answers.
        owner_marked: whether the owner model was given with its mark, which tells the settings above; otherwise they
            are the default ones.
        code_outside: names of classes and functions of the owner model and its references whose code no file holds.
        alpha: the accepted chance of a false detection.
        log: which request log, and what was selected from it: `files`, `num_queries`, `clients`, `model`, `versions`;
            `None` if the queries come from none.
        met_before_sha256: of logged queries, digest of the secret signs that count as met before the first is asked:
            all but those that one of these queries met first in the whole log. `None` for fresh ones.
        provenance: who chose the queries, weakest `{"kind": "own"}`; docs/provenance.md.
        parties_sha256: digest of which secret signs count for which client, where clients are told apart.
        client_keys_sha256: digest of clients' names and of the commitments to their keys, where each client has its own
            key.
        references: digests of the owner's reference models, configuration and weights, in their order: models that were
            never marked, whose answers are taken into account beside those of the clean owner model.
        keyed_hash: name and version of the hash that picks an input's secret signs.
        transforms: for each channel, name and version of its residual transform.
        rule: name and version of the rule by which signs are held against residuals.
    """

    __test__ = False  # not a test class, whatever pytest makes of the name

    commitment: str
    owner_model_sha256: str
    owner_file_sha256: str | None
    from_logits: bool
    suspect_scale: str
    num_classes: int
    activation: str
    num_labels: int
    bound: bool
    budget: float
    tie_margin: float
    amplitudes: bool
    table_rows: int
    table_columns: int
    logged: bool
    num_fresh: int
    sequential: bool
    looks: tuple[int, ...]
    labels: bool
    channels: tuple[str, ...]
    num_queries: int
    queries_sha256: str
    selection: str
    max_queries: int | None
    seed: int
    class_names_sha256: str | None
    align_classes: bool
    owner_marked: bool
    code_outside: tuple[str, ...]
    alpha: float
    rule: str
    log: dict[str, Any] | None = None
    met_before_sha256: str | None = None
    parties_sha256: str | None = None
    provenance: dict[str, Any] = dataclasses.field(default_factory=lambda: {"kind": "own"})
    client_keys_sha256: str | None = None
    references: tuple[str, ...] = ()
    keyed_hash: str = KEYED_HASH
    transforms: dict[str, str] = dataclasses.field(default_factory=lambda: dict(TRANSFORMS))

    @property
    def params(self) -> MarkParams:
        """The settings of the mark."""
        return MarkParams(self.budget, self.table_rows, self.table_columns, self.tie_margin, self.amplitudes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        content = {"format": FORMAT, "version": FORMAT_VERSION, **dataclasses.asdict(self)}
        return {**content, **{name: [*content[name]] for name in _LISTS}}

    @classmethod
    def from_dict(cls, content: Any, source: str) -> TestPlan:
        """Reads what `to_dict` wrote.

        Args:
            content: plain values from JSON.
            source: where they come from, for messages.

        Raises:
            FormatError: it is no plan, of another version, or made by methods that this release does not know.
        """
        check_format(content, FORMAT, FORMAT_VERSION, source, "a test plan", schema="plan")
        names = [field.name for field in dataclasses.fields(cls)]
        is_right = {
            "suspect_scale": content["suspect_scale"] in SCALES,
            "selection": content["selection"] in (*OF_FRESH, OF_DRAWN, *OF_LOGGED),
            "provenance": is_provenance(content["provenance"]),
        }
        for name in is_right:
            if not is_right[name]:
                raise FormatError(f"{source} is damaged: its entry {name} is {content[name]!r}.")
        plan = cls(**{**{name: content[name] for name in names}, **{name: tuple(content[name]) for name in _LISTS}})
        is_logged = {plan.logged, plan.met_before_sha256 is not None, plan.selection in OF_LOGGED}
        if len(is_logged) > 1 or ((plan.log or plan.parties_sha256) and not plan.logged):
            raise FormatError(f"{source} is damaged: its entries about logged queries contradict each other.")
        kind = plan.provenance["kind"]
        is_drawn, is_log = {kind == "drawn", plan.selection == OF_DRAWN}, {kind.startswith("log"), plan.log is not None}
        is_both = {kind == "log-and-own", plan.log is not None and plan.num_fresh > 0}
        if len(is_drawn) > 1 or len(is_log) > 1 or len(is_both) > 1:
            raise FormatError(f"{source} is damaged: its entries about where the queries come from do not fit.")
        if plan.client_keys_sha256 and plan.logged:
            raise FormatError(f"{source} is damaged: client keys are tested with fresh queries, and these are logged.")
        fits = plan.num_classes == TWO_CLASSES if plan.activation == "sigmoid" else plan.num_labels == 1
        if not fits:
            raise FormatError(f"{source} is damaged: its numbers of classes and labels do not fit {plan.activation}.")
        if plan.align_classes and plan.activation == "sigmoid":
            raise FormatError(f"{source} is damaged: there is no order of classes to find for sigmoids.")
        numbers_fit = plan.num_fresh < plan.num_queries if plan.logged else plan.num_fresh == plan.num_queries
        is_looked_at = plan.sequential and plan.num_fresh > 0
        looks_fit = [*plan.looks] == sorted({*plan.looks}) and all(look <= plan.num_fresh for look in plan.looks)
        if not numbers_fit or not looks_fit or bool(plan.looks) != is_looked_at:
            raise FormatError(f"{source} is damaged: its numbers of fresh and logged queries and looks do not fit.")
        if len({*plan.references, plan.owner_model_sha256}) <= len(plan.references):
            raise FormatError(f"{source} is damaged: it names a reference model twice, or the owner model as one.")
        if plan.references and (plan.parties_sha256 or plan.client_keys_sha256):
            raise FormatError(f"{source} is damaged: clients are told apart without reference models.")
        if plan.sequential and (plan.align_classes or plan.parties_sha256 or plan.client_keys_sha256):
            raise FormatError(f"{source} is damaged: a sequential test aligns no classes and tells no clients apart.")
        expected = rule_of(logged=plan.logged, sequential=plan.sequential)
        known = {"keyed_hash": KEYED_HASH, "transforms": TRANSFORMS, "rule": expected}
        for name, value in known.items():
            if getattr(plan, name) != value:
                raise FormatError(
                    f"{source} was made with {name} {getattr(plan, name)!r}; this release knows {value!r}. Use the "
                    "release that wrote it."
                )
        try:
            params = plan.params
        except ArgumentError as error:
            raise FormatError(f"{source} is damaged: {error}") from error
        shape = params.table_shape(plan.num_classes)
        if (plan.table_rows, plan.table_columns) != shape:
            raise FormatError(
                f"{source} was made for a table of {plan.table_rows} x {plan.table_columns}; this release gives "
                f"{plan.num_classes} classes one of {shape[0]} x {shape[1]}. Use the release that wrote it."
            )
        form = {"fresh": plan.num_fresh > 0, "logged": plan.logged, "labels": plan.labels}
        if plan.channels != testable_channels(params, plan.num_classes, **form):
            raise FormatError(f"{source} is damaged: its channels {plan.channels} are not those that can be tested.")
        return plan

    @property
    def digest(self) -> str:
        """SHA-256 over the plan, 64 hexadecimal digits."""
        return digests.json_digest(self.to_dict())


def next_point(count: int) -> int:
    """The smallest of 10, 20, 50, 100, 200, 500 ... above `count`."""
    decade = _FIRST_POINT
    while 5 * decade <= count:
        decade *= 10
    return next(factor * decade for factor in (1, 2, 5) if factor * decade > count)


def growth_points(num_queries: int) -> list[int]:
    """After how many of the queries the growth of the evidence is stated: 10, 20, 50, 100 ... and all."""
    points: list[int] = []
    while (count := next_point(points[-1] if points else 0)) < num_queries:
        points.append(count)
    return [*points, num_queries]


def looks_of(num_fresh: int, before: Sequence[int] = ()) -> tuple[int, ...]:
    """After how many fresh queries a sequential test looks at the class channel: 10, 20, 50, 100 ... and all.

    Where a test is extended, its looks stay, and the new end is none: it was chosen after evidence was seen.

    Args:
        num_fresh: how many there will be.
        before: the looks of the test that is extended by this one.
    """
    looks = [look for look in before if look <= num_fresh]
    while (count := next_point(looks[-1] if looks else 0)) <= num_fresh:
        looks.append(count)
    if not before and num_fresh and looks[-1:] != [num_fresh]:
        looks.append(num_fresh)
    return tuple(looks)


def rule_of(*, logged: bool, sequential: bool) -> str:
    """The rule by which signs are held against residuals, which follows from the kind of test alone.

    Args:
        logged: whether there are logged queries: clients may have chosen these by earlier answers.
        sequential: whether the test may stop before all is asked.
    """
    return anytime.RULE if logged or sequential else TAIL_RULE
