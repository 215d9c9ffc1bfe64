"""The C++ kernels: a family's module has the functions of the Triton one of its name."""
