"""Where text comes from: input files to batches of Arrow values."""
