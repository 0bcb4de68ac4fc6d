# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What the programs of the deployment have, where no test can ask them: read from their sources and images.

What can be asked (nats-server, Prometheus, the SDK, this package's own commands) is asked by the tests instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Image:
    """A container image.

    Attributes:
        ports: Ports that its program listens on, as it is configured here.
        paths: Files and folders that it reads or writes.
        flags: Options of its command line.
        variables: Environment variables that it reads.
    """

    ports: set[int]
    paths: set[str] = field(default_factory=set)
    flags: set[str] = field(default_factory=set)
    variables: set[str] = field(default_factory=set)


IMAGES = {
    # nats-docker, 2.12.x/alpine3.22/Dockerfile: EXPOSE, CMD, and busybox's wget.
    "nats": Image({4222, 6222, 8222}, {"/etc/nats/nats-server.conf"}, {"--config"}),
    # prometheus-nats-exporter, main.go and exporter/exporter.go of 0.20.
    "natsio/prometheus-nats-exporter": Image({7777}, flags={"-varz", "-connz", "-subz", "-healthz", "-jsz"}),
    # opentelemetry-collector-releases, distributions/otelcol-contrib/Dockerfile of 0.159; 8889 and 13133 are ours.
    "otel/opentelemetry-collector-contrib": Image(
        {4317, 4318, 8889, 13133}, {"/etc/otelcol-contrib/config.yaml"}, {"--config"}
    ),
    # jaeger, cmd/jaeger/Dockerfile and all-in-one.yaml of 2.20; the image sets JAEGER_LISTEN_HOST to 0.0.0.0.
    "jaegertracing/jaeger": Image({4317, 4318, 16686}),
    # prometheus, Dockerfile and cmd/prometheus/main.go of 3.x.
    "prom/prometheus": Image(
        {9090},
        {"/etc/prometheus/prometheus.yml", "/prometheus"},
        {"--config.file", "--storage.tsdb.path", "--enable-feature"},
    ),
    # grafana, conf/defaults.ini and packaging/docker/run.sh of 12.4.
    "grafana/grafana": Image(
        {3000},
        {"/etc/grafana/provisioning", "/var/lib/grafana"},
        variables={"GF_AUTH_ANONYMOUS_ENABLED", "GF_AUTH_ANONYMOUS_ORG_ROLE"},
    ),
}

# The collector's components and their settings: config.go of each, 0.158. Names with a dot are of nested settings.
COLLECTOR = {
    "receivers": {"otlp": {"protocols.grpc.endpoint", "protocols.http.endpoint"}},
    "processors": {
        "memory_limiter": {"check_interval", "limit_percentage", "spike_limit_percentage"},
        "tail_sampling": {
            "decision_wait",
            "num_traces",
            "decision_cache.sampled_cache_size",
            "decision_cache.non_sampled_cache_size",
            "policies",
        },
        "batch": set(),
    },
    "exporters": {
        "otlp_grpc": {"endpoint", "tls.insecure"},
        "prometheus": {"endpoint", "enable_open_metrics", "metric_expiration"},
    },
    "extensions": {"health_check": {"endpoint"}},
}
TAIL_SAMPLING = {
    "status_code": {"status_codes"},
    "string_attribute": {"key", "values"},
    "numeric_attribute": {"key", "min_value", "max_value"},
    "latency": {"threshold_ms"},
    "probabilistic": {"sampling_percentage"},
}

# nats-io/k8s, helm/charts/nats/values.yaml of 2.14.2: the values that are set here; below merge and env all may be.
CHART = {
    "config.jetstream.enabled",
    "config.jetstream.fileStore.pvc.size",
    "config.merge",
    "container.env",
    "promExporter.enabled",
    "promExporter.podMonitor.enabled",
    "natsBox.enabled",
}
CHART_SERVICE = ("nats", 4222)
"""The service of a release called nats, and its port."""

# opentelemetry-operator 0.158: naming/main.go, manifests/collector/service.go, instrumentation/{annotation,python}.go.
OPERATOR_ANNOTATIONS = {"instrumentation.opentelemetry.io/inject-python": {"true"}}
OPERATOR_COLLECTOR_SERVICE = "{name}-collector"
OPERATOR_SERVICE_LABELS = {
    "app.kubernetes.io/instance": "{namespace}.{name}",
    "operator.opentelemetry.io/collector-service-type": "base",
}
OPERATOR_FOLDERS = ["/autoinstrumentation", "/autoinstrumentation-musl"]
OPERATOR_MOUNT = "/otel-auto-instrumentation-python"
OPERATOR_PYTHONPATH = f"{OPERATOR_MOUNT}/opentelemetry/instrumentation/auto_instrumentation:{OPERATOR_MOUNT}"
OPERATOR_DEFAULTS = {
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_METRICS_EXPORTER": "otlp",
    "OTEL_LOGS_EXPORTER": "otlp",
}
# autoinstrumentation/python/requirements.txt of 0.158, without the instrumentations of other libraries.
OPERATOR_REQUIREMENTS = [
    "opentelemetry-distro==0.65b0",
    "opentelemetry-exporter-otlp-proto-http==1.44.0",
    "opentelemetry-exporter-prometheus==0.65b0",
    "opentelemetry-instrumentation==0.65b0",
    "opentelemetry-instrumentation-logging==0.65b0",
    "opentelemetry-propagator-b3==1.44.0",
]
