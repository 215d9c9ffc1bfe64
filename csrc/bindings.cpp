// The Python module: turns tensors into a problem and runs its kernel. The caller has checked them.
#include "bindings.h"

#include <memory>

#include "kept_memory.h"
#include "results.h"

namespace milkernels {
namespace {

void set_statistics(StatisticsProblem& problem, const Walk& walk, const Tensor& mask, double eps,
                    const Tensor& h, const Tensor& query, const Tensor& scores,
                    const Tensor& normaliser, const Tensor& moments) {
  set_problem(problem, walk, h, mask, false);
  problem.heads = normaliser.sizes[2];
  problem.eps = eps;
  problem.h = frame_tensor(h);
  problem.query = query.data;
  problem.scores = frame_tensor(scores);
  problem.normaliser = normaliser.data;
  problem.moments = moments.data;
}

void statistics_forward(const Walk& walk, const Tensor& mask, double eps, const Tensor& h,
                        const Tensor& query, const Tensor& scores, const Tensor& normaliser,
                        const Tensor& moments, const Tensor& y) {
  StatisticsProblem problem;
  set_statistics(problem, walk, mask, eps, h, query, scores, normaliser, moments);
  problem.y = y.data;
  const auto scratch = std::make_unique<double[]>(size(statistics_forward_scratch(problem)));
  problem.scratch = scratch.get();
  kernels(h).statistics_forward(problem);
}

void statistics_backward(const Walk& walk, const Tensor& mask, double eps, const Tensor& h,
                         const Tensor& query, const Tensor& scores, const Tensor& normaliser,
                         const Tensor& moments, const Tensor& gradient, const Tensor& h_gradient,
                         const Tensor& query_gradient, const Tensor& scores_gradient) {
  StatisticsProblem problem;
  set_statistics(problem, walk, mask, eps, h, query, scores, normaliser, moments);
  problem.gradient = gradient.data;
  problem.h_gradient = frame_tensor(h_gradient);
  problem.query_gradient = query_gradient.data;
  problem.scores_gradient = frame_tensor(scores_gradient);
  const auto scratch = std::make_unique<double[]>(size(statistics_backward_scratch(problem)));
  problem.scratch = scratch.get();
  kernels(h).statistics_backward(problem);
}

void gated_fusion_forward(int threads, const Tensor& c, const Tensor& gate, const Tensor& y) {
  GatedFusionProblem problem;
  problem.elements = c.count();
  problem.threads = threads;
  problem.c = c.data;
  problem.gate = gate.data;
  problem.y = y.data;
  kernels(c).gated_fusion_forward(problem);
}

void gated_fusion_backward(int threads, const Tensor& c, const Tensor& gate, const Tensor& gradient,
                           const Tensor& c_gradient, const Tensor& gate_gradient) {
  GatedFusionProblem problem;
  problem.elements = c.count();
  problem.threads = threads;
  problem.c = c.data;
  problem.gate = gate.data;
  problem.gradient = gradient.data;
  problem.c_gradient = c_gradient.data;
  problem.gate_gradient = gate_gradient.data;
  kernels(c).gated_fusion_backward(problem);
}

// Weight and bias of the attention layer, then of the class layer.
using Layers = std::array<Tensor, 4>;

LinearAttentionProblem linear_attention_problem(bool as_in_code, int threads, const Tensor& z,
                                                const Layers& layers, const Tensor& statistics) {
  LinearAttentionProblem problem;
  problem.rows = z.sizes[0];
  problem.width = z.sizes[1];
  problem.stride_row = z.strides[0];
  problem.as_in_code = as_in_code;
  problem.threads = threads;
  problem.z = z.data;
  problem.attention_weight = layers[0].data;
  problem.attention_bias = layers[1].data;
  problem.class_weight = layers[2].data;
  problem.class_bias = layers[3].data;
  problem.statistics = statistics.data;
  return problem;
}

void linear_attention_forward(bool as_in_code, int threads, const Tensor& z, const Layers& layers,
                              const Tensor& y, const Tensor& statistics) {
  LinearAttentionProblem problem =
      linear_attention_problem(as_in_code, threads, z, layers, statistics);
  problem.y = y.data;
  kernels(z).linear_attention_forward(problem);
}

void linear_attention_backward(bool as_in_code, int threads, const Tensor& gradient,
                               const Tensor& z, const Layers& layers, const Tensor& statistics,
                               const Tensor& z_gradient, const Layers& layer_gradients) {
  LinearAttentionProblem problem =
      linear_attention_problem(as_in_code, threads, z, layers, statistics);
  problem.gradient = gradient.data;
  problem.z_gradient = z_gradient.data;
  problem.attention_weight_gradient = layer_gradients[0].data;
  problem.attention_bias_gradient = layer_gradients[1].data;
  problem.class_weight_gradient = layer_gradients[2].data;
  problem.class_bias_gradient = layer_gradients[3].data;
  kernels(z).linear_attention_backward(problem);
}

}  // namespace
}  // namespace milkernels

PYBIND11_MODULE(_C, module) {
  using namespace milkernels;
  module.doc() = "C++ pooling kernels";
  const auto released = py::call_guard<py::gil_scoped_release>();
  module.def("statistics_forward", &statistics_forward, released);
  module.def("statistics_backward", &statistics_backward, released);
  module.def("gated_fusion_forward", &gated_fusion_forward, released);
  module.def("gated_fusion_backward", &gated_fusion_backward, released);
  module.def("linear_attention_forward", &linear_attention_forward, released);
  module.def("linear_attention_backward", &linear_attention_backward, released);
  module.def(
      "empty_like", [](py::handle tensor, py::handle dtype) { return empty_like(tensor, dtype); },
      py::arg("tensor"), py::arg("dtype") = py::none());
  module.def("release_kept_memory", &release_kept_memory);
  module.def("taken_bytes", &taken_bytes);
  // Without its exchange table, or what memory it may keep, the module cannot serve.
  torch_module();
  kept_memory_limit();
  define_frame_level(module);
  define_weighted_average(module);
  define_pool_bce(module);
  define_packed(module);
  module.def("usable_instruction_sets", &usable_instruction_sets);
  module.def("chosen_instruction_set", &chosen_instruction_set);
#ifdef _OPENMP
  module.attr("openmp") = true;
#else
  module.attr("openmp") = false;
#endif
  module.attr("compiler") = __VERSION__;
}
