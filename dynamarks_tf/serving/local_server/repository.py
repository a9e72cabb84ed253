"""The models that are served, with their versions."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tensorflow_serving.apis import model_pb2

from dynamarks_tf import foreign_text
from dynamarks_tf.errors import ServingError
from dynamarks_tf.serving.local_server.config_files import ModelConfig
from dynamarks_tf.serving.local_server.served_model import ServedModel
from dynamarks_tf.serving.local_server.versions import Version, find_versions, scan_versions
from dynamarks_tf.serving.protocol.status import Code, StatusError, invalid

LOG = foreign_text.logger(__name__)


class Repository:
    """Models and their loaded versions.

    Requests may come from many threads while versions change. Each request holds the version that answers it.

    Args:
        models: the models to serve.

    Raises:
        ServingError: a model has no version, or none that can be loaded, or a label for a version that is not loaded.
    """

    def __init__(self, models: Sequence[ModelConfig]) -> None:
        self._changing = threading.Lock()  # held for a whole change, so that there is one at a time
        self._models: dict[str, _Model] = {}
        try:
            for config in models:
                self._add(config)
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def use(self, spec: model_pb2.ModelSpec) -> Iterator[ServedModel]:
        """Finds the model that a request is for, and keeps it loaded meanwhile.

        Args:
            spec: the name and, if given, the version or label in the request.

        Raises:
            StatusError: NOT_FOUND, or INVALID_ARGUMENT for a label or an empty name, as in TensorFlow Serving.
        """
        while True:
            version = self._find(spec)
            model = version.acquire()
            if model is not None:  # otherwise it was unloaded after it was found
                break
        try:
            yield model
        finally:
            version.release()

    def latest_version(self, name: str) -> int:
        """Returns the version that answers requests without a version.

        Raises:
            StatusError: NOT_FOUND.
        """
        return self._find(model_pb2.ModelSpec(name=name)).number

    def knows(self, name: str) -> bool:
        """Whether there is or has been such a model."""
        return name in self._models

    def versions(self, name: str) -> list[Version]:
        """Returns every version a model has or has had, highest first; none if the model is unknown."""
        model = self._models.get(name)
        return [model.versions[number] for number in sorted(model.versions, reverse=True)] if model else []

    def refresh(self) -> None:
        """Looks for new and vanished version folders. New versions are loaded before old ones are unloaded.

        The status call reports a version that cannot be loaded; the version before it keeps answering. It is tried
        again only after its folder has gone and come back.
        """
        with self._changing:
            for model in self._models.values():
                self._refresh(model)

    def reconfigure(self, models: Sequence[ModelConfig]) -> None:
        """Serves other models, policies and labels from now on. Models that are not named are unloaded.

        Args:
            models: the models to serve.

        Raises:
            StatusError: FAILED_PRECONDITION if a label would move to a version that is not loaded; nothing is changed.
                UNKNOWN if a new model cannot be loaded; the other changes are made then.
        """
        with self._changing:
            _check_labels(models, self._models)
            known = {name: model for name, model in self._models.items() if model.config is not None}
            named = {config.name: config for config in models}
            for name, model in known.items():
                model.config = named.get(name)
                self._refresh(model)
            problems = []
            for config in models:
                if config.name in known:
                    continue
                try:
                    self._add(config)
                except ServingError as error:
                    problems.append(f"{{{{name: {config.name}}} due to error: {error}}}")
        if problems:
            message = f"{len(problems)} servable(s) did not become available: {{{', '.join(problems)}}}"
            raise StatusError(Code.UNKNOWN, message)

    def close(self) -> None:
        """Unloads everything at once."""
        with self._changing:
            for model in self._models.values():
                model.close()

    def _find(self, spec: model_pb2.ModelSpec) -> Version:
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        model = self._models.get(spec.name)
        number: int | None = spec.version.value if spec.HasField("version") else None
        if spec.HasField("version_label"):
            number = model.labels.get(spec.version_label) if model else None
            if number is None:
                raise invalid(f"Unrecognized servable version label: {spec.version_label}")
        serving = model.serving if model else {}
        found = serving.get(max(serving, default=0) if number is None else number)
        if found is not None:
            return found
        wanted = f"Latest({spec.name})" if number is None else f"Specific({spec.name}, {number})"
        raise StatusError(Code.NOT_FOUND, f"Servable not found for request: {wanted}")

    def _add(self, config: ModelConfig) -> None:
        """Begins to serve a model.

        Raises:
            ServingError: it has no version, or none that can be loaded, or a label for a version that is not loaded.
        """
        model = self._models.get(config.name) or _Model(config.name)
        model.config = config
        self._models = {**self._models, config.name: model}
        found = find_versions(config.base_path)
        if not config.policy.choose(found):
            raise ServingError(
                f"{config.base_path} holds the versions {sorted(found)}, and the version policy of {config.name} "
                "chooses none of them."
            )
        errors = model.settle(found)
        if not model.serving:
            raise errors[0]
        for label, number in model.labels.items():
            if number not in model.serving:
                raise ServingError(
                    f'The label "{label}" of {config.name} names version {number}, which is not loaded. Loaded: '
                    f"{sorted(model.serving)}."
                )

    def _refresh(self, model: _Model) -> None:
        try:
            found = scan_versions(model.config.base_path) if model.config else {}
        except OSError as error:  # loaded versions keep answering
            model.report(f"cannot be searched for versions of {model.name}: {error.strerror}")
            return
        for problem in model.settle(found):
            model.report(str(problem))


class _Model:
    """A model's configuration and versions.

    One thread at a time changes it, while any thread reads it. So dictionaries are replaced, never changed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.config: ModelConfig | None = None  # before it is served, and afterwards
        self.serving: Mapping[int, Version] = {}
        self.versions: Mapping[int, Version] = {}  # with those that ended: the status call reports them
        self._failed: set[int] = set()
        self._reported = ""

    @property
    def labels(self) -> Mapping[str, int]:
        return self.config.labels if self.config else {}

    def settle(self, found: Mapping[int, Path]) -> list[ServingError]:
        """Loads and unloads until the wanted versions of `found` are served; the model always keeps one version.

        Returns:
            The errors of the versions that could not be loaded.
        """
        wanted = self.config.policy.choose(found) if self.config else set()
        self._failed &= found.keys()
        errors: list[ServingError] = []
        while True:
            if wanted & self.serving.keys() or not wanted:
                for number in sorted(self.serving.keys() - wanted):
                    self._unload(number)
            missing = wanted - self.serving.keys() - self._failed
            if not missing:
                return errors
            number = max(missing)
            version = Version(self.name, number, found[number])
            self.versions = {**self.versions, number: version}
            try:
                version.load()
                self.serving = {**self.serving, number: version}
            except ServingError as error:
                self._failed.add(number)
                errors.append(error)

    def close(self) -> None:
        """Unloads everything at once."""
        self.serving = {}
        for version in self.versions.values():
            version.close()

    def report(self, problem: str) -> None:
        """Logs a problem once."""
        if problem != self._reported:
            LOG.error("%s: %s", self.config.base_path if self.config else self.name, problem)
            self._reported = problem

    def _unload(self, number: int) -> None:
        version = self.serving[number]
        self.serving = {other: kept for other, kept in self.serving.items() if other != number}
        version.unload()


def model_name(base_path: str | os.PathLike[str]) -> str:
    """Returns the default name of a model: that of its folder."""
    return Path(base_path).resolve().name or "default"


def _check_labels(models: Sequence[ModelConfig], served: Mapping[str, _Model]) -> None:
    """A label in use moves to a loaded version only, as with `allow_version_labels_for_unavailable_models`."""
    for config in models:
        model = served.get(config.name)
        for label, number in config.labels.items():
            if model is not None and label in model.labels and number not in model.serving:
                raise StatusError(
                    Code.FAILED_PRECONDITION,
                    f"Request to assign label to version {number} of model {config.name}, which is not currently "
                    "available for inference",
                )
