"""Tokenizers under test: Grok-1's, and small models trained here with other options."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece

GROK1 = Path(__file__).parents[4] / "examples" / "data" / "grok1_tokenizer" / "tokenizer.model"
_CORPUS = [
    "the quick brown fox  jumps over the lazy dog; it's 10% of 1234 (or 56.7)!",
    "def main(argument: int) -> None:\n\treturn argument ** 2  # a comment",
    "na\u00efve caf\u00e9 \u0441\u043b\u043e\u0432\u043e \u0438 \u0434\u0435\u043b\u043e "
    "\u4f60\u597d\u4e16\u754c\u4f60\u597d \u0643\u062a\u0627\u0628",
    "<s> and </s> and <|sep|> and \u2581 marks, a\u2581b, \U0001f600\U0001f600",
]  # fmt: skip


@pytest.fixture(scope="session")
def grok1() -> Path:
    """Grok-1's released tokenizer.model."""
    return GROK1


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Train a small SentencePiece model with the given options; its path."""

    def trained(**options: object) -> Path:
        model = io.BytesIO()
        chosen = {
            "model_type": "bpe", "vocab_size": 420, "byte_fallback": True,
            "normalization_rule_name": "identity", "remove_extra_whitespaces": False,
            "split_by_whitespace": True, "user_defined_symbols": ["\n", "\n\n", "<|sep|>", "<|s"],
            "hard_vocab_limit": False, "minloglevel": 2, "num_threads": 1,
        }  # fmt: skip
        chosen.update(options)
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(_CORPUS * 20), model_writer=model, **chosen
        )
        path = tmp_path_factory.mktemp("model") / "tokenizer.model"
        path.write_bytes(model.getvalue())
        return path

    return trained
