"""The files under serving/ parse, fit their schemas, and fit each other."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_pydantic import ComposeSpecification
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from dynamarks_tf.cli.proxy import proxy
from dynamarks_tf.proxy.proxy import GRACE_S
from dynamarks_tf.request_logs.writer import CLOSE_S

SERVING = Path(__file__).parents[2] / "serving"
CONFIG = SERVING / "config"
KUBERNETES_VERSION = "1.33"

# Flags of tensorflow_model_server 2.20 that take part; a flag that it does not know would be ignored.
SERVER_FLAGS = set(
    "port rest_api_port model_config_file model_config_file_poll_wait_seconds "
    "allow_version_labels_for_unavailable_models enable_batching batching_parameters_file monitoring_config_file "
    "num_load_threads max_num_load_retries enable_profiler".split()
)


def documents(folder: str) -> list[dict[str, Any]]:
    return [part for path in sorted((SERVING / folder).glob("*.yaml")) for part in yaml.safe_load_all(path.read_text())]


MANIFESTS = {(part["kind"], part["metadata"]["name"]): part for part in documents("kubernetes")}
COMPOSE = yaml.safe_load((SERVING / "docker-compose.yml").read_text())
POD = MANIFESTS["Deployment", "clf"]["spec"]["template"]
CONTAINERS = {part["name"]: part for part in POD["spec"]["containers"]}
ARGUMENTS = {
    "compose": {name: COMPOSE["services"][name]["command"] for name in ("model", "proxy")},
    "kubernetes": {name: CONTAINERS[name]["args"] for name in ("model", "proxy")},
}


def options_of(arguments: list[str]) -> dict[str, str]:
    return dict(part.removeprefix("--").split("=", 1) for part in arguments)


def message(name: str, **fields: Any) -> Any:
    """A message class that tensorflow-serving-api does not carry; each field is its type, repeated in a list."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="test", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    built = file.message_type.add(name=name)
    kinds = descriptor_pb2.FieldDescriptorProto
    for number, (field, kind) in enumerate(fields.items(), 1):
        label = kinds.LABEL_REPEATED if isinstance(kind, list) else kinds.LABEL_OPTIONAL
        kind = kind[0] if isinstance(kind, list) else kind
        added = built.field.add(name=field, number=number, label=label)
        if isinstance(kind, str):
            added.type, added.type_name = kinds.TYPE_MESSAGE, kind
        else:
            added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"test.{name}"))


INT64 = descriptor_pb2.FieldDescriptorProto.TYPE_INT64
BOOL = descriptor_pb2.FieldDescriptorProto.TYPE_BOOL


def test_models_config_has_two_versions_and_a_label_for_each() -> None:
    config = text_format.Parse((CONFIG / "models.config").read_text(), model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.model_platform, Path(model.base_path).name) == ("tensorflow", model.name)
    versions = list(model.model_version_policy.specific.versions)
    assert dict(model.version_labels) == {"stable": versions[0], "canary": versions[1]}
    assert not model.HasField("logging_config")  # the stock server would not start


def test_batching_config() -> None:
    """As `BatchingParameters` of session_bundle_config.proto."""
    number = ".google.protobuf.Int64Value"
    names = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    kind = message(
        "BatchingParameters",
        **dict.fromkeys(names, number),
        allowed_batch_sizes=[INT64],
        pad_variable_length_inputs=BOOL,
    )
    config = text_format.Parse((CONFIG / "batching.config").read_text(), kind())
    sizes = list(config.allowed_batch_sizes)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == config.max_batch_size.value
    assert all(getattr(config, name).value > 0 for name in names)


def test_monitoring_config() -> None:
    """As `MonitoringConfig` of monitoring_config.proto."""
    found = re.sub(r"(?m)^\s*#.*$", "", (CONFIG / "monitoring.config").read_text())
    assert " ".join(found.split()) == 'prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }'


@pytest.mark.parametrize("name", MANIFESTS, ids=" ".join)
def test_manifests_fit_the_schemas_of_kubernetes(name: tuple[str, str]) -> None:
    kubernetes_validate.validate(MANIFESTS[name], KUBERNETES_VERSION, strict=True)


def test_compose_file_fits_the_specification() -> None:
    text = re.sub(r"\$\{(\w+)[^}]*\}", r"\1", (SERVING / "docker-compose.yml").read_text())
    ComposeSpecification.model_validate(yaml.safe_load(text))


def test_every_manifest_is_there() -> None:
    kinds = sorted(kind for kind, _ in MANIFESTS)
    assert kinds == [
        "Deployment",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "Service",
    ]


@pytest.mark.parametrize("where", ARGUMENTS)
def test_flags_exist(where: str) -> None:
    assert set(options_of(ARGUMENTS[where]["model"])) <= SERVER_FLAGS
    assert options_of(ARGUMENTS[where]["model"])["allow_version_labels_for_unavailable_models"] == "true"
    known = {name for parameter in proxy.params for name in parameter.opts}
    assert {part.split("=")[0] for part in ARGUMENTS[where]["proxy"]} <= known


@pytest.mark.parametrize("where", ARGUMENTS)
def test_the_proxy_asks_the_ports_that_the_server_opens(where: str) -> None:
    server, asked = (options_of(ARGUMENTS[where][name]) for name in ("model", "proxy"))
    host = {"compose": "model", "kubernetes": "127.0.0.1"}[where]
    assert asked["upstream"] == f"{host}:{server['port']}"
    assert asked["upstream-rest"] == f"{host}:{server['rest_api_port']}"
    assert asked["host"] == "0.0.0.0"
    assert "api-keys" in asked
    assert "log-dir" in asked


def test_compose_publishes_the_proxy_only_and_locks_every_container() -> None:
    services = COMPOSE["services"]
    asked = options_of(services["proxy"]["command"])
    published = {name: service.get("ports", []) for name, service in services.items()}
    assert published == {"model": [], "proxy": [f"127.0.0.1:{asked[p]}:{asked[p]}" for p in ("grpc-port", "rest-port")]}
    assert COMPOSE["networks"]["behind"]["internal"] is True
    assert services["model"]["networks"] == ["behind"]
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["user"] == "${OWNER:-1000:1000}"
    mounts = {volume.rsplit(":", 2 if volume.endswith(":ro") else 1)[1]: volume for volume in all_volumes()}
    assert mounts["/models"].endswith(":ro")
    assert f":{asked['ops-port']}/readyz" in services["proxy"]["healthcheck"]["test"][-1]
    assert (
        f"/{options_of(services['model']['command'])['rest_api_port']}" in services["model"]["healthcheck"]["test"][-1]
    )
    for flag in ("api-keys", "log-dir"):
        assert asked[flag] in mounts


def all_volumes() -> list[str]:
    return list(itertools.chain(*(service["volumes"] for service in COMPOSE["services"].values())))


def test_compose_mounts_the_folder_of_the_config_files_where_they_are_looked_for() -> None:
    """The folder, not the files: a container keeps the old one of a file that an editor replaces."""
    flags = options_of(COMPOSE["services"]["model"]["command"])
    for flag, name in (
        ("model_config_file", "models"),
        ("batching_parameters_file", "batching"),
        ("monitoring_config_file", "monitoring"),
    ):
        assert flags[flag] == f"/config/{name}.config"
        assert (CONFIG / f"{name}.config").exists()
    assert [volume for volume in all_volumes() if "config" in volume] == ["./config:/config:ro"]


def test_the_proxy_is_given_the_time_it_needs_to_stop() -> None:
    assert int(COMPOSE["services"]["proxy"]["stop_grace_period"].removesuffix("s")) > GRACE_S + CLOSE_S
    (command, before_s) = CONTAINERS["proxy"]["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    assert POD["spec"]["terminationGracePeriodSeconds"] > int(before_s) + GRACE_S + CLOSE_S


def test_ports_and_names_agree_among_the_manifests() -> None:
    asked = options_of(CONTAINERS["proxy"]["args"])
    ports = {port["name"]: port["containerPort"] for port in CONTAINERS["proxy"]["ports"]}
    assert ports == {name: int(asked[f"{name}-port"]) for name in ("grpc", "rest", "ops")}
    assert "ports" not in CONTAINERS["model"]
    service = MANIFESTS["Service", "clf"]["spec"]
    assert [(port["name"], port["targetPort"]) for port in service["ports"]] == [("grpc", "grpc"), ("rest", "rest")]
    assert POD["metadata"]["annotations"]["prometheus.io/port"] == str(ports["ops"])
    labels = POD["metadata"]["labels"]
    assert service["selector"] == labels
    assert MANIFESTS["PodDisruptionBudget", "clf"]["spec"]["selector"]["matchLabels"] == labels
    assert MANIFESTS["NetworkPolicy", "clf"]["spec"]["podSelector"]["matchLabels"] == labels
    target = MANIFESTS["HorizontalPodAutoscaler", "clf"]["spec"]
    assert (target["scaleTargetRef"]["kind"], target["scaleTargetRef"]["name"]) == ("Deployment", "clf")
    assert {metric["containerResource"]["container"] for metric in target["metrics"]} == set(CONTAINERS)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert CONTAINERS["proxy"][probe]["httpGet"]["port"] == "ops"
    assert (
        str(CONTAINERS["model"]["startupProbe"]["tcpSocket"]["port"]) == options_of(CONTAINERS["model"]["args"])["port"]
    )


def test_network_policy_opens_the_proxy_and_nothing_else() -> None:
    policy = MANIFESTS["NetworkPolicy", "clf"]["spec"]
    clients, monitoring = policy["ingress"]
    asked = options_of(CONTAINERS["proxy"]["args"])
    assert [port["port"] for port in clients["ports"]] == [int(asked["grpc-port"]), int(asked["rest-port"])]
    assert [port["port"] for port in monitoring["ports"]] == [int(asked["ops-port"])]
    assert monitoring["from"]
    assert (policy["policyTypes"], policy["egress"]) == (["Ingress", "Egress"], [])


def test_pods_are_locked_and_mount_what_they_are_told_to_read() -> None:
    spec = POD["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    claims = {volumes[name]["persistentVolumeClaim"]["claimName"] for name in ("models", "logs")}
    assert claims == {name for kind, name in MANIFESTS if kind == "PersistentVolumeClaim"}
    for container in CONTAINERS.values():
        locked = container["securityContext"]
        assert locked["readOnlyRootFilesystem"] is True
        assert locked["allowPrivilegeEscalation"] is False
        assert locked["capabilities"] == {"drop": ["ALL"]}
        assert set(container["resources"]) == {"requests", "limits"}
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert {mount["name"] for mount in mounts.values()} <= set(volumes)
        for flag in ("model_config_file", "batching_parameters_file", "api-keys", "log-dir", "tls-cert"):
            path = options_of(container["args"]).get(flag)
            assert path is None or {path, str(Path(path).parent)} & set(mounts)
    (models,) = [mount for mount in CONTAINERS["model"]["volumeMounts"] if mount["name"] == "models"]
    assert models["readOnly"] is True


def test_inference_service_logs_everything_with_the_clients_name() -> None:
    """KServe's schema comes with no package; these are the fields of its v1beta1 API that are used."""
    (service,) = documents("kserve")
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    predictor = service["spec"]["predictor"]
    assert predictor["logger"]["mode"] == "all"
    assert predictor["logger"]["metadataHeaders"] == [
        "X-Client-Id"
    ]  # as Go writes a header; another case finds nothing
    assert predictor["model"]["modelFormat"] == {"name": "tensorflow"}
    assert predictor["model"]["storageUri"] == "pvc://clf-models/clf"
    assert ("PersistentVolumeClaim", "clf-models") in MANIFESTS


def test_the_image_starts_the_proxy_without_root() -> None:
    lines = (SERVING / "Dockerfile").read_text().splitlines()
    assert 'ENTRYPOINT ["dynamarks", "proxy"]' in lines
    assert "USER 1000:1000" in lines
    ports = options_of(ARGUMENTS["compose"]["proxy"])
    assert f"EXPOSE {ports['grpc-port']} {ports['rest-port']}" in lines


def test_readme_names_every_file() -> None:
    text = (SERVING / "README.md").read_text()
    for path in SERVING.rglob("*"):
        if path.is_file() and path.name != "README.md" and "__pycache__" not in path.parts:
            assert f"({path.relative_to(SERVING)})" in text, path
