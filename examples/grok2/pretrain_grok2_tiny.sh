#!/usr/bin/env bash
# Trains grok2-tiny, Grok-2 in every detail, on 8 CPU processes with every parallelism.
# Its vocabulary is as large as Grok-1's, so that tokens of Grok-1's tokenizer serve.
# Every variable can be set from the environment; arguments are passed on behind `--` and win over this file.
set -euo pipefail

CKPT_SAVE_DIR=${CKPT_SAVE_DIR:-./run/grok2-tiny}
TOKENIZER_MODEL=${TOKENIZER_MODEL:-./examples/data/grok1_tokenizer/tokenizer.model}
DATA_PATH=${DATA_PATH:-./run/data/alpaca_text_document}

# Weights to begin with, for instance converted ones; they apply until CKPT_SAVE_DIR holds a checkpoint.
PRETRAINED_CHECKPOINT=${PRETRAINED_CHECKPOINT:-}
START_ARGS=()
if [ -n "$PRETRAINED_CHECKPOINT" ]; then START_ARGS+=(--pretrained-checkpoint "$PRETRAINED_CHECKPOINT"); fi

GPUS_PER_NODE=${GPUS_PER_NODE:-8}
NNODES=${NNODES:-1}
NODE_RANK=${NODE_RANK:-0}
# Where the nodes meet: node 0, and a port that is the same on every node.
MASTER_ADDR=${MASTER_ADDR:-localhost}
MEETING_ARGS=(--master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-6000}")
# A single node finds a free port by itself.
if [ "$NNODES" -eq 1 ] && [ -z "${MASTER_PORT:-}" ]; then MEETING_ARGS=(--standalone); fi
WORLD_SIZE=${WORLD_SIZE:-$((GPUS_PER_NODE * NNODES))}

TP=${TP:-2}
PP=${PP:-2}
EP=${EP:-2}
ETP=${ETP:-1}

MODEL=${MODEL:-grok2-tiny}
DEVICE=${DEVICE:-cpu}

exec ml-train-launch --nproc-per-node "$GPUS_PER_NODE" --nnodes "$NNODES" --node-rank "$NODE_RANK" \
    "${MEETING_ARGS[@]}" \
    -m ml_train.cli pretrain \
    --model "$MODEL" \
    --device "$DEVICE" \
    --tensor-model-parallel-size "$TP" \
    --pipeline-model-parallel-size "$PP" \
    --expert-model-parallel-size "$EP" \
    --expert-tensor-parallel-size "$ETP" \
    --sequence-parallel \
    --seq-length 256 \
    --moe-router-load-balancing-type aux_loss \
    --moe-aux-loss-coeff 1e-2 \
    --tokenizer-type PretrainedFromHF \
    --tokenizer-name-or-path "$TOKENIZER_MODEL" \
    --data-path "$DATA_PATH" \
    --split 980,20,0 \
    --micro-batch-size 1 \
    --global-batch-size 8 \
    --lr 3e-3 \
    --min-lr 3e-4 \
    --lr-decay-style cosine \
    --train-iters 60 \
    --lr-warmup-iters 5 \
    --weight-decay 0.1 \
    --clip-grad 1.0 \
    --use-distributed-optimizer \
    --log-interval 5 \
    --save-interval 30 \
    --eval-interval 30 \
    --eval-iters 2 \
    --save "$CKPT_SAVE_DIR" \
    --load "$CKPT_SAVE_DIR" \
    "${START_ARGS[@]}" \
    -- "$@"
