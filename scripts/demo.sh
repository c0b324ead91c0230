#!/usr/bin/env bash
# The whole thing on real images: train a teacher, serve it over HTTP as a black box, distil a student from it.
# Results lie in demo-out/; a second run starts from scratch.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=target/release
data=examples/data/digits
out=demo-out
rm -rf "$out"
mkdir -p "$out"

echo "== a teacher: LeNet-5 on 1,297 labelled UCI digits (the student never sees a label)"
"$bin/stillhouse-worker" teacher train --images $data/train-images-idx3-ubyte.gz --labels $data/train-labels-idx1-ubyte.gz \
  --test-images $data/test-images-idx3-ubyte.gz --test-labels $data/test-labels-idx1-ubyte.gz \
  --size 16x16 --architecture lenet5 --batch 32 --epochs 40 --out "$out/teacher.safetensors"

echo "== served over HTTP, Open Inference Protocol v2"
"$bin/stillhouse-worker" teacher serve --model "$out/teacher.safetensors" --name digits --listen 127.0.0.1:0 \
  --bill "$out/teacher-bill.txt" > "$out/teacher.log" 2>&1 &
teacher=$!
trap 'kill $teacher 2>/dev/null || true' EXIT
url=
for _ in $(seq 100); do
  url=$(sed -n 's/^serving .* at //p' "$out/teacher.log")
  [ -n "$url" ] && break
  kill -0 $teacher 2>/dev/null || { cat "$out/teacher.log" >&2; exit 1; }
  sleep 0.1
done
sed "s|http://127.0.0.1:8080|$url|; s|data/digits|../$data|g" examples/digits.yaml > "$out/job.yaml"

echo "== the student: 200 unlabelled digits, 1,900 queries, active against random"
"$bin/stillhouse" run "$out/job.yaml" --dir "$out/digits" --workers 2
echo
echo "the teacher's own bill: $(wc -l < "$out/teacher-bill.txt") images answered"
echo "open $out/digits/report.html"
