#!/usr/bin/env bash
# A kind cluster with WhaleFlux and one emulated service. Run it again to bring a change in.
set -euo pipefail

cluster=${CLUSTER:-whaleflux}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
image=whaleflux/whaleflux:kind

missing=()
for tool in docker kind kubectl helm; do
  command -v "$tool" > /dev/null || missing+=("$tool")
done
if ((${#missing[@]})); then
  echo "up.sh: not on the PATH: ${missing[*]}" >&2
  exit 1
fi
if ! docker info > /dev/null 2>&1; then
  echo "up.sh: no Docker daemon answers (docker info)" >&2
  exit 1
fi

docker build --tag "$image" "$root"
if ! kind get clusters 2> /dev/null | grep --quiet --line-regexp --fixed-strings "$cluster"; then
  kind create cluster --name "$cluster" --config "$here/cluster.yaml" --wait 120s
fi
kind load docker-image "$image" --name "$cluster"

# Always by name: whatever context is current stays out of it.
kube=(kubectl --context "kind-$cluster")
helm upgrade --install whaleflux "$root/deploy/helm/whaleflux" \
  --kube-context "kind-$cluster" --namespace whaleflux-system --create-namespace \
  --set image.repository="${image%:*}" --set image.tag="${image##*:}" \
  --set replicas=1 --set-string podAnnotations.built="$(docker image inspect --format '{{.Id}}' "$image")" \
  --wait --timeout 180s
helm test whaleflux --kube-context "kind-$cluster" --namespace whaleflux-system --timeout 120s

"${kube[@]}" apply --namespace default --filename "$root/examples/kubernetes/llmservice.yaml"
"${kube[@]}" wait --namespace default llms/chat --for=condition=Ready --timeout=180s
"${kube[@]}" get llms --namespace default

cat << END

It serves. To ask it:

  kubectl --context kind-$cluster port-forward svc/chat 8000:80
  curl localhost:8000/v1/completions -H 'Content-Type: application/json' \\
    -d '{"model": "llama-3.1-8b", "prompt": "hello", "max_tokens": 32}'

The console, on http://localhost:8080:

  kubectl --context kind-$cluster -n whaleflux-system port-forward svc/whaleflux-operator 8080

A failover; the standby takes over:

  kubectl --context kind-$cluster delete pod --force -l serving.whaleflux.io/role=serving

To be rid of it all: deploy/kind/down.sh
END
