"""Whole-or-absent distributed checkpoints: save, find, verify, load, reshard."""
