#!/usr/bin/env bash
# Measures everything on one GPU, in less than 10 minutes:
#
#   bash benchmarks/device/run.sh [--smoke] [--device cuda] [--output FOLDER]
#
# 1. the installation and the device (ml-train doctor)
# 2. every form of the kernels against fp64, a layer's step at true width against the device's peak and
#    against stock megatron-core, peak memory (measure.py)
# 3. a short training run that saves, a second start that resumes it, and a profile
# 4. two runs under --deterministic-mode, which must be equal to the bit
#
# A bare machine: put wheels of ml-data, ml-models, ml-train and what they lack into the folder WHEELS (default
# benchmarks/device/wheels), for instance with `pip wheel -w benchmarks/device/wheels packages/*`. The machine's
# own torch is kept. Without that folder the python on PATH is used, or PYTHON.
# --smoke takes small sizes, and a CPU where there is no device.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
smoke=() device=cuda output=device-benchmark
while [ $# -gt 0 ]; do
    case $1 in
        --smoke) smoke=(--smoke); device=cpu ;;
        --device) device=${2:?--device needs a name}; shift ;;
        --output) output=${2:?--output needs a folder}; shift ;;
        *) echo "run.sh: unknown argument $1; known: --smoke, --device D, --output FOLDER" >&2; exit 2 ;;
    esac
    shift
done
mkdir -p "$output"

python=${PYTHON:-python3}
wheels=${WHEELS:-$here/wheels}
if [ -d "$wheels" ]; then
    "$python" -m venv --system-site-packages "$output/venv"
    python=$output/venv/bin/python
    "$python" -m pip install --quiet --no-index --find-links "$wheels" ml-data ml-models ml-train
fi

step() { echo "== $* ($SECONDS s)"; }

step "1 doctor"
"$python" -m ml_train.cli doctor --device "$device" | tee "$output/doctor.txt"

step "2 parity and speed"
"$python" "$here/measure.py" --device "$device" --output "$output" "${smoke[@]}" | tee "$output/measure.txt"

step "3 train, save, resume, profile"
sizes=(--seq-length 1024 --micro-batch-size 4 --global-batch-size 8 --bf16)
if [ ${#smoke[@]} -gt 0 ]; then sizes=(--seq-length 32 --micro-batch-size 1 --global-batch-size 2); fi
# train FOLDER FLAGS: a run in $output/FOLDER
train() {
    local run=$output/$1; shift
    "$python" -m ml_train.launch --standalone --nproc-per-node 1 --log-dir "$output/logs" -m ml_train.cli pretrain \
        --device "$device" --model grok1-tiny --mock-data "${sizes[@]}" --log-interval 1 \
        --save "$run" --load "$run" "$@" 2>&1 | tee -a "$output/train.txt"
}
rm -rf "$output/run" "$output/equal1" "$output/equal2" "$output/train.txt"
train run --train-iters 4 --save-interval 2
train run --train-iters 6 --profile --profile-step-start 5 --profile-step-end 6
grep -q "step 4" "$output/train.txt" || { echo "run.sh: the second start did not resume" >&2; exit 1; }

step "4 two runs under --deterministic-mode"
for run in equal1 equal2; do train "$run" --train-iters 4 --deterministic-mode; done
"$python" "$here/equal_runs.py" "$output/equal1" "$output/equal2" | tee "$output/equal.txt"
step "done: $output"
