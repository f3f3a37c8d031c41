#!/usr/bin/env bash
# Builds promtool and a collector with the components of deploy/otel-collector.yaml, in the versions of deploy/compose.yaml, from their Go
# modules, and has them validate their files. Needs Go 1.25 or newer, a network, and some ten minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
version_of() { sed -n "s|.*image: $1:v\{0,1\}\([0-9.]*\)\$|\1|p" deploy/compose.yaml; }
collector=$(version_of otel/opentelemetry-collector-contrib)
prometheus=$(version_of prom/prometheus)
# Prometheus 3.7.3 is v0.307.3 as a module.
IFS=. read -r major minor patch <<<"$prometheus"
module=$(printf 'v0.%d%02d.%d' "$major" "$minor" "$patch")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

mkdir "$folder/promtool" "$folder/collector"
(
  cd "$folder/promtool"
  go mod init check
  go get "github.com/prometheus/prometheus/cmd/promtool@$module"
  go build -o ../bin-promtool github.com/prometheus/prometheus/cmd/promtool
)
cp deploy/checks/collector.go "$folder/collector/main.go"
(
  cd "$folder/collector"
  go mod init check
  for path in otelcol exporter/otlpexporter exporter/otlphttpexporter processor/batchprocessor processor/memorylimiterprocessor receiver/otlpreceiver service; do
    go mod edit -require "go.opentelemetry.io/collector/$path@v$collector"
  done
  for path in extension/storage/filestorage receiver/filelogreceiver; do
    go mod edit -require "github.com/open-telemetry/opentelemetry-collector-contrib/$path@v$collector"
  done
  go mod tidy
  go build -o ../bin-collector .
)
"$folder/bin-promtool" check config deploy/prometheus/prometheus.yml
"$folder/bin-promtool" test rules deploy/prometheus/rules.test.yml
"$folder/bin-collector" validate --config=deploy/otel-collector.yaml
echo "promtool $prometheus and collector $collector accept their files"
