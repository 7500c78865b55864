"""What this package knows about megatron-core's releases.

lines.py: which releases are supported, and which one is installed; differences.py: what differs
between them; check.py: whether an untested newer release can serve; requirements.py: what must be
installed; stand_ins.py: modules that megatron-core imports without need; notices.py: warnings of
torch and megatron-core that no user can act on.
"""
