#!/usr/bin/env bash
# Puts NCCL with its header, and the CUDA runtime, into .nccl/site (350 MB), unless STILLHOUSE_NCCL already names a library.
set -euo pipefail
cd "$(dirname "$0")/.."
version=2.32.3
library=.nccl/site/nvidia/nccl/lib/libnccl.so.2

if [ -n "${STILLHOUSE_NCCL:-}" ]; then
  [ -f "$STILLHOUSE_NCCL" ] || { echo "STILLHOUSE_NCCL=$STILLHOUSE_NCCL is no file" >&2; exit 1; }
elif [ ! -f "$library" ] || [ ! -d ".nccl/site/nvidia_nccl_cu13-$version.dist-info" ]; then
  rm -rf .nccl
  python3 -m pip --disable-pip-version-check install --quiet --no-compile --root-user-action=ignore \
    --target .nccl/site --no-deps "nvidia-nccl-cu13==$version" nvidia-cuda-runtime==13.0.96
fi
