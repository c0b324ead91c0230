#!/usr/bin/env bash
# A server that speaks S3, for tests, in .tools/object-store: versitygw, built from its published Go modules, pinned by
# tests/object-store/go.sum. Takes Go, and a minute or two the first time.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$PWD/.tools/object-store
mkdir -p "$out"
mark=$(cat tests/object-store/go.mod tests/object-store/go.sum | sha256sum)
if [ "$(cat "$out/mark" 2>/dev/null)" != "$mark" ]; then
  command -v go >/dev/null || { echo "go is not installed: no object store for tests" >&2; exit 1; }
  (cd tests/object-store && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$out/versitygw" github.com/versity/versitygw/cmd/versitygw)
  echo "$mark" >"$out/mark"
fi
