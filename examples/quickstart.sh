#!/usr/bin/env bash
# Parquet -> tokens -> a trained, resumed Grok checkpoint, a loss curve and a sample, on the CPU.
# Needs bash, git and Python 3.11, 3.12 or 3.13: it makes its own environment in .venv and writes to run/quickstart.
#
#   bash examples/quickstart.sh            about 5 minutes on 2 cores, downloads not counted
#   bash examples/quickstart.sh --short    a few steps of the same, for checks
#
# From the environment: PYTHON (the newest that runs), VENV (.venv), WORK (run/quickstart), TP PP EP (2 2 2),
# GPUS_PER_NODE (8).
set -euo pipefail
cd "$(dirname "$0")/.."

half=30 total=60
case "${1:-}" in
    "") ;;
    --short) half=3 total=6 ;;
    -h|--help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "quickstart: unknown argument '$1'; the only one is --short" >&2; exit 2 ;;
esac

export WORK=${WORK:-run/quickstart}
venv=${VENV:-.venv}
step() { printf '\n== %s\n' "$*"; }

step "1/6 Environment ($venv)"
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(tools/find_python.sh)
    "$python" -m venv --clear "$venv"
fi
pip() { "$venv/bin/python" -m pip "$@" --disable-pip-version-check -c constraints/default.txt; }
"$venv/bin/python" --version
"$venv/bin/python" tools/announce_download.py constraints/default.txt
# torch is most of the download, so pip shows its progress.
"$venv/bin/python" -m pip show --quiet torch 2>/dev/null || pip install torch
pip install --quiet packages/ml-data packages/ml-models packages/ml-train
export PATH="$(cd "$venv" && pwd)/bin:$PATH"
rm -rf "$WORK" && mkdir -p "$WORK"

step "2/6 Tokenize examples/data/alpaca_sample.parquet"
python tools/preprocess_data.py --input examples/data/alpaca_sample.parquet \
    --tokenizer-name-or-path examples/data/grok1_tokenizer --output-prefix "$WORK/alpaca" \
    --workers 2 --log-interval 1000 --tokenizer-type PretrainedFromHF --append-eod

export CKPT_SAVE_DIR=$WORK/checkpoints DATA_PATH=$WORK/alpaca_text_document
train() {
    bash examples/grok1/pretrain_grok1_tiny.sh --train-iters "$total" --save-interval "$half" \
        --eval-interval "$half" --log-interval "$((half / 6 + 1))" --tensorboard-dir "$WORK/tensorboard" "$@"
}

step "3/6 Train grok1-tiny on 8 processes (TP${TP:-2} PP${PP:-2} EP${EP:-2}), stop half-way at step $half"
train --exit-interval "$half"

step "4/6 Resume from the checkpoint, to step $total"
train

step "5/6 The run as pictures"
ml-train report "$CKPT_SAVE_DIR" --output "$WORK/report.html" --loss-curve "$WORK/loss.png"

step "6/6 A sample from the trained checkpoint"
ml-train generate --load "$CKPT_SAVE_DIR" --tokenizer-name-or-path examples/data/grok1_tokenizer \
    --device cpu --prompt "What is a class in Python?" --max-new-tokens 48 --temperature 0.8 --top-p 0.8

step "Done"
echo "loss curve: $WORK/loss.png    report: $WORK/report.html    checkpoint: $CKPT_SAVE_DIR"
echo "go on training: CKPT_SAVE_DIR=$CKPT_SAVE_DIR DATA_PATH=$DATA_PATH bash examples/grok1/pretrain_grok1_tiny.sh --train-iters 200"
