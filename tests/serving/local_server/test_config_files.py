"""TensorFlow Serving's configuration files: values that are read, and files that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamarks_tf.errors import ServingError
from dynamarks_tf.serving.local_server.config_files import VersionPolicy, read_metrics_path, read_models


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.config"


def test_models_of_the_documentation_are_read(file: Path) -> None:
    file.write_text(
        """
        # two versions side by side
        model_config_list {
          config {
            name: "wm"  base_path: "/models/wm"  model_platform: "tensorflow"
            model_version_policy { specific { versions: 3 versions: 4 } }
            version_labels { key: "stable" value: 3 }
            version_labels { key: "canary" value: 4 }
          }
          config: { name: "b", base_path: "/models/b", model_platform: "tensorflow" }
        }
        """
    )
    first, second = read_models(file)
    assert (first.name, first.base_path) == ("wm", Path("/models/wm"))
    assert first.policy == VersionPolicy(latest=None, specific=frozenset({3, 4}))
    assert dict(first.labels) == {"stable": 3, "canary": 4}
    assert (second.name, second.policy, dict(second.labels)) == ("b", VersionPolicy(latest=1), {})


def model(text: str) -> str:
    return f"model_config_list {{ config {{ {text} }} }}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file names no model"),
        ("model_config_list { config { nam: 1 } }", "Invalid protobuf file: .*no ModelServerConfig in text format"),
        ("\xff", "Invalid protobuf file: .*no ModelServerConfig"),
        (model('base_path: "/m" model_platform: "tensorflow"'), "A model in the config list has no name"),
        (model('name: "m" base_path: "/m"'), "neither .*model_type .*nor .*model_platform, model name is m"),
        (model('name: "m" base_path: "/m" model_platform: "torch"'), 'is "torch"; only "tensorflow" is served'),
        (model('name: "m" base_path: "m" model_platform: "tensorflow"'), "Expected model m to have an absolute path"),
        (
            model('name: "m" base_path: "/m" model_platform: "tensorflow" logging_config { }'),
            "No request-logger-creator provided",
        ),
        ("custom_model_config { }", "custom_model_config is not supported"),
    ],
)
def test_models_that_cannot_be_served_are_refused(file: Path, text: str, message: str) -> None:
    file.write_text(text, encoding="latin-1")
    with pytest.raises(ServingError, match=f"file.config.*{message}|{message}.*file.config|{message}"):
        read_models(file)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    for read in (read_models, read_metrics_path):
        with pytest.raises(ServingError, match="none.config cannot be read: No such file"):
            read(tmp_path / "none.config")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", None),
        ('prometheus_config { path: "/x" }', None),
        ("prometheus_config { enable: true }", "/monitoring/prometheus/metrics"),
        ('prometheus_config: { enable: true, path: "/metrics" }', "/metrics"),
    ],
)
def test_monitoring(file: Path, text: str, path: str | None) -> None:
    file.write_text(text)
    assert read_metrics_path(file) == path
