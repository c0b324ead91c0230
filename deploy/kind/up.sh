#!/usr/bin/env bash
# A whole cluster in containers, with images built from this tree, and a job on it. Needs docker, kind, kubectl and helm.
#   deploy/kind/up.sh          cluster, images, operator, teacher, job
#   deploy/kind/up.sh down     all of it away
set -euo pipefail
cd "$(dirname "$0")/../.."
here=deploy/kind namespace=distil version=0.1.0
for program in docker kind kubectl helm; do
  command -v "$program" >/dev/null || { echo "$program is needed" >&2; exit 1; }
done
if [ "${1:-}" = down ]; then exec kind delete cluster --name stillhouse; fi
on() { kubectl --context kind-stillhouse --namespace "$namespace" "$@"; }

echo "== images"
docker build -q -f deploy/docker/control.Dockerfile --target operator -t stillhouse/stillhouse-operator:$version .
docker build -q -f deploy/docker/control.Dockerfile --target stillhouse -t stillhouse/stillhouse:$version .
docker build -q -f deploy/docker/worker.Dockerfile -t stillhouse/stillhouse-worker:$version .

echo "== cluster"
kind get clusters | grep -qx stillhouse || kind create cluster --config $here/cluster.yaml --wait 2m
kind load docker-image --name stillhouse stillhouse/stillhouse-operator:$version stillhouse/stillhouse:$version \
  stillhouse/stillhouse-worker:$version

echo "== operator"
helm upgrade --install stillhouse-crds charts/stillhouse-crds --kube-context kind-stillhouse
helm upgrade --install stillhouse charts/stillhouse --kube-context kind-stillhouse --namespace $namespace \
  --create-namespace --values $here/values.yaml --wait --timeout 3m
kubectl --context kind-stillhouse label namespace $namespace --overwrite pod-security.kubernetes.io/enforce=restricted

echo "== images of digits, and a teacher"
on apply -f $here/data.yaml
on wait --for=condition=Ready pod/loader --timeout 2m
on cp examples/data/digits/. loader:/data
on delete pod loader --now
on apply -f $here/teacher.yaml
on rollout status deployment/teacher --timeout 5m

echo "== job"
on apply -f $here/job.yaml
echo "watch it: kubectl --context kind-stillhouse -n $namespace get djob,pods --watch"
