"""How kernels are compiled: once for all numbers of bags."""

import triton

#: Counts that change from batch to batch, with bags of different lengths freely. Triton would
#: compile a kernel anew where one is 1 or a multiple of 16, and no access is wider for it.
COUNTS = ("bags", "cells", "instances", "parts", "search_steps", "segments")

kernel = triton.jit(do_not_specialize=COUNTS)
