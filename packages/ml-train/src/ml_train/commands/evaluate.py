"""ml-train evaluate: loss and perplexity of a checkpoint over whole token files, on one process."""

import argparse

from ml_train import terminal
from ml_train.bring_up import start_platform
from ml_train.config.sections.rules import COUNT, check_number, flag_of

DESCRIPTION = "Loss and perplexity of a checkpoint over token files, each token predicted once."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The checkpoint, the token files and how they are read."""
    parser.add_argument(
        "--load", required=True, help="A run's --save directory, or one iter_* folder in it."
    )
    parser.add_argument(
        "--data-path", required=True, nargs="+", help="Prefixes of .bin/.idx pairs, no weights."
    )
    parser.add_argument(
        "--seq-length", type=int, default=None, help="Context window (default: the model's)"
    )
    parser.add_argument("--micro-batch-size", type=int, default=4, help="(default: 4)")
    parser.add_argument(
        "--max-tokens", type=int, default=None, help="Stop each file after so many (default: all)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, npu or auto (default: auto)")
    parser.add_argument("--bf16", action="store_true", help="Compute in bfloat16.")


def run(args: argparse.Namespace) -> int:
    """Print a line per file, and where there are several a line for all of them."""
    for name in ("seq_length", "micro_batch_size", "max_tokens"):
        check_number(flag_of(name), getattr(args, name), COUNT)
    platform = start_platform(args.device)

    # These imports bring megatron-core, which must come after the platform's apply().
    from ml_train.generation import evaluate, session

    with session.open_model(args.load, platform, bf16=args.bf16) as model:
        terminal.result(f"[{model.folder}]")
        evaluations = evaluate.evaluate_files(
            model.losses,
            args.data_path,
            vocab_size=model.model_config.vocab_size,
            sequence_length=args.seq_length or model.model_config.seq_length,
            batch_size=args.micro_batch_size,
            max_tokens=args.max_tokens,
        )
    if len(evaluations) > 1:
        evaluations["all files"] = evaluate.Evaluation(
            loss_sum=sum(part.loss_sum for part in evaluations.values()),
            num_tokens=sum(part.num_tokens for part in evaluations.values()),
        )
    for prefix, result in evaluations.items():
        terminal.result(
            f"{prefix}: loss {result.loss:.6f}  perplexity {result.perplexity:.4f}  "
            f"tokens {result.num_tokens}"
        )
    return 0
