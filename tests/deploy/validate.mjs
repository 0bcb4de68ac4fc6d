// Copyright The OpenTelemetry Authors
// SPDX-License-Identifier: Apache-2.0

// Reads manifests as a JSON array from standard input, and checks each by the schema of its kind.

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const modules = pathToFileURL(`${process.env.KUBERNETES_MODELS}/node_modules/@kubernetes-models/`);
const packages = {
  "monitoring.coreos.com": "prometheus-operator",
  "opentelemetry.io": "opentelemetry-operator",
};

for (const manifest of JSON.parse(readFileSync(0, "utf-8"))) {
  const [group] = manifest.apiVersion.split("/");
  const file = new URL(`${packages[group]}/${manifest.apiVersion}/${manifest.kind}.js`, modules);
  const { [manifest.kind]: Model } = await import(file);
  new Model(manifest).validate();
  console.log(`${manifest.kind}/${manifest.metadata.name}`);
}
