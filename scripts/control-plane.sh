#!/usr/bin/env bash
# A Kubernetes control plane for tests in .tools/kubernetes: built from the published Go modules, pinned by
# tests/control-plane/go.sum. Takes Go and minutes the first time. etcd comes from the system (Debian: etcd-server).
set -euo pipefail
cd "$(dirname "$0")/.."
out=$PWD/.tools/kubernetes
if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
  echo "the control plane in $KUBEBUILDER_ASSETS is used"
  exit 0
fi
mkdir -p "$out"
mark=$(cat tests/control-plane/go.mod tests/control-plane/go.sum tests/control-plane/main.go | sha256sum)
# What a cluster of this version says it is.
version=k8s.io/component-base/version
flags="-s -w -X $version.gitVersion=v1.36.2 -X $version.gitMajor=1 -X $version.gitMinor=36"
if [ "$(cat "$out/mark" 2>/dev/null)" != "$mark" ]; then
  command -v go >/dev/null || { echo "go is not installed: no control plane for tests" >&2; exit 1; }
  (cd tests/control-plane && CGO_ENABLED=0 go build -trimpath -ldflags "$flags" -o "$out/control-plane" .)
  for part in kube-apiserver kube-controller-manager kube-scheduler; do
    ln -sf control-plane "$out/$part"
  done
  echo "$mark" >"$out/mark"
fi
