"""What a program needs around it: compilation, also for TPUs that are not here, kept programs, sharding, processes."""
