"""ml-train generate: a sample of text from a checkpoint, written in any layout, on one process."""

import argparse

from ml_data.errors import MlDataError
from ml_data.tokenizers import load_tokenizer
from ml_train import terminal
from ml_train.bring_up import start_platform
from ml_train.config.sections.rules import COUNT, NUMBER_OR_NONE, check_number
from ml_train.errors import ConfigError
from ml_train.generation.sampling import Sampling

DESCRIPTION = "Continue prompts with a trained checkpoint."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The checkpoint, the tokenizer, the prompts and how tokens are drawn."""
    parser.add_argument(
        "--load", required=True, help="A run's --save directory, or one iter_* folder in it."
    )
    parser.add_argument(
        "--tokenizer-name-or-path", required=True, help="Directory or tokenizer.model file."
    )
    parser.add_argument("--prompt", required=True, nargs="+", help="One text or several.")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="(default: 64)")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="0 takes the likeliest token (default: 1.0)"
    )
    parser.add_argument("--top-k", type=int, default=None, help="Draw among the k likeliest.")
    parser.add_argument("--top-p", type=float, default=None, help="Draw among this much weight.")
    parser.add_argument("--seed", type=int, default=1234, help="(default: 1234)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, npu or auto (default: auto)")
    parser.add_argument("--bf16", action="store_true", help="Compute in bfloat16.")


def run(args: argparse.Namespace) -> int:
    """Print each prompt with its continuation."""
    check_number("--max-new-tokens", args.max_new_tokens, COUNT)
    check_number("--seed", args.seed, NUMBER_OR_NONE)
    sampling = Sampling(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p)
    try:
        tokenizer = load_tokenizer(args.tokenizer_name_or_path)
    except MlDataError as error:
        raise ConfigError(f"--tokenizer-name-or-path: {error}.") from error
    platform = start_platform(args.device)

    # These imports bring megatron-core, which must come after the platform's apply().
    from ml_train.generation.next_token import generate
    from ml_train.generation.session import open_model

    with open_model(args.load, platform, bf16=args.bf16) as model:
        if tokenizer.vocab_size > model.model_config.vocab_size:
            raise ConfigError(
                f"The tokenizer has {tokenizer.vocab_size} entries, the model of {model.folder} "
                f"only {model.model_config.vocab_size}: give the one that made its data."
            )
        terminal.result(f"[{model.folder}]")
        logits_of = model.remembering()
        for text in args.prompt:
            prompt = tokenizer.encode(text)
            if not prompt:
                raise ConfigError("--prompt is empty; give at least one character.")
            new = generate(
                logits_of,
                prompt,
                max_new_tokens=args.max_new_tokens,
                max_length=model.model_config.seq_length,
                sampling=sampling,
                seed=args.seed,
                eod_id=tokenizer.eod_id,
            )
            tokens = [token for token in new if token != tokenizer.eod_id]
            terminal.result(tokenizer.decode(prompt + tokens))
    return 0
