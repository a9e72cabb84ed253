"""The suspect's answers, gathered channel by channel; and which channels a suspect can be tested in.

Which channels can be tested depends on the plan (settings of the mark, fresh or logged queries) and on the form of the
answers (probabilities or labels), never on a sign.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.evidence import amplitude_channel, class_channel, class_choice_channel, tie_channel
from dynamarks_tf.evidence.answers import is_one_hot
from dynamarks_tf.evidence.batch import Batch, Memory
from dynamarks_tf.evidence.class_order import Confusion
from dynamarks_tf.evidence.first_answers import FirstAnswers
from dynamarks_tf.evidence.meetings import MetBefore
from dynamarks_tf.evidence.residuals import Residuals, ResidualTable
from dynamarks_tf.watermark.keyed_hash import KeyedHash
from dynamarks_tf.watermark.params import MarkParams

Array = npt.NDArray[Any]

CHANNELS = ("class", "amplitude", "class-choice", "tie")
TRANSFORMS = {
    "class": class_channel.TRANSFORM,
    "amplitude": amplitude_channel.TRANSFORM,
    "class-choice": class_choice_channel.TRANSFORM,
    "tie": tie_channel.TRANSFORM,
}
_WITH_LABELS = {"tie"}
_ON_FRESH_QUERIES = {"class"}
_OF_FIRST_ANSWERS = {"amplitude", "class-choice"}
_BESIDE_ANOTHER = {"class", "class-choice"}
_FEWEST_CLASSES = 3
_LARGE_SPREAD = 0.1


def channel_obstacles(
    params: MarkParams, num_classes: int, *, fresh: bool, logged: bool, labels: bool
) -> dict[str, str | None]:
    """Says for each channel whether it will be tested.

    Args:
        params: settings of the mark.
        num_classes: number of classes C.
        fresh: whether there are queries that nobody chose by what the marked API answered.
        logged: whether there are queries that clients of the marked API really sent.
        labels: whether the suspect answers labels only.

    Returns:
        For each channel of `CHANNELS`, `None` if it will be tested, otherwise the reason why not.
    """
    form = {"fresh": fresh, "logged": logged, "labels": labels}
    return {channel: _obstacle(channel, params, num_classes, **form) for channel in CHANNELS}


def testable_channels(
    params: MarkParams, num_classes: int, *, fresh: bool, logged: bool, labels: bool
) -> tuple[str, ...]:
    """Names of the channels that will be tested; the arguments are those of `channel_obstacles`."""
    obstacles = channel_obstacles(params, num_classes, fresh=fresh, logged=logged, labels=labels)
    return tuple(channel for channel, obstacle in obstacles.items() if obstacle is None)


def _obstacle(
    channel: str, params: MarkParams, num_classes: int, *, fresh: bool, logged: bool, labels: bool
) -> str | None:
    if channel not in params.channels:
        setting = "tie_margin is 0" if channel == "tie" else "amplitudes are off"
        return f"the model was marked without it ({setting})"
    if channel in _BESIDE_ANOTHER and num_classes < _FEWEST_CLASSES:
        return "it compares the classes beside the best one, and two classes leave only one"
    if channel == "class-choice" and not params.has_target_class(num_classes):
        return f"with {num_classes} classes and this table, inputs raise all favored classes at once"
    if channel not in _ON_FRESH_QUERIES and not logged:
        return "it needs logged queries: inputs that clients sent to the marked API"
    if channel not in _WITH_LABELS and labels:
        return "the suspect answers labels only, and it lives in the probabilities"
    if channel in _ON_FRESH_QUERIES and not fresh:
        return "it needs fresh queries beside the logged ones, which no client chose by what the API answered"
    return None


class ResidualAccumulator:
    """Gathers a suspect's answers for several channels, in memory that does not grow with the queries.

    Args:
        channels: names of the channels to gather.
        keyed_hash: which secret signs an output gets.
        params: settings of the mark.
        pairs: the class-choice channel's, as `Codebook.contrasts` gives them; needed if that channel is gathered.
        num_fresh: how many of the inputs are fresh; they come first. The class channel takes these alone, and the other
            channels the logged ones after them.
        met_before: secret signs that other queries met first, which are not among those to come.
        with_references: whether reference models answer beside the clean one.

    Attributes:
        num_queries: how many inputs were answered.
        labels_only: whether every answer so far was a label, or a single 1 among zeros.
        confusion: how often the best classes of clean model and suspect met.
        clean_spread: by how much the clean model's probability of any class varies over the answers, at most; it is not
            followed any further once it is large.
    """

    def __init__(
        self,
        channels: tuple[str, ...],
        keyed_hash: KeyedHash,
        params: MarkParams,
        pairs: npt.NDArray[np.int32] | None = None,
        *,
        num_fresh: int = 0,
        met_before: MetBefore | None = None,
        with_references: bool = False,
    ) -> None:
        self._channels = channels
        met = met_before or MetBefore()
        self._tables = {
            channel: _table(channel, keyed_hash, params, met, with_references=with_references)
            for channel in channels
            if channel not in _OF_FIRST_ANSWERS
        }
        self._first = None
        if _OF_FIRST_ANSWERS & set(channels):
            kept = {"every_class": "class-choice" in channels, "with_references": with_references}
            self._first = FirstAnswers(keyed_hash, params, met.classes, **kept)
        self._pairs = pairs if "class-choice" in channels else None
        self._num_fresh = num_fresh
        self._keyed_hash = keyed_hash
        self._memory = Memory()
        self.num_queries = 0
        self.labels_only, self._has_labels = True, False
        self.confusion = Confusion()
        self.clean_spread = 0.0
        self._clean_range: Array | None = None

    def add(self, clean: Array, suspect: Array, references: Array | None = None) -> None:
        """Adds one batch.

        Args:
            clean: the clean owner model's probabilities, shape `(n, ..., C)`. Where a model gives each input an answer
                at several positions, each of them counts as an answer of its own.
            suspect: the suspect's probabilities, the same shape, or class indices, shape `(n, ...)`; -1 stands for a
                class that the owner model does not know.
            references: the probabilities of R reference models, shape `(n, ..., R, C)`; `None` without.
        """
        num_fresh = max(min(self._num_fresh - self.num_queries, len(clean)), 0)
        for part, is_fresh in ((slice(num_fresh), True), (slice(num_fresh, None), False)):
            if len(clean[part]):
                beside = None if references is None else references[part]
                batch = Batch.of_answers(clean[part], suspect[part], self._keyed_hash, self._memory, beside)
                self._add(batch, is_fresh)
        self.num_queries += len(clean)

    def _add(self, batch: Batch, is_fresh: bool) -> None:
        self._has_labels = batch.has_labels
        self.labels_only = self.labels_only and (batch.has_labels or is_one_hot(batch.suspect))
        if self._first and not is_fresh and not batch.has_labels:
            self._first.add(batch)
        for channel, table in self._tables.items():
            if (channel in _ON_FRESH_QUERIES) == is_fresh and (channel in _WITH_LABELS or not batch.has_labels):
                table.add(batch)
        self.confusion.add(batch.top, batch.suspect_top)
        self._follow_spread(batch)

    @property
    def num_classes(self) -> int:
        """How many classes the owner model has."""
        return self._keyed_hash.num_classes

    @property
    def pairs(self) -> npt.NDArray[np.int32] | None:
        """The pairs of the class-choice channel whose signs were met, -1 for others; `None` if it is not gathered."""
        if self._first is None or self._pairs is None:
            return None
        return class_choice_channel.met_pairs(self._first, self._pairs)

    @property
    def fidelity(self) -> float:
        """Share of answers in which suspect and clean owner model give the same best class."""
        return self.confusion.num_agreeing / max(self.confusion.num_answers, 1)

    def _follow_spread(self, batch: Batch) -> None:
        if self.clean_spread >= _LARGE_SPREAD or not len(batch):
            return
        each = batch.clean.reshape(-1, self._keyed_hash.num_labels * batch.clean.shape[-1])
        seen = np.stack([each.min(axis=0), each.max(axis=0)])
        if self._clean_range is not None:
            both = self._clean_range
            seen = np.stack([np.minimum(both[0], seen[0]), np.maximum(both[1], seen[1])])
        self._clean_range = seen
        self.clean_spread = float((seen[1] - seen[0]).max())

    def residuals(self) -> dict[str, Residuals]:
        """The residuals of every channel that the answers so far can be tested in.

        Class indices can be tested in the tie channel alone. A single 1 among zeros tells no more, and fresh queries
        say nothing then. Of logged ones all channels stay: they must not depend on how many such answers came first.
        """
        as_labels = self._has_labels or (self.labels_only and not _OF_FIRST_ANSWERS & set(self._channels))
        return {
            channel: self._residuals_of(channel)
            for channel in self._channels
            if not as_labels or channel in _WITH_LABELS
        }

    def _residuals_of(self, channel: str) -> Residuals:
        if channel in self._tables:
            return self._tables[channel].residuals()
        assert self._first is not None
        if channel == "amplitude":
            return amplitude_channel.residuals(self._first)
        assert self._pairs is not None
        return class_choice_channel.residuals(self._first, self._pairs)


def _table(
    channel: str, keyed_hash: KeyedHash, params: MarkParams, met: MetBefore, *, with_references: bool
) -> ResidualTable:
    if channel == "class":
        shape = params.table_shape(keyed_hash.num_classes)
        return class_channel.ClassChannelTable(keyed_hash, shape, params.budget, with_references=with_references)
    return tie_channel.TieTable(keyed_hash, params.tie_margin, params.budget, met.ties, with_references=with_references)
