"""What a run does about steps that go wrong (bad_steps) and ranks that do not answer (hangs)."""
