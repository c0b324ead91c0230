#!/usr/bin/env bash
# Helm charts and what is made of them, without a cluster.
#   scripts/charts.sh check    lint, render, validate; copies and deploy/manifests are in step; Dockerfiles are linted
#   scripts/charts.sh faults   plant faults, each of which a check must find
#   scripts/charts.sh sync     write the copies in the chart, and deploy/manifests
#   scripts/charts.sh python   print the Python that has Helm (tests/python/helm.py runs with it)
set -euo pipefail
cd "$(dirname "$0")/.."
home=.tools/charts pins=tests/python/charts.txt
if ! cmp -s "$pins" "$home/.complete"; then
  rm -rf "$home"
  python3 -m venv "$home"
  "$home/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes --requirement "$pins"
  cp "$pins" "$home/.complete"
fi
case ${1:-} in
  check | sync) exec "$home/bin/python" tests/python/charts.py "$1" ;;
  faults) exec "$home/bin/python" tests/python/charts_faults.py ;;
  python) echo "$PWD/$home/bin/python" ;;
  *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
