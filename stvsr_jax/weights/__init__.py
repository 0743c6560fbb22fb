"""Trained weights: the sets that ship with the package, and reading and writing sets.

A set is NAME.safetensors, NAME.json and NAME.md (see `files`). `sources.load` finds one by name, path or hf://,
`choice.choose` decides which one a request takes, `publish` writes one, `hub` writes the Hugging Face layout.
"""
