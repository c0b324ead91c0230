#!/usr/bin/env bash
# Puts libtorch 2.11.0 into .libtorch/torch, unless LIBTORCH already names one.
#   scripts/libtorch.sh            the libraries that the Rust build needs (1.2 GB)
#   scripts/libtorch.sh python     also what `import torch` in Python needs (benchmarks, TorchScript test)
set -euo pipefail
cd "$(dirname "$0")/.."
version=2.11.0
pip() { python3 -m pip --disable-pip-version-check install --quiet --no-compile --root-user-action=ignore "$@"; }

have() { [ -f "$1/version.py" ] && grep -q "'$version" "$1/version.py"; }

if [ -n "${LIBTORCH:-}" ] && [ "$LIBTORCH" != ".libtorch/torch" ]; then
  have "$LIBTORCH" || echo "warning: LIBTORCH=$LIBTORCH does not say that it is $version; tch 0.24 needs exactly that" >&2
elif ! have .libtorch/torch; then
  rm -rf .libtorch
  mkdir -p .libtorch
  pip --target .libtorch/site --no-deps "torch==$version" nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85
  ln -sfn site/torch .libtorch/torch
fi

if [ "${1:-}" = python ] && [ ! -f .libtorch/python/.complete ]; then
  # The wheel's Python module links the whole CUDA stack even when only the CPU is used.
  rm -rf .libtorch/python
  pip --target .libtorch/python --no-deps \
    nvidia-cublas==13.1.0.3 nvidia-cudnn-cu13==9.19.0.56 nvidia-cufft==12.0.0.61 nvidia-cufile==1.15.1.6 \
    nvidia-curand==10.4.0.35 nvidia-cusolver==12.0.4.66 nvidia-cusparse==12.6.3.3 nvidia-nvjitlink==13.0.88 \
    nvidia-cuda-nvrtc==13.0.88 nvidia-nvtx==13.0.85 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85 \
    nvidia-cusparselt-cu13==0.8.0 nvidia-nccl-cu13==2.28.9 nvidia-nvshmem-cu13==3.4.5
  pip --target .libtorch/python numpy filelock typing-extensions sympy networkx jinja2 fsspec pillow
  touch .libtorch/python/.complete
fi
