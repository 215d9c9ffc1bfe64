// Tensors for kernels to fill.
#pragma once

#include <pybind11/pybind11.h>

namespace milkernels {

// An empty tensor as torch.empty_like makes it, None of None. If it is large, of a CPU tensor
// without gaps, and of its dtype or of whole numbers, it lies in memory that is kept when it is
// dropped.
pybind11::object empty_like(pybind11::handle tensor, pybind11::handle dtype = Py_None);

}  // namespace milkernels
