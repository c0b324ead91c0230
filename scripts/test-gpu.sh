#!/usr/bin/env bash
# The tests that need a card. Several ranks share one, for which NCCL must be 2.30 or later.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/nccl.sh
export STILLHOUSE_NCCL="${STILLHOUSE_NCCL:-$PWD/.nccl/site/nvidia/nccl/lib/libnccl.so.2}"
export STILLHOUSE_EXPECT_CUDA=1 STILLHOUSE_EXPECT_NCCL=1 NCCL_MULTI_RANK_GPU_ENABLE=1
cargo test --release --locked -p nccl-rs -p stillhouse-collective
cargo test --release --locked -p stillhouse-student --test cuda
cargo test --release --locked -p stillhouse-worker -- --include-ignored card
cargo test --release --locked -p stillhouse-tests --test system same_job
