"""The mark as pure functions over `keras.ops`: from a clean output to the released one, on every Keras backend.

`mark_probabilities` is the whole formula, in the order of docs/scheme.md; `mark_logits` is the same for logits. Words:
`p` is a clean probability vector over C classes, `top` its best class t, the *favored set* holds the classes c != t
with secret sign +1 in the row of t, and U is uniform over it, or over its one *target class*. The class channel
releases

    p' = p + a (U - p),    0 <= a <= max_shift,

with `a`, the mixing weight, as large as keeps t on top. Hence p' >= 0, sum p' = sum p, and the total variation between
p and p' is a TV(U, p) <= max_shift. The amplitude channel lets a secret sign choose `max_shift` for each input: 0, or
all of the budget. The tie channel lets a secret sign choose the winner where the two best classes are nearly equal,
within the same budget, before the class channel. Source: the scheme of this project, after the idea of DynaMarks (arXiv
2207.13321); its paper's text was not available, so the formulas are ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from dynamarks_tf.watermark import keyed_hash, lookups
from dynamarks_tf.watermark.lookups import Found
from dynamarks_tf.watermark.ops import (
    add_at,
    all_but,
    choose,
    first_largest,
    first_largest_logit,
    largest,
    look_up,
    two_largest,
    zero_or_nan,
)
from dynamarks_tf.watermark.params import MarkParams

Tensor = Any
Tables = Mapping[str, Tensor]

# Machine epsilon of what an output is rounded to, and the smallest step of what cannot be smaller.
_EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
_SMALLEST_STEP = {"float16": 2.0**-24}
_ARITHMETIC_SLACK = 8
_SORTED_CLASSES = 32  # beyond, two passes for the largest value are faster than one that keeps two
_CLASSES_IN_BLOCKS = 256  # from which on it is faster to look for the two largest in two blocks of classes
_TRACE = 1e-30  # of each class in a sum of one of them: nothing, unless it is NaN or infinite
_TIE_SLACK = 8  # leads that a tie is narrower than its limit, so that the winner is ahead by half as many


def mark_probabilities(p: Tensor, tables: Tables, params: MarkParams) -> Tensor:
    """Marks a batch of probability vectors: p -> p'.

    Args:
        p: clean probabilities, shape `(..., C)`, float16, bfloat16, float32 or float64.
        tables: the layer's tables, as `lookups.tables_from` makes them from a codebook for C classes and `params`.
        params: settings of the mark.

    Returns:
        p', shape and type of `p`. NaN in rows that hold a NaN or an infinity.

    Raises:
        ValueError: `p` is of another type.

    Example:

    >>> tables = lookups.tables_from(codebook.expand(key, 10, params), params)
    >>> marked = mark_probabilities(p, tables, params)
    """
    released_type = keras.backend.standardize_dtype(p.dtype)
    p = ops.cast(p, arithmetic_dtype(released_type))
    best = best_two(p)
    secret = find_secret(p, best, tables, params)
    tie = decide_tie(best, secret, params, released_type)
    p, best = after_tie(p, best, tie, secret)
    favored = favored_set(best, tie, secret, tables, params)
    max_shift = largest_shift(tie, secret, favored, params)
    has_lead = ties_keep_a_lead(params, released_type)
    if favored.is_single and has_lead:
        marked = shift_to_target(p, favored, max_shift, released_type)
    else:
        a = mixing_weight(p, best, favored, max_shift, released_type, has_lead=has_lead) + zero_or_nan(p)
        marked = p * (1.0 - a) + favored.classes * (a * favored.target_weight)  # p + a (U - p)
    return ops.cast(marked, released_type)


def mark_logits(logits: Tensor, tables: Tables, params: MarkParams) -> Tensor:
    """Marks a batch of logits: the same as `mark_probabilities` of their softmax.

    Relative to the top class, a class outside the favored set keeps its logit exactly, so ties and order survive.

    Args:
        logits: shape `(..., C)`, float16, bfloat16, float32 or float64. A class may have -inf: p = 0.
        tables: as for `mark_probabilities`.
        params: settings of the mark.

    Returns:
        Logits z' with softmax(z') = p', shape and type of `logits`, shifted so that the best class is at 0. NaN in
        rows that hold a NaN or an infinity.

    Raises:
        ValueError: `logits` are of another type.
    """
    released_type = keras.backend.standardize_dtype(logits.dtype)
    logits = ops.cast(logits, arithmetic_dtype(released_type))
    relative = logits - largest(logits)
    p = ops.softmax(relative, axis=-1)
    clean_best = best_two(p, relative)
    secret = find_secret(p, clean_best, tables, params)
    tie = decide_tie(clean_best, secret, params, released_type)
    p, best = after_tie(p, clean_best, tie, secret)
    favored = favored_set(best, tie, secret, tables, params)
    max_shift = largest_shift(tie, secret, favored, params)
    if tie is not None:
        relative = logits_after_tie(relative, p, clean_best, best, tie, secret)
    a = mixing_weight(p, best, favored, max_shift, released_type) + zero_or_nan(p)
    return ops.cast(shift_logits(relative, p, best, favored, a), released_type)


def mark_scores(scores: Tensor, tables: Tables, params: MarkParams, *, from_logits: bool = False) -> Tensor:
    """Marks a batch of sigmoid scores: each is the answer (1 - s, s) about a label, marked on its own.

    Args:
        scores: s, shape `(..., L)`, or their logits; types as for `mark_probabilities`.
        tables: the layer's tables for two classes and L labels.
        params: settings of the mark. The budget is that of each label.
        from_logits: whether `scores` are logits; the result is then too.

    Returns:
        Scores (or logits), shape and type of `scores`. NaN where a score is NaN or infinite.
    """
    if not from_logits:
        return mark_probabilities(ops.stack([1.0 - scores, scores], axis=-1), tables, params)[..., 1]
    marked = mark_logits(ops.stack([ops.zeros_like(scores), scores], axis=-1), tables, params)
    return marked[..., 1] - marked[..., 0]


class BestTwo(NamedTuple):
    """The two best classes of a batch.

    Attributes:
        classes: best class, the first among ties, and best class but one, int32 of shape `(..., 2)`.
        p_top: probability of the best class, shape `(..., 1)`.
        p_second: probability of the best class but one.
    """

    classes: Tensor
    p_top: Tensor
    p_second: Tensor

    @property
    def top(self) -> Tensor:
        """Best class, shape `(...)`."""
        return self.classes[..., 0]


def best_two(p: Tensor, logits: Tensor | None = None) -> BestTwo:
    """The best class and the best but one.

    Args:
        p: probabilities, shape `(..., C)`.
        logits: their logits, if those decide which class is best; different logits may have equal probabilities.
    """
    num_classes, is_tensorflow = p.shape[-1], keras.backend.backend() == "tensorflow"
    if is_tensorflow and num_classes <= _SORTED_CLASSES:
        values, classes = ops.top_k(p, 2)
        if logits is not None:
            first, second = ops.split(classes, 2, axis=-1)
            top = ops.top_k(logits, 1)[1]
            classes = ops.concatenate([top, ops.where(ops.equal(first, top), second, first)], axis=-1)
        return BestTwo(classes, *ops.split(values, 2, axis=-1))
    if is_tensorflow and num_classes >= _CLASSES_IN_BLOCKS and logits is None:
        values, classes = two_largest(p)
        return BestTwo(classes, *ops.split(values, 2, axis=-1))
    top = first_largest(p) if logits is None else first_largest_logit(logits)
    others = p * all_but(top, num_classes, p.dtype)
    classes = ops.stack([top, first_largest(others)], axis=-1)
    return BestTwo(classes, largest(p), largest(others))


def find_secret(p: Tensor, best: BestTwo, tables: Tables, params: MarkParams) -> Found | None:
    """What the key says about each output: the secret signs, and the target classes, at the entries of its hash.

    Args:
        p: probabilities, shape `(..., C)`.
        best: their two best classes.
        tables: the layer's tables.
        params: settings of the mark.

    Returns:
        What was found; `None` if the mark has neither amplitudes nor ties, and so looks nothing up by a hash.
    """
    if not (params.amplitudes or params.tie_margin):
        return None
    if p.shape[-1] == keyed_hash.TWO_CLASSES:
        return lookups.find_of_two(best.classes, p, tables, params)
    hashed = look_up(p, tables["hashed_classes"], axis=-1) if "hashed_classes" in tables else p
    offsets, multipliers = (ops.cast(tables[name], p.dtype) for name in ("offsets", "multipliers"))
    halves = keyed_hash.hash_halves(hashed, offsets, multipliers, keyed_hash.steps_per_unit(p.shape[-1]), ops)
    return lookups.find(best.classes, halves, p.shape[-1], tables, params)


class Tie(NamedTuple):
    """What the tie channel does to a batch, shape `(..., 1)` each.

    Attributes:
        shift: probability that moves from the second best class to the best one; 0 in rows that are no tie.
        moved: total variation that it takes.
        is_tie: whether the row is one.
        second_wins: whether the second best class is the best one afterwards.
    """

    shift: Tensor
    moved: Tensor
    is_tie: Tensor
    second_wins: Tensor


def decide_tie(best: BestTwo, secret: Found | None, params: MarkParams, released_type: str) -> Tie | None:
    """The tie channel: lets a secret sign decide which of the two best classes wins where they are nearly equal.

    A row is a tie if |log(p_t / p_b)| < margin and p_t - p_b < 2 budget, for its best class t and the next one b; that
    is, if the gap d = p_t - p_b is below g = min((p_t + p_b) tanh(margin / 2), 2 budget). The class that the sign names
    gets ahead: where its gap is x (d or -d, in (-g, g)), it becomes (x + g) / 2, in (0, g). Gaps that are spread evenly
    over (-g, g) are spread evenly over (0, g) afterwards: the size of a gap tells nobody whether the sign decided. The
    total variation is (g - x) / 4 < g / 2 <= budget.

    Args:
        best: the two best classes.
        secret: what was looked up.
        params: settings of the mark.
        released_type: the type that the output will be rounded to.

    Returns:
        What happens to each row; `None` if the mark leaves ties alone.
    """
    if secret is None or not params.tie_margin:
        return None
    sign = secret.order * secret.values["tie"]  # +1 where the best class wins, -1 where the other does
    gap = best.p_top - best.p_second
    limit = ops.minimum((best.p_top + best.p_second) * math.tanh(params.tie_margin / 2), 2 * params.budget)
    is_tie = gap < limit - _TIE_SLACK * safe_lead(best.p_top, released_type)
    moved = ops.cast(is_tie, gap.dtype) * ((limit - sign * gap) / 4)
    shift = sign * moved
    return Tie(shift, moved, is_tie, second_wins=shift < 0)


def after_tie(p: Tensor, best: BestTwo, tie: Tie | None, secret: Found | None) -> tuple[Tensor, BestTwo]:
    """Probabilities and the two best classes after the tie channel."""
    if tie is None or secret is None:
        return p, best
    one, other = best.p_top + tie.shift, best.p_second - tie.shift
    classes = ops.where(tie.second_wins, ops.flip(best.classes, axis=-1), best.classes)
    if secret.direction is None:
        p = add_at(p, best.classes, ops.concatenate([tie.shift, -tie.shift], axis=-1))
    else:
        p = p + tie.shift * secret.direction
    return p, BestTwo(classes, ops.maximum(one, other), ops.minimum(one, other))


class Favored(NamedTuple):
    """Which classes an output is moved towards: the distribution U.

    Attributes:
        classes: 1 at the classes of U, 0 elsewhere; shape `(..., C)`.
        target_weight: probability of one of them under U, above 0; a number, or a tensor of shape `(..., 1)`.
        is_any: 1 where there is such a class, else 0, shape `(..., 1)`; `None` if that is so everywhere.
        is_single: whether U is a single class in every row, the target class.
    """

    classes: Tensor
    target_weight: float | Tensor
    is_any: Tensor | None
    is_single: bool


def favored_set(best: BestTwo, tie: Tie | None, secret: Found | None, tables: Tables, params: MarkParams) -> Favored:
    """The class-choice channel: U is the one target class that the hash picks; with many classes, all favored ones.

    Args:
        best: the two best classes after the tie channel.
        tie: what the tie channel did.
        secret: what was looked up.
        tables: the layer's tables.
        params: settings of the mark.
    """
    num_classes, dtype = tables["favored_counts"].shape[0], best.p_top.dtype
    if secret is not None and "target" in secret.values:
        target = secret.values["target"]
        if tie is not None:
            target = choose(tie.second_wins, secret.values["target of second"], target)
        numbers = np.arange(num_classes, dtype=keras.backend.standardize_dtype(dtype))
        return Favored(ops.cast(ops.equal(target, numbers), dtype), 1.0, None, is_single=True)
    favored = ops.maximum(ops.cast(tables["class_signs"], dtype), 0.0)
    if "row_of_class" in tables:
        favored = _classes_beside(best.top, favored, tables) * all_but(best.top, num_classes, dtype)
    else:
        favored = look_up(favored, best.top)  # the diagonal is 0
    counts = ops.cast(ops.expand_dims(look_up(tables["favored_counts"], best.top), axis=-1), dtype)
    is_any = ops.minimum(ops.maximum(counts, 0.0), 1.0)
    return Favored(favored, is_any / ops.maximum(counts, 1.0), is_any, is_single=False)


def _classes_beside(top: Tensor, favored: Tensor, tables: Tables) -> Tensor:
    """The row of `top` in the table of favored classes; of shape `(C,)` if all classes share it, else `(..., C)`."""
    row = favored[0] if favored.shape[0] == 1 else look_up(favored, look_up(tables["row_of_class"], top))
    return look_up(row, tables["column_of_class"], axis=-1) if "column_of_class" in tables else row


def largest_shift(tie: Tie | None, secret: Found | None, favored: Favored, params: MarkParams) -> float | Tensor:
    """The amplitude channel: `max_shift` is nothing where the sign is -1, all that is left of the budget where +1.

    Returns:
        The largest total variation that the class channel may cause, a number or a tensor of shape `(..., 1)`.
    """
    left: float | Tensor = params.budget if tie is None else params.budget - tie.moved
    if secret is not None and "amplitude" in secret.values:
        left = ops.maximum(secret.values["amplitude"], 0.0) * left
    return left if favored.is_any is None else left * favored.is_any


def mixing_weight(
    p: Tensor,
    best: BestTwo,
    favored: Favored,
    max_shift: float | Tensor,
    released_type: str,
    *,
    has_lead: bool = False,
) -> Tensor:
    """How far each row may move towards U: `a` = the largest value up to `max_shift` that keeps the top class on top.

    With the gap g = p_t - max p_c over favored c, the new gap is g - a (g + target_weight), so
    a <= (g - lead) / (g + target_weight). Other classes shrink in step with the top class; only if the runner-up is
    nearer than the safe lead could rounding make it a tie, so such a row is left alone.

    Args:
        p: probabilities, shape `(..., C)`.
        best: their two best classes.
        favored: U.
        max_shift: largest total variation, a number or a tensor of shape `(..., 1)`.
        released_type: the type that p' will be rounded to.
        has_lead: whether every runner-up is known to be further behind; see `ties_keep_a_lead`.

    Returns:
        `a`, shape `(..., 1)`.
    """
    lead = safe_lead(best.p_top, released_type)
    gap = best.p_top - largest(p * favored.classes)
    allowed = ops.maximum(gap - lead, 0.0) / (gap + favored.target_weight)
    if has_lead:
        return ops.minimum(allowed, max_shift)
    moves = ops.cast(lead < best.p_top - best.p_second, lead.dtype)  # to multiply is faster than `where`
    return moves * ops.minimum(allowed, max_shift)


def shift_to_target(p: Tensor, favored: Favored, max_shift: float | Tensor, released_type: str) -> Tensor:
    """p + a (U - p) with U a single class: the same bound on `a` as `mixing_weight`, in fewer operations.

    With twice the safe lead kept back, `a` may be room / (room + 1) for the room that is left: the lead that remains
    is at least the safe one. It takes a runner-up further behind than that for granted; see `ties_keep_a_lead`.

    Args:
        p: probabilities, shape `(..., C)`.
        favored: U. The best class itself is left alone.
        max_shift: largest total variation, a number or a tensor of shape `(..., 1)`.
        released_type: the type that p' will be rounded to.

    Returns:
        p', shape and type of `p`. NaN in rows that hold a NaN or an infinity, which spoils the sum and the quotient,
        whatever maxima and minima make of it.
    """
    p_top = largest(p)
    p_target = ops.sum(p * (favored.classes + _TRACE), axis=-1, keepdims=True)  # compilers would not multiply by 0
    room = (p_top - 2 * safe_lead(p_top, released_type)) - p_target
    reach = room + 1.0
    a = ops.minimum(ops.maximum(room, 0.0), max_shift * reach) / reach
    return p + a * (favored.classes - p)


def shift_logits(relative: Tensor, p: Tensor, best: BestTwo, favored: Favored, a: Tensor) -> Tensor:
    """log(p + a (U - p)) up to a constant per row, chosen so that the top class is at 0.

    Args:
        relative: logits relative to the top class, shape `(..., C)`.
        p: their softmax.
        best: their two best classes.
        favored: U.
        a: the mixing weight, shape `(..., 1)`; NaN in rows that hold a NaN or an infinity.
    """
    raised = (p * (1.0 - a) + a * favored.target_weight) / (best.p_top * (1.0 - a))
    is_raised = favored.classes * a > 0
    result = ops.where(is_raised, ops.log(ops.where(is_raised, raised, 1.0)), relative)
    return ops.where(ops.isfinite(a), result, np.nan)


def logits_after_tie(
    relative: Tensor, p: Tensor, clean_best: BestTwo, best: BestTwo, tie: Tie, secret: Found | None
) -> Tensor:
    """The tie channel on logits: relative to the class that is on top afterwards, which is at 0.

    Args:
        relative: logits relative to the class that was on top before, shape `(..., C)`.
        p: probabilities after the tie channel.
        clean_best: the two best classes before it.
        best: the two best classes after it.
        tie: what the tie channel did.
        secret: what was looked up.
    """
    assert secret is not None
    classes = np.arange(p.shape[-1], dtype=np.int32)
    is_pair = ops.any(ops.equal(ops.expand_dims(best.classes, axis=-1), classes), axis=-2)
    pair = ops.log(ops.where(is_pair, p / best.p_top, 1.0))
    others = relative + ops.log(clean_best.p_top / best.p_top)
    return ops.where(tie.is_tie, ops.where(is_pair, pair, others), relative)


def arithmetic_dtype(released_type: str) -> str:
    """The type the mark is computed in for outputs of a type: float64 for itself, else float32.

    Raises:
        ValueError: this is no floating-point type that the mark supports.
    """
    if released_type not in _EPSILON:
        raise ValueError(
            f"The mark changes probabilities of type {', '.join(sorted(_EPSILON))}. Received inputs of type "
            f"{released_type}."
        )
    return "float64" if released_type == "float64" else "float32"


def safe_lead(p_top: Tensor, released_type: str) -> Tensor:
    """What the top class must stay ahead by, so that no rounding can turn its lead into a tie.

    Args:
        p_top: probability of the top class.
        released_type: the type that the released output is rounded to.

    Returns:
        A few machine epsilons of `p_top`: of the arithmetic, and of the released type.
    """
    relative = _ARITHMETIC_SLACK * _EPSILON[arithmetic_dtype(released_type)]
    if released_type in ("float16", "bfloat16"):
        relative += 2 * _EPSILON[released_type]
    lead = p_top * relative
    return lead + 2 * _SMALLEST_STEP[released_type] if released_type in _SMALLEST_STEP else lead


def ties_keep_a_lead(params: MarkParams, released_type: str) -> bool:
    """Whether the best class is ahead by more than the safe lead in every row once ties are decided.

    It is where ties are wide enough: who wins one is ahead by half of the slack, and who is in none by the width less
    the slack. Not claimed for 16-bit types, whose leads are not small beside the budget.
    """
    if released_type in ("float16", "bfloat16"):
        return False
    width = min(math.tanh(params.tie_margin / 2), 2 * params.budget)  # of a tie, at least, as a share of `p_top`
    return width > (_TIE_SLACK + 2) * _ARITHMETIC_SLACK * _EPSILON[released_type]
