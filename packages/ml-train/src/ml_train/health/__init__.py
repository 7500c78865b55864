"""What a run does about steps that went wrong and ranks that don't answer."""
