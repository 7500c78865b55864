#!/usr/bin/env bash
# Pre-trains grok2-19b, 4 layers of Grok-2, on a node of 8 devices with 64 GB. A rank needs 48.1 GB.
# On more nodes run it on every node, NODE_RANK counting up, with MASTER_ADDR the name of node 0.
# MODEL=grok2-270b is the whole release; `ml-train plan` says whether a layout of it fits.
# Every variable can be set from the environment; arguments are passed on behind `--` and win over this file.
set -euo pipefail

CKPT_SAVE_DIR=${CKPT_SAVE_DIR:-./ckpt/grok2-19B/}
TOKENIZER_MODEL=${TOKENIZER_MODEL:-./grok-2/tokenizer.tok.json}
DATA_PATH=${DATA_PATH:-./dataset/grok2/alpaca_text_document}

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

TP=${TP:-4}
PP=${PP:-2}
EP=${EP:-2}
# The experts' own tensor parallelism: TP 4, EP 2 and ETP 2 send a third of what TP 4 and ETP 4 send.
ETP=${ETP:-2}

MODEL=${MODEL:-grok2-19b}

MULTI_NODE_ARGS=()
if [ "$NNODES" -gt 1 ]; then MULTI_NODE_ARGS+=(--overlap-grad-reduce); fi
if [ "${NO_SHARED_STORAGE:-0}" = 1 ]; then MULTI_NODE_ARGS+=(--no-shared-storage); fi

exec ml-train-launch --nproc-per-node "$GPUS_PER_NODE" --nnodes "$NNODES" --node-rank "$NODE_RANK" \
    "${MEETING_ARGS[@]}" \
    -m ml_train.cli pretrain \
    --model "$MODEL" \
    --tensor-model-parallel-size "$TP" \
    --pipeline-model-parallel-size "$PP" \
    --expert-model-parallel-size "$EP" \
    --expert-tensor-parallel-size "$ETP" \
    --sequence-parallel \
    --seq-length 8192 \
    --init-method-std 0.01 \
    --moe-router-load-balancing-type aux_loss \
    --moe-aux-loss-coeff 1e-2 \
    --tokenizer-type PretrainedFromHF \
    --tokenizer-name-or-path "$TOKENIZER_MODEL" \
    --data-path "$DATA_PATH" \
    --split 99990,8,2 \
    --micro-batch-size 1 \
    --global-batch-size 64 \
    --lr 1e-5 \
    --min-lr 1.0e-6 \
    --lr-decay-style cosine \
    --train-iters 5000 \
    --lr-decay-iters 1280 \
    --lr-warmup-iters 2 \
    --weight-decay 0.1 \
    --clip-grad 1.0 \
    --bf16 \
    --recompute-granularity full \
    --recompute-method uniform \
    --recompute-num-layers 1 \
    --use-distributed-optimizer \
    --log-interval 1 \
    --save-interval 5000 \
    --eval-interval 5000 \
    --eval-iters 100 \
    --save "$CKPT_SAVE_DIR" \
    --load "$CKPT_SAVE_DIR" \
    "${START_ARGS[@]}" \
    "${MULTI_NODE_ARGS[@]}" -- "$@"
