"""The kernels: Triton, one file per family, and `cpp`, the C++ ones behind the same functions."""
