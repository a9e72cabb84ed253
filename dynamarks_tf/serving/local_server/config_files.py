"""TensorFlow Serving's configuration files, in its text format: models, batching, monitoring."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from dynamarks_tf.errors import ServingError
from dynamarks_tf.serving.protocol.status import Code, StatusError, invalid

PLATFORM = "tensorflow"
METRICS_PATH = "/monitoring/prometheus/metrics"

# Messages that the package tensorflow-serving-api leaves out, with their field numbers in TensorFlow Serving.
_LEFT_OUT = """
name: "dynamarks_tf/serving/local_server/left_out.proto" package: "tensorflow.serving" syntax: "proto3"
dependency: "google/protobuf/wrappers.proto"
message_type {
  name: "BatchingParameters"
  field { name: "max_batch_size" number: 1 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value" }
  field { name: "batch_timeout_micros" number: 2 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value" }
  field { name: "max_enqueued_batches" number: 3 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value" }
  field { name: "num_batch_threads" number: 4 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value" }
  field { name: "thread_pool_name" number: 5 type: TYPE_MESSAGE type_name: ".google.protobuf.StringValue" }
  field { name: "allowed_batch_sizes" number: 6 type: TYPE_INT64 label: LABEL_REPEATED }
  field { name: "pad_variable_length_inputs" number: 7 type: TYPE_BOOL }
  field { name: "enable_large_batch_splitting" number: 8 type: TYPE_MESSAGE type_name: ".google.protobuf.BoolValue" }
  field { name: "max_execution_batch_size" number: 9 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value" }
}
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
    """Which of the versions on disk are served.

    Attributes:
        latest: this many of the highest ones; `None` if there is no such limit.
        specific: only these; `None` if any.
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
        base_path: its folder, with one numbered folder a version.
        policy: which versions are served.
        labels: versions by the labels that clients may ask for instead.
    """

    name: str
    base_path: Path
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchingConfig:
    """How requests that come at once are run together; the names and defaults are TensorFlow Serving's.

    Attributes:
        max_batch_size: rows a batch may have.
        batch_timeout_micros: how long a batch waits for further requests.
        max_enqueued_batches: batches that may wait for one signature; a request that needs one more is refused.
        num_batch_threads: batches that are run at the same time.
        allowed_batch_sizes: sizes to which batches are padded, ascending; any size if empty.
        max_execution_batch_size: rows that are run in one step; larger batches are run in several.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = os.cpu_count() or 1
    allowed_batch_sizes: tuple[int, ...] = ()
    max_execution_batch_size: int | None = None

    @property
    def largest_step(self) -> int:
        """Rows that may be run in one step."""
        return self.max_execution_batch_size or self.max_batch_size


def read_models(path: str | os.PathLike[str]) -> tuple[ModelConfig, ...]:
    """Reads what TensorFlow Serving takes as `--model_config_file`: a ModelServerConfig.

    Args:
        path: the file.

    Returns:
        The models, in the file's order; at least one.

    Raises:
        ServingError: the file cannot be read, or says something that cannot be served.
    """
    config = _read(path, model_server_config_pb2.ModelServerConfig())
    try:
        models = check_models(config)
    except StatusError as error:
        raise ServingError(f"{path}: {error.message}") from None
    if not models:
        raise ServingError(f"{path}: there is no model in it. Add `model_config_list {{ config {{ ... }} }}`.")
    return models


def check_models(config: model_server_config_pb2.ModelServerConfig) -> tuple[ModelConfig, ...]:
    """Returns the models of a configuration.

    Raises:
        StatusError: INVALID_ARGUMENT, worded as TensorFlow Serving words it where it has a wording.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise invalid("Invalid ServerModelConfig: custom_model_config is not supported. Give a model_config_list.")
    models: dict[str, ModelConfig] = {}
    for model in config.model_config_list.config:
        if model.name in models:
            raise invalid(f"Illegal to list model {model.name} multiple times in config list")
        models[model.name] = _check_model(model)
    return tuple(models.values())


def read_batching(path: str | os.PathLike[str]) -> BatchingConfig:
    """Reads what TensorFlow Serving takes as `--batching_parameters_file`: BatchingParameters.

    Args:
        path: the file.

    Raises:
        ServingError: the file cannot be read, or says something that cannot be done.
    """
    given = _read(path, _new("BatchingParameters"))
    numbers = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    values = {name: getattr(given, name).value for name in numbers if given.HasField(name)}
    splitting = given.enable_large_batch_splitting.value
    if splitting:
        values["max_execution_batch_size"] = given.max_execution_batch_size.value or None
    config = BatchingConfig(**values, allowed_batch_sizes=tuple(given.allowed_batch_sizes))
    problem = _batching_problem(config, splitting=splitting)
    if given.pad_variable_length_inputs:
        problem = "pad_variable_length_inputs is not supported here; only inputs of the same shape are put together"
    if problem:
        raise ServingError(f"{path}: {problem}.")
    return config


def read_metrics_path(path: str | os.PathLike[str]) -> str | None:
    """Reads what TensorFlow Serving takes as `--monitoring_config_file`: a MonitoringConfig.

    Args:
        path: the file.

    Returns:
        The path of the metrics on the REST port, `None` if they are not switched on.

    Raises:
        ServingError: the file cannot be read.
    """
    prometheus = _read(path, _new("MonitoringConfig")).prometheus_config
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
        raise StatusError(Code.INVALID_ARGUMENT, "No request-logger-creator provided.")  # as from the stock binary
    return ModelConfig(model.name, Path(model.base_path), _policy(model.model_version_policy), model.version_labels)


def _policy(policy: Any) -> VersionPolicy:
    kind = policy.WhichOneof("policy_choice")
    if kind == "all":
        return VersionPolicy(latest=None)
    if kind == "specific":
        return VersionPolicy(latest=None, specific=frozenset(policy.specific.versions))
    return VersionPolicy(latest=policy.latest.num_versions or 1)


def _batching_problem(config: BatchingConfig, *, splitting: bool) -> str | None:
    sizes = config.allowed_batch_sizes
    last = "max_execution_batch_size" if splitting else "max_batch_size"
    if config.max_batch_size < 1 or config.max_enqueued_batches < 1 or config.num_batch_threads < 1:
        return "max_batch_size, max_enqueued_batches and num_batch_threads must be positive"
    if config.batch_timeout_micros < 0:
        return "batch_timeout_micros must not be negative"
    if splitting and not 1 <= config.largest_step <= config.max_batch_size:
        return "max_execution_batch_size must be from 1 to max_batch_size"
    if any(size < 1 for size in sizes) or list(sizes) != sorted(set(sizes)):
        return "allowed_batch_sizes entries must be positive and monotonically increasing"
    if sizes and sizes[-1] != config.largest_step:
        return f"the last entry of allowed_batch_sizes must be {last}, which is {config.largest_step}; got {sizes[-1]}"
    return None


def _read(path: str | os.PathLike[str], message: Any) -> Any:
    try:
        return text_format.Parse(Path(path).read_bytes(), message)
    except OSError as error:
        raise ServingError(f"{path} cannot be read: {error.strerror}.") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ServingError(
            f"Invalid protobuf file: '{path}': it is no {message.DESCRIPTOR.name} in text format: {error}"
        ) from None


def _new(name: str) -> Any:
    """Makes an empty message of a kind that tensorflow-serving-api leaves out.

    They live in a pool of their own, so that nothing clashes where another package defines them too.
    """
    file = text_format.Parse(_LEFT_OUT, descriptor_pb2.FileDescriptorProto())
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.serving.{name}"))()
