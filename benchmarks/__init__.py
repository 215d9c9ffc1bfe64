"""Speed of the kernels: timings against eager and compiled PyTorch, and what the compiler makes of
them for GPUs that are not here."""
