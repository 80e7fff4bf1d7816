#!/usr/bin/env bash
# Delete the cluster that up.sh made.
set -euo pipefail

if ! command -v kind > /dev/null; then
  echo "down.sh: not on the PATH: kind" >&2
  exit 1
fi
kind delete cluster --name "${CLUSTER:-whaleflux}"
