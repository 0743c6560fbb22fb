"""What a program needs around it: compilation, kept programs, sharding, several processes."""
