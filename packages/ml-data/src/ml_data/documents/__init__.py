"""Where text comes from: files to batches of Arrow values."""
