"""Parsers of the commands of `stvsr`, each in a module that imports nothing heavy: `--help` is there at once."""
