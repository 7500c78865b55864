"""Text to ids, exactly: the model's own definition is the truth."""

from ml_data.tokenizers.load import load_tokenizer
from ml_data.tokenizers.protocol import Tokenizer

__all__ = ["Tokenizer", "load_tokenizer"]
