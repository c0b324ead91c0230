#!/bin/sh
# Puts the libraries of libtorch that a worker needs into ROOT, at the paths they have: libraries.sh cpu|cuda SITE ROOT
# Headers, archives and what only Python loads stay behind.
set -eu
device=$1 site=$2 root=$3
take() {
  mkdir -p "$root$(dirname "$1")"
  cp -L "$1" "$root$1"
}
case $device in
  cpu)
    # What the program names, and what those name: libcudart and libcupti are among them even here.
    ldd "$site/torch/lib/libtorch_cpu.so" "$site/torch/lib/libc10.so" |
      awk '{ for (i = 1; i <= NF; i++) if ($i ~ /^\//) print $i }' | tr -d : | while read -r library; do realpath -s "$library"; done |
      sort -u | while read -r library; do
      case $library in "$site"/*) take "$library" ;; esac
    done
    ;;
  cuda)
    # Most are opened by name at run time (cuDNN's parts, nvrtc), so all come.
    find "$site/torch/lib" "$site/nvidia" -name '*.so*' ! -name 'libtorch_python.so' ! -name 'libshm.so' |
      while read -r library; do take "$library"; done
    ;;
esac
