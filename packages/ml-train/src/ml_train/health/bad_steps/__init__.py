"""Steps with a NaN, an Inf or a spike: how they are told, recorded, and what then happens."""
