"""Video and pictures, without JAX: read in order and at random, colours, scene cuts, encoded and written."""
