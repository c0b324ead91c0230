#!/usr/bin/env bash
# Kueue for tests, in .tools/kueue: its manager, built from its published Go module, pinned by tests/kueue/go.sum, and its
# Helm chart out of the same module. Takes Go, and minutes the first time.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$PWD/.tools/kueue module=sigs.k8s.io/kueue
mkdir -p "$out"
mark=$(cat tests/kueue/go.mod tests/kueue/go.sum | sha256sum)
if [ "$(cat "$out/mark" 2>/dev/null)" != "$mark" ]; then
  command -v go >/dev/null || { echo "go is not installed: no Kueue for tests" >&2; exit 1; }
  cd tests/kueue
  CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$out/manager" "$module/cmd/kueue"
  rm -rf "$out/chart"
  cp -r "$(go list -m -f '{{.Dir}}' "$module")/charts/kueue" "$out/chart"
  chmod -R u+w "$out/chart"
  echo "$mark" >"$out/mark"
fi
