"""Text to ids, with exactly the ids of the tokenizer that the model's files were made for."""

from ml_data.tokenizers.load import load_tokenizer
from ml_data.tokenizers.protocol import Tokenizer

__all__ = ["Tokenizer", "load_tokenizer"]
