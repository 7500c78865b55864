"""The directory of checkpoints: names, what each says of itself, which are whole."""
