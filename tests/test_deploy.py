# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""docs/deploy: each port, path, variable and command is one that the programs have; what is said twice is the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml

from opentelemetry.sdk.environment_variables import OTEL_SERVICE_NAME
from support.deployment import (
    DEPLOY,
    KUBERNETES,
    ROOT,
    RULES,
    compose,
    dockerfile,
    load,
    manifests,
    server_configuration,
    services,
)
from support.deployment_facts import (
    CHART,
    CHART_SERVICE,
    COLLECTOR,
    IMAGES,
    OPERATOR_ANNOTATIONS,
    OPERATOR_COLLECTOR_SERVICE,
    OPERATOR_FOLDERS,
    OPERATOR_SERVICE_LABELS,
    TAIL_SAMPLING,
)

DOCS = ROOT / "docs"
OWN = {name: service for name, service in services().items() if "build" in service}
OTHERS = {name: service for name, service in services().items() if "build" not in service}
COLLECTOR_FILE = load(DEPLOY / "collector" / "collector.yaml")
SERVER_TRACE = "opentelemetry-nats-server-trace"


def image(service: dict[str, Any]) -> str:
    return service["image"].rsplit(":", 1)[0]


def flat(settings: dict[str, Any] | None, prefix: str = "") -> Iterator[str]:
    """The names of nested settings, joined by dots."""
    for name, value in (settings or {}).items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def known_variables() -> set[str]:
    """The variables that the SDK, its exporters and the instrumentations of the services read."""
    from opentelemetry import environment_variables as api  # noqa: PLC0415
    from opentelemetry.instrumentation import environment_variables as instrumentation  # noqa: PLC0415
    from opentelemetry.instrumentation.nats import environment_variables as nats  # noqa: PLC0415
    from opentelemetry.sdk import environment_variables as sdk  # noqa: PLC0415

    names = {name for module in (api, instrumentation, nats, sdk) for name in vars(module) if name.startswith("OTEL_")}
    # tests/deploy/test_logs.py asks opentelemetry-instrumentation-logging.
    return names | {"OTEL_PYTHON_LOG_CORRELATION"}


def program_variables(script: str) -> set[str]:
    """The variables that one of the services reads."""
    text = (DEPLOY / "services" / script).read_text(encoding="utf-8")
    return set(re.findall(r'environ(?:\[|\.get\()"(\w+)"', text))


class TestCompose:
    def test_images_have_a_version(self):
        for name, service in OTHERS.items():
            assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+(-alpine)?", service["image"]), name
            assert image(service) in IMAGES, name

    def test_ports_are_those_of_the_programs_and_open_on_loopback_only(self):
        for name, service in services().items():
            for port in service.get("ports", []):
                address, outside, inside = port.split(":")
                assert (address, outside) == ("127.0.0.1", inside), name
                assert int(inside) in IMAGES[image(service)].ports, name

    def test_every_address_is_one_of_a_service(self):
        texts = [path.read_text(encoding="utf-8") for path in DEPLOY.rglob("*.y*ml") if KUBERNETES not in path.parents]
        found = set(re.findall(r"(?:@|//|[\[ \"])([a-z][a-z-]+):(\d{4,5})\b", "\n".join(texts)))
        assert len(found) > 6
        for name, port in found - {("localhost", port) for port in ("3000", "9090", "16686")}:
            assert int(port) in IMAGES[image(services()[name])].ports, f"{name}:{port}"

    def test_what_is_mounted_is_there_and_is_read(self):
        volumes = compose()["volumes"]
        for name, service in OTHERS.items():
            for volume in service.get("volumes", []):
                source, target, *_ = volume.split(":")
                assert source in volumes or (DEPLOY / source).exists(), volume
                paths = IMAGES[image(service)].paths | own_paths(name)
                assert any(target == path or target.startswith(f"{path}/") for path in paths), volume

    def test_commands_are_those_of_the_programs(self):
        for name, service in OTHERS.items():
            flags = {part.split("=")[0] for part in service.get("command", []) if part.startswith("-")}
            assert flags <= IMAGES[image(service)].flags, name
            paths = {part.split("=")[-1] for part in service.get("command", []) if "/" in part and "//" not in part}
            assert paths <= IMAGES[image(service)].paths, name
            assert service.get("environment", {}).keys() <= IMAGES[image(service)].variables | own_variables(name)

    def test_own_services_run_programs_that_there_are(self):
        for name, service in OWN.items():
            if "entrypoint" in service:
                assert service["entrypoint"] == [SERVER_TRACE]
                assert entry_points(group="console_scripts", name=SERVER_TRACE)
                continue
            [script] = service["command"]
            assert (DEPLOY / "services" / script).is_file()
            assert service["environment"].keys() <= known_variables() | program_variables(script), name
            assert service["environment"][OTEL_SERVICE_NAME] == name
            assert {"NATS_URL"} <= program_variables(script) <= service["environment"].keys()

    def test_own_services_are_built_from_the_checkout(self):
        for service in OWN.values():
            build = service["build"]
            assert (DEPLOY / build["context"]).resolve() == ROOT
            assert build["target"] in dockerfile(ROOT / build["dockerfile"])
            assert service["image"].endswith(":latest")  # built here, not fetched

    def test_the_image_instruments_what_it_runs(self):
        stages = dockerfile(DEPLOY / "services" / "Dockerfile")
        assert stages["plain"][-1] == 'ENTRYPOINT ["python"]'
        assert stages["instrumented"][-1] == 'ENTRYPOINT ["opentelemetry-instrument", "python"]'
        assert [point.name for point in entry_points(group="console_scripts", name="opentelemetry-instrument")]
        assert all("USER 65534:65534" in stages[name] for name in ("plain", "instrumented"))

    def test_what_is_copied_into_images_is_there(self):
        for file in DEPLOY.rglob("Dockerfile"):
            allowed = file.with_name("Dockerfile.dockerignore").read_text(encoding="utf-8")
            for lines in dockerfile(file).values():
                for line in lines:
                    if copied := re.fullmatch(r"COPY (?!--from)(.*) \S+", line):
                        for pattern in copied[1].split():
                            assert list(ROOT.glob(pattern)), line
                            assert re.search(rf"^!{re.escape(pattern.rsplit('/*', 1)[0])}", allowed, re.M) or (
                                f"!{Path(pattern).parent}" in allowed
                            ), line


def words(configuration: str) -> list[str]:
    """A server configuration without blanks, quotes, commas and colons."""
    return re.findall(r"[{}\[\]]|[^\s\",:{}\[\]]+", configuration)


def own_paths(name: str) -> set[str]:
    """Paths that our own configuration of a service names."""
    if name == "nats":
        return set(re.findall(r'store_dir: "(.*)"', (DEPLOY / "nats" / "nats-server.conf").read_text(encoding="utf-8")))
    if name == "prometheus":
        return {str(Path(path).parent) for path in load(DEPLOY / "prometheus" / "prometheus.yml")["rule_files"]}
    return set()


def own_variables(name: str) -> set[str]:
    """Variables that our own configuration of a service reads."""
    text = (DEPLOY / "nats" / "nats-server.conf").read_text(encoding="utf-8")
    return set(re.findall(r"\$(\w+)", text)) if name == "nats" else set()


class TestCollector:
    @pytest.mark.parametrize("kind", COLLECTOR)
    def test_components_and_their_settings_exist(self, kind: str):
        for name, settings in COLLECTOR_FILE[kind].items():
            assert set(flat(settings)) <= COLLECTOR[kind][name.split("/")[0]], name

    def test_pipelines_use_what_is_configured_and_all_of_it(self):
        used: dict[str, set[str]] = {kind: set() for kind in COLLECTOR}
        used["extensions"] = set(COLLECTOR_FILE["service"]["extensions"])
        for pipeline in COLLECTOR_FILE["service"]["pipelines"].values():
            for kind, names in pipeline.items():
                used[kind] |= set(names)
        assert used == {kind: set(COLLECTOR_FILE[kind]) for kind in COLLECTOR}

    def test_memory_is_limited_first_and_batches_are_made_last(self):
        for pipeline in COLLECTOR_FILE["service"]["pipelines"].values():
            assert (pipeline["processors"][0], pipeline["processors"][-1]) == ("memory_limiter", "batch")

    def test_tail_sampling_asks_for_attributes_that_spans_have(self):
        semconv = (DOCS / "semconv.md").read_text(encoding="utf-8")
        policies = COLLECTOR_FILE["processors"]["tail_sampling"]["policies"]
        for policy in policies:
            assert policy.keys() == {"name", "type", policy["type"]}
            settings = policy[policy["type"]]
            assert settings.keys() <= TAIL_SAMPLING[policy["type"]]
            if "key" in settings:
                # Of several under one prefix the page gives the last part.
                assert f"`{settings['key']}`" in semconv or f"`.{settings['key'].rsplit('.')[-1]}`" in semconv
        assert len({policy["name"] for policy in policies}) == len(policies)

    def test_endpoints_are_open_to_other_containers(self):
        for endpoint in re.findall(r"endpoint: (\S+)", yaml.safe_dump(COLLECTOR_FILE)):
            assert endpoint.startswith("0.0.0.0:") or endpoint == "jaeger:4317"


class TestGrafana:
    provisioning = DEPLOY / "grafana" / "provisioning"

    def test_data_sources_are_services(self):
        sources = load(self.provisioning / "datasources" / "datasources.yaml")["datasources"]
        assert {source["type"]: source["url"] for source in sources} == {
            "prometheus": "http://prometheus:9090",
            "jaeger": "http://jaeger:16686",
        }
        uids = {source["uid"] for source in sources}
        for source in sources:
            for exemplar in source.get("jsonData", {}).get("exemplarTraceIdDestinations", []):
                assert exemplar["datasourceUid"] in uids
        assert COLLECTOR_FILE["exporters"]["prometheus"]["enable_open_metrics"]

    def test_the_dashboard_is_where_it_is_looked_for(self):
        [provider] = load(self.provisioning / "dashboards" / "dashboards.yaml")["providers"]
        targets = [volume.split(":")[1] for volume in services()["grafana"]["volumes"]]
        assert any(target.startswith(provider["options"]["path"]) and target.endswith(".json") for target in targets)


class TestKubernetes:
    def of(self, kind: str) -> list[dict[str, Any]]:
        return [manifest for manifest in manifests() if manifest["kind"] == kind]

    def test_every_manifest_is_listed(self):
        listed = set(load(KUBERNETES / "kustomization.yaml")["resources"])
        assert listed == {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml", "nats-values.yaml"}

    def test_everything_is_in_one_namespace(self):
        [namespace] = self.of("Namespace")
        for manifest in manifests():
            if manifest is not namespace and manifest["kind"] != "Namespace":
                assert manifest["metadata"]["namespace"] == namespace["metadata"]["name"]

    def test_the_collector_is_that_of_compose(self):
        [collector] = self.of("OpenTelemetryCollector")
        text = yaml.safe_dump(COLLECTOR_FILE).replace("jaeger:4317", "jaeger.observability.svc:4317")
        assert yaml.safe_dump(collector["spec"]["config"]) == text
        assert collector["spec"]["image"] == services()["otel-collector"]["image"]
        # All spans of a trace must come to one.
        assert collector["spec"]["replicas"] == 1

    def test_the_rules_are_those_of_the_alerts(self):
        [rule] = self.of("PrometheusRule")
        assert rule["spec"] == load(RULES)

    def test_the_monitor_finds_the_collectors_service(self):
        [monitor], [collector] = self.of("ServiceMonitor"), self.of("OpenTelemetryCollector")
        metadata = collector["metadata"]
        labels = {key: value.format(**metadata) for key, value in OPERATOR_SERVICE_LABELS.items()}
        assert monitor["spec"]["selector"]["matchLabels"] == labels
        [endpoint] = monitor["spec"]["endpoints"]
        # The operator names a service's port after the exporter.
        assert endpoint["port"] in collector["spec"]["config"]["exporters"]
        assert endpoint["honorLabels"] is True

    def test_addresses_are_those_of_services(self):
        [collector] = self.of("OpenTelemetryCollector")
        name = OPERATOR_COLLECTOR_SERVICE.format(**collector["metadata"])
        known = {(f"{name}.shop.svc", 4318), (f"{CHART_SERVICE[0]}.shop.svc", CHART_SERVICE[1])}
        text = yaml.safe_dump([self.of("Deployment"), self.of("Instrumentation")])
        found = {(host, int(port)) for host, port in re.findall(r"([\w.-]+\.svc):(\d+)", text)}
        assert found == known

    def test_deployments_run_the_programs_of_compose(self):
        deployments = {manifest["metadata"]["name"]: manifest for manifest in self.of("Deployment")}
        assert deployments.keys() == OWN.keys()
        [secret] = self.of("Secret")
        for name, deployment in deployments.items():
            pod = deployment["spec"]["template"]
            [container] = pod["spec"]["containers"]
            arguments = [self.in_compose(argument) for argument in container["args"]]
            assert (container.get("command"), arguments) == (OWN[name].get("entrypoint"), OWN[name]["command"])
            for variable in container["env"]:
                if "valueFrom" in variable:
                    key = variable["valueFrom"]["secretKeyRef"]
                    assert key["name"] == secret["metadata"]["name"] and key["key"] in secret["stringData"]
            labels = deployment["spec"]["selector"]["matchLabels"]
            assert labels.items() <= pod["metadata"]["labels"].items()
            # The programs get theirs from the operator; the exporter is no program to instrument.
            annotations = pod["metadata"].get("annotations", {})
            assert bool(annotations) == (name != "server-trace")
            for annotation, value in annotations.items():
                assert value in OPERATOR_ANNOTATIONS[annotation]

    def in_compose(self, argument: str) -> str:
        return argument.replace("nats.shop.svc", "nats")

    def test_the_instrumentation_sets_variables_that_there_are(self):
        [instrumentation] = self.of("Instrumentation")
        variables = {each["name"]: each["value"] for each in instrumentation["spec"]["python"]["env"]}
        assert variables.keys() <= known_variables()
        of_compose = OWN["shop"]["environment"]
        assert variables.items() <= of_compose.items()
        assert instrumentation["spec"]["exporter"]["endpoint"].endswith(":4318")

    def test_the_image_layer_goes_where_the_operator_copies_from(self):
        lines = dockerfile(KUBERNETES / "instrumentation" / "Dockerfile")["last"]
        assert [line.split()[-1] for line in lines if line.startswith("COPY")] == OPERATOR_FOLDERS
        # Exactly what the image has in addition: its dependencies are there in versions that go together.
        [layer] = [line for line in dockerfile(KUBERNETES / "instrumentation" / "Dockerfile")["layer"] if "pip" in line]
        assert "--no-deps" in layer

    def test_the_charts_values_are_values_of_the_chart(self):
        values = load(KUBERNETES / "nats-values.yaml")
        given = set(flat(values))
        assert given
        for name in given:
            assert name in CHART or any(name.startswith(f"{known}.") for known in ("config.merge", "container.env")), (
                name
            )

    def test_the_server_is_that_of_compose(self):
        # Compared as text, without what the format leaves to taste; tests/deploy asks the server whether it is one.
        text = re.sub(r"#.*", "", (DEPLOY / "nats" / "nats-server.conf").read_text(encoding="utf-8"))
        [accounts] = re.findall(r"(accounts \{.*\})", text, re.S)
        assert words(f"{{{accounts}}}") == words(server_configuration())

    def test_secrets_of_the_chart_are_there(self):
        [secret] = self.of("Secret")
        for name, source in load(KUBERNETES / "nats-values.yaml")["container"]["env"].items():
            assert f"${name}" in server_configuration()
            assert source["valueFrom"]["secretKeyRef"]["name"] == secret["metadata"]["name"]
            assert source["valueFrom"]["secretKeyRef"]["key"] in secret["stringData"]
