"""A training run: what it is made of, its loop, its steps, its scores and its checkpoints."""
