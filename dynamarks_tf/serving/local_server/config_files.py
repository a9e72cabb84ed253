"""TensorFlow Serving's configuration files, in its text format: models and monitoring."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from tensorflow_serving.config import model_server_config_pb2

from dynamarks_tf.errors import ServingError
from dynamarks_tf.serving.protocol.status import Code, StatusError, invalid

PLATFORM = "tensorflow"
METRICS_PATH = "/monitoring/prometheus/metrics"

# A message that the package tensorflow-serving-api leaves out, with its field numbers in TensorFlow Serving.
_MONITORING = """
name: "dynamarks_tf/serving/local_server/monitoring.proto" package: "tensorflow.serving" syntax: "proto3"
message_type {
  name: "PrometheusConfig"
  field { name: "enable" number: 1 type: TYPE_BOOL }
  field { name: "path" number: 2 type: TYPE_STRING }
}
message_type {
  name: "MonitoringConfig"
  field { name: "prometheus_config" number: 1 type: TYPE_MESSAGE type_name: ".tensorflow.serving.PrometheusConfig" }
}
"""


@dataclass(frozen=True)
class VersionPolicy:
    """The choice of the versions on disk that are served.

    Attributes:
        latest: how many of the highest ones are served; no limit if `None`.
        specific: the only ones that are served; any if `None`.
    """

    latest: int | None = 1
    specific: frozenset[int] | None = None

    def choose(self, versions: Iterable[int]) -> set[int]:
        """Returns those of `versions` that are to be served."""
        chosen = sorted(version for version in versions if self.specific is None or version in self.specific)
        return set(chosen if self.latest is None else chosen[-self.latest :])


@dataclass(frozen=True)
class ModelConfig:
    """One model to serve.

    Attributes:
        name: the name clients ask for.
        base_path: its folder, with one numbered folder per version.
        policy: which versions are served.
        labels: versions by the labels that clients may use instead.
    """

    name: str
    base_path: Path
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = field(default_factory=dict)


def read_models(path: str | os.PathLike[str]) -> tuple[ModelConfig, ...]:
    """Reads a ModelServerConfig, the format of TensorFlow Serving's `--model_config_file`.

    Args:
        path: the file.

    Returns:
        The models, in the file's order; at least one.

    Raises:
        ServingError: the file cannot be read, or describes a model that cannot be served.
    """
    config = _read(path, model_server_config_pb2.ModelServerConfig())
    try:
        models = check_models(config)
    except StatusError as error:
        raise ServingError(f"{path}: {error.message}") from None
    if not models:
        raise ServingError(f"{path}: the file names no model. Add `model_config_list {{ config {{ ... }} }}`.")
    return models


def check_models(config: model_server_config_pb2.ModelServerConfig) -> tuple[ModelConfig, ...]:
    """Returns the models of a configuration.

    Raises:
        StatusError: INVALID_ARGUMENT, in TensorFlow Serving's words where it has any.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise invalid("Invalid ServerModelConfig: custom_model_config is not supported. Give a model_config_list.")
    models: dict[str, ModelConfig] = {}
    for model in config.model_config_list.config:
        if model.name in models:
            raise invalid(f"Illegal to list model {model.name} multiple times in config list")
        models[model.name] = _check_model(model)
    return tuple(models.values())


def read_metrics_path(path: str | os.PathLike[str]) -> str | None:
    """Reads a MonitoringConfig, the format of TensorFlow Serving's `--monitoring_config_file`.

    Args:
        path: the file.

    Returns:
        The path of the metrics on the REST port, `None` if they are off.

    Raises:
        ServingError: the file cannot be read.
    """
    prometheus = _read(path, _monitoring_config()).prometheus_config
    return (prometheus.path or METRICS_PATH) if prometheus.enable else None


def _check_model(model: model_server_config_pb2.ModelConfig) -> ModelConfig:
    if not model.name:
        raise invalid("A model in the config list has no name")
    if not model.model_platform:
        raise invalid(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f"ModelServerConfig::model_platform, model name is {model.name}"
        )
    if model.model_platform != PLATFORM:
        raise invalid(f'model_platform of model {model.name} is "{model.model_platform}"; only "{PLATFORM}" is served')
    if not os.path.isabs(model.base_path):
        raise invalid(f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}")
    if model.HasField("logging_config"):
        raise StatusError(Code.INVALID_ARGUMENT, "No request-logger-creator provided.")  # as the stock binary does
    return ModelConfig(model.name, Path(model.base_path), _policy(model.model_version_policy), model.version_labels)


def _policy(policy: Any) -> VersionPolicy:
    kind = policy.WhichOneof("policy_choice")
    if kind == "all":
        return VersionPolicy(latest=None)
    if kind == "specific":
        return VersionPolicy(latest=None, specific=frozenset(policy.specific.versions))
    return VersionPolicy(latest=policy.latest.num_versions or 1)


def _read(path: str | os.PathLike[str], message: Any) -> Any:
    try:
        return text_format.Parse(Path(path).read_bytes(), message)
    except OSError as error:
        raise ServingError(f"{path} cannot be read: {error.strerror}.") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ServingError(
            f"Invalid protobuf file: '{path}': this is no {message.DESCRIPTOR.name} in text format: {error}"
        ) from None


def _monitoring_config() -> Any:
    """Makes an empty MonitoringConfig.

    It lives in a pool of its own, so that it does not clash with another package that defines it too.
    """
    pool = descriptor_pool.DescriptorPool()
    file = text_format.Parse(_MONITORING, descriptor_pb2.FileDescriptorProto())
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.serving.MonitoringConfig"))()
