"""Proofs and post-mortems on the user's own machine: verify-resume, verify-layouts, hangs, NaN."""
