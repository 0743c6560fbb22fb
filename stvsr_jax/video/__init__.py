"""Video and pictures, without JAX: files, streams, colours, frames at random, scene cuts."""
