"""Numbers and sentences of the report, for readers who are no statisticians. Bounds are rounded so that they hold."""

from __future__ import annotations

import math

from dynamarks_tf.report.content import BundleReport

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_ROUNDING = 1e-9  # of logarithms: 10^-6 is 1e-6, whatever its logarithm rounds to
_PLAIN = -3


def scientific(log10_p: float) -> tuple[str, int | None]:
    """A probability as digits and a power of ten, rounded up to two digits; no power if it is not small.

    Example:

    >>> scientific(-20.7), scientific(-1.5)
    (("2.0", -21), ("0.032", None))
    """
    if log10_p >= _PLAIN:
        digits = max(1, 1 - math.floor(log10_p + _ROUNDING))
        value = math.ceil(10 ** (log10_p + digits) - _ROUNDING) / 10**digits
        return (f"{value:.{digits}f}" if value < 1 else "1"), None
    exponent = math.floor(log10_p + _ROUNDING)
    mantissa = math.ceil(10 ** (log10_p - exponent + 1) - 1e-6) / 10
    if mantissa >= 10:
        mantissa, exponent = 1.0, exponent + 1
    return ("1" if mantissa == 1 else f"{mantissa:.1f}"), exponent


def power_of_ten(exponent: int) -> str:
    """Such as 10⁻⁶."""
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def probability(log10_p: float) -> str:
    """A probability as text, rounded up.

    Example:

    >>> probability(-20.7), probability(-6.0)
    ("2.0 × 10⁻²¹", "10⁻⁶")
    """
    digits, exponent = scientific(log10_p)
    if exponent is None:
        return digits
    return power_of_ten(exponent) if digits == "1" else f"{digits} × {power_of_ten(exponent)}"


def coin_tosses(log10_p: float) -> int:
    """How many fair coins all fall heads with a probability of at least p."""
    return math.floor(-log10_p / math.log10(2) + _ROUNDING)


def decimals(value: float, count: int) -> str:
    """A number with so many decimals, a true minus, and none before zero."""
    text = f"{value:.{count}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def percent(share: float, count: int = 1) -> str:
    """A share as a percentage."""
    return f"{decimals(100 * share, count)} %"


def date(moment: str) -> str:
    """A time in ISO 8601, for people: to the minute, in UTC. What is no such time stays as it is."""
    return moment[:16].replace("T", " ") + " UTC" if moment.endswith("+00:00") and len(moment) >= 16 else moment


CHANNEL_NAMES = {
    "class": "Class channel",
    "amplitude": "Amplitude channel",
    "class-choice": "Class-choice channel",
    "tie": "Tie channel",
}

CHANNELS = {
    "class": "which classes the model raises beside the one it predicts",
    "amplitude": "on which inputs the model is more cautious",
    "class-choice": "which of two classes the model raises, input by input",
    "tie": "which of two nearly equal classes the model prefers",
}


UNCHECKED = (
    "Not checked with the key: the statistic was taken on the owner’s word, and p-value and verdict follow from it. "
    "Whoever makes a record can state any statistic; only the owner’s key shows whether it is true."
)

LOGGED_PART = (
    "The queries are a part that was drawn from what the client sent. A client who sent again what he liked can bias "
    "which coins they meet: the channels that need logged queries are no proof in this record."
)


def title(case: BundleReport) -> str:
    """The verdict in one sentence; without the key, it is what the owner states."""
    owner, found = case.evidence.owner, "was found" if case.evidence.detected() else "was not found"
    if case.with_key:
        return f"The mark of {owner} {found} in the suspect."
    return f"{owner} states that its mark {found} in the suspect."


def warnings(case: BundleReport) -> list[str]:
    """What has to be known before the verdict is read."""
    warned = []
    if not case.with_key:
        warned.append(UNCHECKED)
    if case.is_part_of_log:
        warned.append(LOGGED_PART)
    if case.could_be_ground:
        warned.append(_ground(case))
    return warned


def meaning(case: BundleReport) -> list[str]:
    """What the verdict means."""
    threshold = probability(math.log10(case.evidence.plan.alpha))
    if not case.evidence.detected():
        return [
            *_stated(case),
            f"The test did not reach the threshold that was fixed beforehand ({threshold}). By that standard, nothing "
            "was found.",
            "The suspect may be independent. Or it may have been trained on marked answers in a way that left too "
            "little of the mark for these queries to show.",
        ]
    return [
        *_stated(case),
        "The suspect’s answers depend on secret coin tosses that only the owner’s key knows, and that only the "
        "answers of the marked model give away. Chance alone would make them agree so well with the stated probability "
        "at most.",
        "A test that convicts at this threshold accuses an innocent suspect with a probability of at most "
        f"{threshold}, whatever it was trained on, for any number of queries, if what it rests on (below) holds. The "
        "bound is proven, not estimated: no calibration on other models is involved.",
    ]


def _ground(case: BundleReport) -> str:
    ground = f"could reach a p-value like this (down to about {power_of_ten(-24)}) by trying keys until one fits"
    if case.statement is None:
        return (
            f"The record holds no published commitment, and an owner {ground}. It has to be shown otherwise that the "
            "key is older than the suspect."
        )
    return (
        f"The statement says {date(case.statement.date)}, on the owner’s word. Unless it was really published by then, "
        f"an owner {ground}."
    )


def _stated(case: BundleReport) -> list[str]:
    return [] if case.with_key else ["All of this holds if the statistic that the owner states is the true one."]


def no_meaning(case: BundleReport) -> list[str]:
    """What the verdict does not mean."""
    if not case.evidence.detected():
        return [
            "It does not show that the suspect is innocent.",
            "The p-value is not the probability that the suspect is innocent.",
        ]
    return [
        "The p-value is not the probability that the suspect is innocent. It says how improbable such evidence would "
        "be if it were.",
        "It does not say who took the answers, how, or whether that was allowed. A model of the owner’s own, a data "
        "set that was labeled with the owner’s API, or a public collection of its answers leaves the same mark.",
        "It does not say how much of the suspect rests on those answers.",
    ]


def _fixed_beforehand(case: BundleReport) -> str:
    record = "the plan says which, and its digest is in the record of every answer."
    if case.were_answers_given:
        return (
            f"Queries, method and threshold were fixed before the answers were looked up: {record} But the answers are "
            "a file that was in the owner’s hands before the plan was fixed: that queries, seed and threshold were not "
            "chosen by them has to be shown otherwise."
        )
    return f"Queries, method and threshold were fixed before the suspect was asked: {record}"


def _age(case: BundleReport) -> str:
    otherwise = "are older than the suspect has to be shown otherwise: the record holds no published commitment."
    if case.statement is None:
        return f"That key and owner’s model {otherwise}"
    show = "for the date to show at which the statement was really published; the date in it is the owner’s word."
    if case.statement.model_sha256 is None:
        return (
            f"That the key is older than the suspect is {show} The statement is about the key alone: that the owner’s "
            "model is older than the suspect has to be shown otherwise."
        )
    return f"That key and owner’s model are older than the suspect is {show}"


def _what_was_logged(case: BundleReport) -> str:
    plan = case.evidence.plan
    if case.is_part_of_log:
        return LOGGED_PART
    which = "all that the client sent, from the first on"
    if plan.selection != "all":
        which = f"the first {plan.num_queries:,} of what the client sent"
    return (
        f"The queries are {which}; none was left out or chosen by what the marked model answered. Of queries that look "
        "alike only the first counts, which guards against a client who sends again what he liked. Against one who "
        "makes up new inputs from what he learned of the mark, there is no proof."
    )


def assumptions(case: BundleReport) -> list[str]:
    """What the p-value rests on."""
    fresh = "The queries were chosen without looking at any answer of the marked model."
    return [
        *([] if case.with_key else [UNCHECKED]),
        "The owner’s key is 32 random bytes that the makers of the suspect did not know, and its expansion into coin "
        "tosses (HKDF-SHA256, ChaCha20) cannot be told from chance.",
        _fixed_beforehand(case),
        _age(case),
        _what_was_logged(case) if case.evidence.plan.logged else fresh,
        "This is the only test of this kind, or the threshold was divided by the number of tests.",
    ]
