#!/usr/bin/env bash
# Puts teachers that nobody here wrote into .foreign-teachers: MLServer and the KServe Python server, each in a virtual
# environment of its own, every package at the version that tests/python/teachers/*.txt names. The models that they
# serve need PyTorch, which comes from scripts/libtorch.sh python.
set -euo pipefail
cd "$(dirname "$0")/.."
for server in mlserver kserve; do
  home=.foreign-teachers/$server
  pins=tests/python/teachers/$server.txt
  if cmp -s "$pins" "$home/.complete"; then continue; fi
  rm -rf "$home"
  python3 -m venv "$home"
  "$home/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --requirement "$pins"
  cp "$pins" "$home/.complete"
done
