"""GPU benchmark: what the card can do at most, each stage, and whole streams, in one command that can be resumed."""
