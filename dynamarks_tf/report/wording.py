"""Numbers and sentences of the report, for readers without statistics. Bounds are rounded so that they still hold."""

from __future__ import annotations

import math

from dynamarks_tf.case.client_table import num_found
from dynamarks_tf.case.query_provenance import caveat, in_words
from dynamarks_tf.report.content import BundleReport

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_ROUNDING = 1e-9  # of logarithms, so that 10^-6 is shown as 10^-6 although its logarithm is rounded
_PLAIN = -3


def scientific(log10_p: float) -> tuple[str, int | None]:
    """A probability as digits and a power of ten, rounded up to two digits; without a power if it is not small.

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


def correct_guesses(log10_p: float) -> int:
    """How many guesses, each correct with probability 1/2, are all correct with a probability of at least p."""
    return math.floor(-log10_p / math.log10(2) + _ROUNDING)


def decimals(value: float, count: int) -> str:
    """A number with `count` decimals and a true minus sign, which zero does not get."""
    text = f"{value:.{count}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def percent(fraction: float, count: int = 1) -> str:
    """A fraction as a percentage."""
    return f"{decimals(100 * fraction, count)} %"


def date(moment: str) -> str:
    """A time in ISO 8601, for people: to the minute, in UTC. Any other text stays as it is."""
    return moment[:16].replace("T", " ") + " UTC" if moment.endswith("+00:00") and len(moment) >= 16 else moment


CHANNEL_NAMES = {
    "class": "Class channel",
    "amplitude": "Amplitude channel",
    "class-choice": "Class-choice channel",
    "tie": "Tie channel",
}

CHANNELS = {
    "class": "which classes get more probability beside the predicted one",
    "amplitude": "on which inputs the predicted class gets less probability",
    "class-choice": "which of two classes gets more probability, input by input",
    "tie": "which of two nearly equal classes is predicted",
}


UNCHECKED = (
    "Not checked with the key: the statistic is the owner’s unverified claim, and p-value and result follow from it. "
    "Any statistic can be stated in a bundle; only the owner’s key shows whether it is true."
)


def title(report: BundleReport) -> str:
    """The result in one sentence; without the key, it is what the owner states."""
    owner = report.evidence.owner
    result = "was detected" if report.detected else "was not detected"
    keys = ""
    if report.by_key:
        found, tested = num_found(report.clients, report.evidence.plan.alpha), len(report.clients)
        keys = (
            f", with the keys of {found:,} of {tested:,} clients" if found else f" with any key of {tested:,} clients"
        )
    if report.with_key:
        return f"The mark of {owner} {result} in the suspect{keys}."
    return f"{owner} states that its mark {result} in the suspect{keys}."


def warnings(report: BundleReport) -> list[str]:
    """Warnings that precede the result."""
    warned = []
    if not report.with_key:
        warned.append(UNCHECKED)
    if report.could_be_ground:
        warned.append(_grinding(report))
    warned += report.evidence.warnings
    return warned


def meaning(report: BundleReport) -> list[str]:
    """The meaning of the result, as sentences."""
    return [*_meaning_of_result(report), *_meaning_of_provenance(report), *_meaning_of_date(report)]


def _meaning_of_provenance(report: BundleReport) -> list[str]:
    """Who chose the queries, and what follows from it."""
    provenance = report.evidence.plan.provenance
    if provenance["kind"] != "drawn":
        return [f"The queries are {in_words(provenance)}. {_MEANING_OF[provenance['kind']]}"]
    pool = provenance["pool"]
    said = (
        ""
        if provenance["beacon_source"] is None
        else f" (its source, as the owner says: {provenance['beacon_source']})"
    )
    return [
        f"The queries were drawn: the owner committed to a pool of {pool['size']:,} inputs and to the number of "
        f"queries. The public value “{provenance['beacon']}”{said} then drew {pool['num_drawn']:,} inputs. Of these, "
        f"the {pool['num_queries']:,} of which the clean owner’s model is surest were asked. If the statement was "
        "published before anybody knew that value, nobody could choose among the inputs of the pool.",
        "The pool itself must have been fixed before the owner could ask the suspect. A pool that was made from the "
        "suspect’s answers is not mended by a draw.",
    ]


def _meaning_of_date(report: BundleReport) -> list[str]:
    """The date of the commitment, and what shows it; a caveat says so where there is none."""
    if report.statement is None:
        return []
    claimed = f"The owner committed to the key on {date(report.statement.date)}, as the signed statement says."
    if report.statement_date is None:
        return [f"{claimed} No timestamp confirms that date."]
    return [f"{claimed} {report.statement_date.in_words()}"]


def caveats(report: BundleReport) -> list[str]:
    """Further limits of the bundle. Those of the queries' provenance and of the date stand with the meaning."""
    said = {caveat(report.evidence.plan.provenance)}
    if report.statement_date is not None:
        said.add(report.statement_date.in_words())
    return [each for each in report.caveats if each not in said]


def _meaning_of_result(report: BundleReport) -> list[str]:
    threshold = probability(math.log10(report.evidence.plan.alpha))
    if not report.detected:
        return [
            *_stated(report),
            f"The test did not reach the threshold that was fixed beforehand ({threshold}). By that threshold, the "
            "mark was not detected.",
            "The suspect may be an independent model. Or it may have been trained on marked answers in a way that left "
            "too little of the mark for these queries to show.",
        ]
    return [
        *_stated(report),
        "The suspect’s answers depend on secret signs that only the owner’s key holds, and that only the answers of "
        "the marked model reveal. By chance alone, they would agree this well with at most the stated probability.",
        "An independent model is one that was neither trained on marked answers nor selected by them. At this "
        f"threshold, the test detects the mark in an independent model with a probability of at most {threshold}. This "
        "holds for any number of queries "
        "and any training data of that model, if the assumptions below hold. The bound is proven, not estimated: no "
        "calibration on other models is involved.",
    ]


def _grinding(report: BundleReport) -> str:
    grinding = f"could reach a p-value like this (down to about {power_of_ten(-24)}) by trying keys until one fits"
    if report.statement is None:
        return (
            f"The bundle holds no published commitment, and an owner {grinding}. That the key is older than the "
            "suspect must be shown otherwise."
        )
    if report.proven_date is not None:
        return (
            f"The statement existed at {date(report.proven_date)}, by a verified timestamp. If the suspect existed "
            f"before, an owner {grinding}."
        )
    return (
        f"The statement gives the date {date(report.statement.date)}, which is the owner’s unverified claim. Unless it "
        f"was really published by then, an owner {grinding}."
    )


_MEANING_OF = {
    "own": "This is the weakest case. An owner who holds the key can ask an independent model in secret and choose "
    "inputs on which it happens to agree with the key. Such a model then looks stolen, and the p-value does not show "
    "it. Ask for a repetition with queries that are drawn from a committed pool, or name the queries yourself.",
    "named": "If that is true, the owner could not choose them by the key. Compare the digest of the queries with the "
    "inputs that were named.",
    "log": "The digests of the log’s files were fixed before the first question. Nothing dates the log itself, and "
    "nothing shows that the requests were really sent. An owner could invent a log of chosen inputs, unless somebody "
    "else dated it.",
}
_MEANING_OF["log-and-own"] = f"Of the log: {_MEANING_OF['log']} Of the fresh ones: {_MEANING_OF['own']}"


def _stated(report: BundleReport) -> list[str]:
    return [] if report.with_key else ["All of this holds if the statistic that the owner states is the true one."]


def no_meaning(report: BundleReport) -> list[str]:
    """Conclusions that the result does not allow, as sentences."""
    if not report.detected:
        return [
            "It does not show that the suspect is an independent model.",
            "The p-value is not the probability that the suspect is an independent model.",
        ]
    return [
        "The p-value is not the probability that the suspect is an independent model. It is a bound on how probable "
        "such evidence would be if it were.",
        "It does not show who took the answers, how, or whether that was allowed. A model of the owner’s own, a data "
        "set that was labeled with the owner’s API, or a public collection of its answers leaves the same mark.",
        "It does not show how much of the suspect rests on those answers.",
    ]


def clients_meaning(report: BundleReport) -> list[str]:
    """The meaning of the table of clients, as sentences."""
    threshold = probability(math.log10(report.evidence.plan.alpha))
    if report.by_key:
        return [
            *_stated(report),
            "Each client was served a model marked with its own key, which derives from the owner’s master key. If the "
            "suspect never learned from answers of that model, it agrees with the signs of this key by chance alone.",
            f"“Found” means that the adjusted p-value is at most {threshold}. The suspect then learned from answers of "
            "the model that was marked with this client’s key. The adjustment by Holm’s method bounds the chance of "
            "any false name in the table.",
            "The p-value at the top is the smallest adjusted one. The plan fixed the clients and the commitments to "
            "their keys.",
            "The master key has a mark of its own, which counts for no client. Its p-value is at most "
            f"{probability(report.evidence.log10_p)}.",
        ]
    return [
        *_stated(report),
        "Each client is tested with its exclusive signs: the secret signs that only its requests met in the whole "
        "log. If the suspect never learned from its answers, these agree with the suspect by chance alone.",
        f"“Found” means that the adjusted p-value is at most {threshold}. The adjustment by Holm’s method bounds the "
        "chance of any false name in the table.",
        "A group is tested with the signs that its clients met together and nobody else met.",
        "Requests without a recorded client count as one more client.",
    ]


CLIENTS_NO_MEANING = (
    "It does not clear a client that was not found. A client with few exclusive signs cannot be found, and clients who "
    "sent the same inputs have none: they can be tested as a group only.",
    "The p-values are not exact if what clients share depends on the answers. An example is a client who passes on the "
    "inputs that were answered wrongly.",
    "It shows whose answers were used, not who used them. A client’s name is what the log recorded, and its answers "
    "may have been passed on.",
    "The class channel has no part in this table, since all clients see its signs.",
)


KEYS_NO_MEANING = (
    "It does not clear a client that was not found. Too few answers of its model may have been used, or these queries "
    "may show too little.",
    "It shows whose model’s answers were used, not who used them. Answers may have been passed on, and whoever could "
    "ask a model marked with this key counts as this client.",
    "It rests on the owner’s word that each client was served the model with its own key and no other.",
)


def _fixed_beforehand(report: BundleReport) -> str:
    order = "the plan states them, and the transcript of all answers is chained to its digest."
    if report.were_answers_given:
        return (
            f"Queries, method and threshold were fixed before the answers were looked up: {order} But the answers are "
            "a file that was in the owner’s hands before the plan was fixed. That queries, seed and threshold were not "
            "chosen by them must be shown otherwise."
        )
    return f"Queries, method and threshold were fixed before the suspect was asked: {order}"


def _age(report: BundleReport) -> str:
    otherwise = "are older than the suspect must be shown otherwise: the bundle holds no published commitment."
    if report.statement is None:
        return f"That key and owner’s model {otherwise}"
    shown = (
        "can be shown only by the date at which the statement was really published; the date in it is the owner’s "
        "unverified claim."
    )
    if report.proven_date is not None:
        shown = f"follows if the suspect was made after {date(report.proven_date)}, when the statement existed."
    if report.statement.model_sha256 is None:
        return (
            f"That the key is older than the suspect {shown} The statement is about the key alone: that the owner’s "
            "model is older than the suspect must be shown otherwise."
        )
    return f"That key and owner’s model are older than the suspect {shown}"


def _logged_queries(report: BundleReport) -> str:
    plan = report.evidence.plan
    held = f" of {plan.log['num_queries']:,}" if plan.log else ""
    return (
        f"The {plan.num_queries - plan.num_fresh:,} logged queries{held} were chosen by what the clean model answers, "
        "not by secret signs or by the marked model. Each secret sign counts for the first logged query that met it, "
        "and what an answer is compared with is learned from earlier answers alone. So a client may have chosen each "
        "input by all that earlier answers showed. The log is whole: nothing was left out because of an answer."
    )


def _references(report: BundleReport) -> list[str]:
    count = len(report.evidence.plan.references)
    others = "1 other model" if count == 1 else f"{count} other models"
    judged = f"What an honest model would answer was judged by the owner’s clean model and {others} of the owner"
    return [f"{judged} that never {'was' if count == 1 else 'were'} marked."] if count else []


def assumptions(report: BundleReport) -> list[str]:
    """The assumptions that the p-value rests on."""
    fresh = (
        "The fresh queries were chosen without looking at any answer of the marked model. They were not chosen by key "
        "and suspect together."
    )
    return [
        *([] if report.with_key else [UNCHECKED]),
        "The owner’s key is 32 random bytes that the makers of the suspect did not know, and its expansion into secret "
        "signs (HKDF-SHA256, ChaCha20) cannot be distinguished from chance.",
        _fixed_beforehand(report),
        _age(report),
        *([fresh] if report.evidence.plan.num_fresh else []),
        *([_logged_queries(report)] if report.evidence.plan.logged else []),
        *_references(report),
        "This is the only test of this kind, or the threshold was divided by the number of tests.",
    ]
