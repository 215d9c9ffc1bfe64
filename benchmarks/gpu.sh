#!/usr/bin/env bash
# Builds, tests and times milkernels on a machine with a GPU, within ten minutes.
#
#     benchmarks/gpu.sh [FOLDER]
#
# The machine needs torch >= 2.11 with its Triton, a C++ compiler, pybind11, pytest, pytest-xdist,
# pytest-benchmark, hypothesis, matplotlib and tqdm; nothing is downloaded. FOLDER (gpu-results) gets
# log.txt, tests.txt, the table cuda.csv and its pictures. An interrupted or timed-out benchmark keeps
# what it has timed.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu-results}
mkdir -p "$out"
exec > >(tee "$out/log.txt") 2>&1
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD
unset TRITON_INTERPRET

# run SECONDS NAME COMMAND...: with a limit of its own, so that what follows still has its time.
failed=0
run() {
  local limit=$1 name=$2 began=$SECONDS
  shift 2
  # In the foreground the command alone is interrupted, not its workers beside it.
  timeout --foreground --signal=INT --kill-after=20 "$limit" "$@"
  local code=$?
  echo "gpu.sh: $name: exit code $code after $((SECONDS - began)) s"
  ((code == 0)) || failed=1
}

"$python" - <<'PYTHON' || exit 2
import sys
import torch
import triton

if not torch.cuda.is_available():
    sys.exit("gpu.sh: PyTorch finds no GPU")
print(torch.cuda.get_device_name(), "torch", torch.__version__, "triton", triton.__version__)
PYTHON

# One variant: of the C++ kernels nothing is measured here.
run 60 build env MILKERNELS_REQUIRE_CPP=1 MILKERNELS_VARIANTS=avx2-float \
  "$python" setup.py -q build_ext --inplace
# By itself: what it says of streams holds where no other process uses the GPU.
run 80 "streams, graphs and autocast" "$python" -m pytest -v tests/test_cuda.py > "$out/tests.txt"
# Nearly all of the tests' time is compilation, each worker's by itself.
run 160 tests "$python" -m pytest -v -n "$(nproc)" --dist worksteal \
  -k "triton or cuda or wrong_offsets or shared_among or shared_out or wider_than" \
  tests/test_triton_formula.py tests/test_kernels.py tests/test_gradients.py \
  tests/test_edge_cases.py tests/test_saturated_loss.py tests/test_layouts.py \
  tests/test_long_bags.py tests/test_statistics.py tests/test_statistics_shapes.py \
  tests/test_linear_attention.py tests/test_gated_fusion.py tests/test_class_attention.py \
  tests/test_rank.py tests/test_noisy_or.py tests/test_log_mean_exp.py tests/test_pool_bce.py \
  tests/test_pool_bce_gradients.py tests/test_packed.py >> "$out/tests.txt"
grep -E "^(FAILED|ERROR|gpu.sh)|passed|failed" "$out/tests.txt" | tail -n 40

bench=("$python" -m benchmarks.run --device cuda --out "$out/cuda.csv" --resume --budget 0.1)
# Compiles what is timed next, which one process alone would do most of its time.
began=$SECONDS
spare=$(mktemp -d)
compiling=()
for layout in classes_first frames_first; do
  for kind in probabilities logits; do
    for dtype in float32 bfloat16; do
      timeout --foreground --signal=INT --kill-after=20 45 "$python" -m benchmarks.run --device cuda --no-compile \
        --budget 0.001 --filter core --shape audioset --layout "$layout" --kind "$kind" \
        --dtype "$dtype" --out "$spare/$layout-$kind-$dtype.csv" > /dev/null 2>&1 &
      compiling+=($!)
    done
  done
done
wait "${compiling[@]}"
rm -r "$spare"
echo "gpu.sh: compiled after $((SECONDS - began)) s"
run 50 "core without torch.compile" "${bench[@]}" --no-compile --filter core --shape audioset
run 20 "embeddings" "${bench[@]}" --no-compile --filter attention_stats
run 30 "two-step attention" "${bench[@]}" --filter linear_attention
run 80 "core with torch.compile" "${bench[@]}" --filter core --shape audioset \
  --mode "forward + backward" --dtype float32
run 30 "the others" "${bench[@]}" --no-compile --shape audioset small
run 15 pictures "$python" -m benchmarks.plot "$out/cuda.csv" --out "$out"
echo "gpu.sh: ${SECONDS} s in all, results in $out"
exit $failed
