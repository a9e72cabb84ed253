"""Why a result may say nothing although it is computed correctly: warnings, each with what to do.

They follow from the plan and from the recorded answers, by whole numbers, so that a recheck finds the same words.
"""

from __future__ import annotations

from collections.abc import Iterator

from dynamarks_tf.case.plan import TestPlan
from dynamarks_tf.evidence.class_order import Confusion
from dynamarks_tf.foreign_text import quoted

ENOUGH = 20
"""How many answers a warning about agreement takes."""
LIKELY = 0.5
MUCH_BETTER = 2.0
NEARLY_SAME = 0.01
_NAMED = 3
_LONGEST_NAME = 60


def warnings_of(plan: TestPlan, confusion: Confusion, clean_spread: float) -> tuple[str, ...]:
    """What a reader of the result has to know.

    Args:
        plan: what was fixed beforehand.
        confusion: best classes of clean model and suspect, as they were assessed.
        clean_spread: by how much the clean model's probability of any class varies over the queries, at most.
    """
    order = _about_order(plan, confusion)
    return tuple(
        warning
        for warning in (
            order,
            None if order else _about_agreement(plan, confusion),
            _about_unknown(plan, confusion),
            *_about_owner(plan, clean_spread),
        )
        if warning
    )


def _about_order(plan: TestPlan, confusion: Confusion) -> str | None:
    """Whether another order of the classes agrees in at least half of the answers, and twice as often as the plain one.

    Each pair of classes is found by one of its answers, which does not count: with few queries for each class, some
    order agrees with anything.
    """
    plain = confusion.num_agreeing / max(confusion.num_answers, 1)
    if plan.align_classes or confusion.num_answers < ENOUGH or MUCH_BETTER * plain > 1:
        return None
    order = confusion.matched()
    agreeing, counted = confusion.agreement_of(order)
    if counted < ENOUGH or agreeing < max(LIKELY, MUCH_BETTER * plain) * counted:
        return None
    moved = [(ours, theirs) for ours, theirs in order.items() if ours != theirs]
    moved.sort(key=lambda pair: (-confusion.count(*pair), pair))
    listed = ", ".join(f"{theirs} for the owner's {ours}" for ours, theirs in moved[:_NAMED])
    more = ", and so on" if len(moved) > _NAMED else ""
    advice = (
        "wrap the suspect in a callable that answers for the owner's class 1"
        if plan.activation == "sigmoid"
        else "align_classes=True (--align-classes) finds the order from the answers"
    )
    return (
        f"The suspect's classes seem to be in another order than the owner's: the best class is the same in "
        f"{plain:.1%} of the answers, and in {agreeing / counted:.1%} with its class {listed}{more}. Test again: "
        f"{advice}."
    )


def _about_agreement(plan: TestPlan, confusion: Confusion) -> str | None:
    """Whether suspect and clean model agree no more than by chance: half above it, or a tenth of the way to 1."""
    if confusion.num_answers < ENOUGH:
        return None
    plain, chance = confusion.num_agreeing / confusion.num_answers, confusion.chance
    if chance >= 1 or plain > chance + min(0.5 * chance, 0.1 * (1 - chance)):
        return None
    order = "" if plan.align_classes or plan.activation == "sigmoid" else " align_classes=True (--align-classes)."
    return (
        f"Suspect and clean owner model have the same best class in {plain:.1%} of the answers; chance alone gives "
        f"{chance:.1%}. Check that the suspect gets its inputs prepared as it expects them, and that its classes are "
        f"in the owner's order.{order}"
    )


def _about_unknown(plan: TestPlan, confusion: Confusion) -> str | None:
    unknown, answered = confusion.num_unknown, confusion.num_answers
    if not unknown:
        return None
    advice = (
        "These are the classes that no class of the owner was matched with."
        if plan.align_classes
        else f"The owner's classes are numbered from 0 to {plan.num_classes - 1}. Give their names as the suspect "
        "answers them, in the owner's order (--class-names)."
    )
    return (
        f"{unknown} of the suspect's {answered} labels ({unknown / answered:.1%}) name no class of the owner. {advice}"
    )


def _about_owner(plan: TestPlan, clean_spread: float) -> Iterator[str]:
    if plan.num_queries >= ENOUGH and clean_spread < NEARLY_SAME:
        yield (
            "The clean owner model answers all queries nearly alike: no probability varies by as much as "
            f"{NEARLY_SAME:g}. Check that the queries are of its domain, and prepared as it expects them (scale, type)."
        )
    if not plan.bound:
        yield (
            "The key is not bound to the model: the mark was made without the digest of the clean model. Mark anew "
            "with dm.mark to bind it."
        )
    if not plan.owner_marked:
        yield (
            f"The owner model was given without its mark, so budget {plan.budget:g}, tie margin {plan.tie_margin:g} "
            "and a bound key were assumed. Test with the marked model that was served: its layer tells the settings."
        )
    if plan.code_outside:
        named = ", ".join(quoted(name, _LONGEST_NAME) for name in plan.code_outside[:_NAMED])
        more = f" and {len(plan.code_outside) - _NAMED} more" if len(plan.code_outside) > _NAMED else ""
        yield (
            f"The owner model runs code that no file holds: {named}{more}. Its digest does not cover what that code "
            "computes; keep the code with the model."
        )
