// The Python module: turns tensors into a problem and runs its kernel. The caller has checked them.
#include <memory>

#include "whole_pass.h"

namespace milkernels {
namespace {

// Each maximum's frame and, with the mean, how many frames are real: one or two rows (bags,
// classes).
void set_places(MaximumProblem& problem, const Tensor& places) {
  problem.index = static_cast<int64_t*>(places.data);
  problem.count = problem.index + (problem.plus_mean ? problem.bags * problem.classes : 0);
}

void maximum_forward(bool from_logits, bool plus_mean, const Walk& walk, const Tensor& x,
                     const Tensor& mask, const Tensor& y, const Tensor& places) {
  auto problem = problem_of<MaximumProblem>(walk, from_logits, x, mask);
  problem.plus_mean = plus_mean;
  problem.y = y.data;
  set_places(problem, places);
  kernels(x).maximum_forward(problem);
}

void maximum_backward(bool from_logits, bool plus_mean, const Walk& walk, const Tensor& x,
                      const Tensor& mask, const Tensor& gradient, const Tensor& places,
                      const Tensor& x_gradient) {
  auto problem = problem_of<MaximumProblem>(walk, from_logits, x, mask);
  problem.plus_mean = plus_mean;
  problem.gradient = gradient.data;
  set_places(problem, places);
  problem.x_gradient = frames_to_fill(x_gradient);
  kernels(x).maximum_backward(problem);
}

// y and the places, or None: see frames_of.
py::object maximum_pass(int dim, bool from_logits, bool plus_mean, int threads, py::handle x_object,
                        py::handle mask_object) {
  const auto frames = frames_of(x_object, mask_object, dim);
  if (!frames) return py::none();
  const Tensor& x = frames->x;
  const py::object places =
      new_empty(x_object, {plus_mean ? 2 : 1, x.sizes[0], x.sizes[1]}, torch_module().int64);
  return pooled(*frames, x_object, places, threads,
                [&](const Walk& walk, const Tensor& mask, const Tensor& y, const Tensor& saved) {
                  maximum_forward(from_logits, plus_mean, walk, x, mask, y, saved);
                });
}

// Gradients of x and mask.
py::tuple maximum_gradients(int dim, bool from_logits, bool plus_mean, int threads, bool,
                            py::handle gradient_object, py::handle x_object, const Tensor& mask,
                            const Tensor& places) {
  return gradient_of_frames(
      dim, threads, gradient_object, x_object,
      [&](const Walk& walk, const Tensor& x, const Tensor& gradient, const Tensor& x_gradient) {
        maximum_backward(from_logits, plus_mean, walk, x, mask, gradient, places, x_gradient);
      });
}

void noisy_or_forward(bool from_logits, const Walk& walk, const Tensor& x, const Tensor& mask,
                      const Tensor& y, const Tensor& statistics) {
  auto problem = problem_of<NoisyOrProblem>(walk, from_logits, x, mask);
  problem.y = y.data;
  problem.statistics = statistics.data;
  const auto scratch = std::make_unique<double[]>(size(gathered_scratch(problem, kNoisyOrRows)));
  problem.scratch = scratch.get();
  kernels(x).noisy_or_forward(problem);
}

void noisy_or_backward(bool from_logits, const Walk& walk, const Tensor& x, const Tensor& mask,
                       const Tensor& gradient, const Tensor& statistics, const Tensor& x_gradient) {
  auto problem = problem_of<NoisyOrProblem>(walk, from_logits, x, mask);
  problem.gradient = gradient.data;
  problem.statistics = statistics.data;
  problem.x_gradient = frames_to_fill(x_gradient);
  kernels(x).noisy_or_backward(problem);
}

// y and the statistics, or None: see frames_of.
py::object noisy_or_pass(int dim, bool from_logits, int threads, py::handle x_object,
                         py::handle mask_object) {
  const auto frames = frames_of(x_object, mask_object, dim);
  if (!frames) return py::none();
  const Tensor& x = frames->x;
  return pooled(*frames, x_object, bag_rows(x_object, x, kOnes + 1), threads,
                [&](const Walk& walk, const Tensor& mask, const Tensor& y, const Tensor& saved) {
                  noisy_or_forward(from_logits, walk, x, mask, y, saved);
                });
}

// Gradients of x and mask.
py::tuple noisy_or_gradients(int dim, bool from_logits, int threads, bool,
                             py::handle gradient_object, py::handle x_object, const Tensor& mask,
                             const Tensor& statistics) {
  return gradient_of_frames(
      dim, threads, gradient_object, x_object,
      [&](const Walk& walk, const Tensor& x, const Tensor& gradient, const Tensor& x_gradient) {
        noisy_or_backward(from_logits, walk, x, mask, gradient, statistics, x_gradient);
      });
}

void log_mean_exp_forward(bool from_logits, bool learn, const Walk& walk, const Tensor& x,
                          const Tensor& mask, const Tensor& sharpness, const Tensor& y,
                          const Tensor& statistics) {
  auto problem = problem_of<LogMeanExpProblem>(walk, from_logits, x, mask);
  problem.learn = learn;
  problem.sharpness = sharpness.data;
  problem.y = y.data;
  problem.statistics = statistics.data;
  const auto scratch = std::make_unique<double[]>(size(gathered_scratch(problem, kLogMeanExpRows)));
  problem.scratch = scratch.get();
  kernels(x).log_mean_exp_forward(problem);
}

void log_mean_exp_backward(bool from_logits, const Walk& walk, const Tensor& x, const Tensor& mask,
                           const Tensor& sharpness, const Tensor& gradient,
                           const Tensor& statistics, const Tensor& x_gradient,
                           const Tensor& sharpness_gradient) {
  auto problem = problem_of<LogMeanExpProblem>(walk, from_logits, x, mask);
  problem.sharpness = sharpness.data;
  problem.gradient = gradient.data;
  problem.statistics = statistics.data;
  problem.x_gradient = frames_to_fill(x_gradient);
  problem.sharpness_gradient = sharpness_gradient.data;
  kernels(x).log_mean_exp_backward(problem);
}

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
  problem.h_gradient = frames_to_fill(h_gradient);
  problem.query_gradient = query_gradient.data;
  problem.scores_gradient = frames_to_fill(scores_gradient);
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
  problem.z_gradient = to_fill(z_gradient);
  problem.attention_weight_gradient = layer_gradients[0].data;
  problem.attention_bias_gradient = layer_gradients[1].data;
  problem.class_weight_gradient = layer_gradients[2].data;
  problem.class_bias_gradient = layer_gradients[3].data;
  kernels(z).linear_attention_backward(problem);
}

void class_attention_forward(int activation, bool from_logits, const Walk& walk, const Tensor& x,
                             const Tensor& scores, const Tensor& mask, const Tensor& y,
                             const Tensor& statistics) {
  ClassAttentionProblem problem =
      class_attention_problem(activation, from_logits, walk, x, scores, mask);
  problem.y = y.data;
  problem.statistics = statistics.data;
  kernels(x).class_attention_forward(problem);
}

void class_attention_backward(int activation, bool from_logits, const Walk& walk, const Tensor& x,
                              const Tensor& scores, const Tensor& mask, const Tensor& gradient,
                              const Tensor& statistics, const Tensor& x_gradient,
                              const Tensor& scores_gradient) {
  ClassAttentionProblem problem =
      class_attention_problem(activation, from_logits, walk, x, scores, mask);
  problem.gradient = gradient.data;
  problem.statistics = statistics.data;
  problem.x_gradient = frames_to_fill(x_gradient);
  problem.scores_gradient = frames_to_fill(scores_gradient);
  kernels(x).class_attention_backward(problem);
}

void rank_forward(double decay, bool from_logits, const Walk& walk, const Tensor& x,
                  const Tensor& mask, const Tensor& y, const Tensor& total, const Tensor& ranks) {
  auto problem = problem_of<RankProblem>(walk, from_logits, x, mask);
  problem.decay = decay;
  problem.y = y.data;
  problem.total = total.data;
  problem.ranks = frames_to_fill(ranks);
  problem.wide_ranks = is_wide(ranks);
  kernels(x).rank_forward(problem);
}

void rank_backward(double decay, bool from_logits, const Walk& walk, const Tensor& x,
                   const Tensor& gradient, const Tensor& total, const Tensor& ranks,
                   const Tensor& x_gradient) {
  auto problem = problem_of<RankProblem>(walk, from_logits, x);
  problem.decay = decay;
  problem.gradient = gradient.data;
  problem.total = total.data;
  problem.ranks = frame_tensor(ranks);
  problem.wide_ranks = is_wide(ranks);
  problem.x_gradient = frames_to_fill(x_gradient);
  kernels(x).rank_backward(problem);
}

}  // namespace
}  // namespace milkernels

PYBIND11_MODULE(_C, module) {
  using namespace milkernels;
  module.doc() = "C++ pooling kernels";
  const auto released = py::call_guard<py::gil_scoped_release>();
  module.def("maximum_forward", &maximum_forward, released);
  module.def("maximum_backward", &maximum_backward, released);
  module.def("maximum_pass", &maximum_pass);
  module.def("maximum_gradients", &maximum_gradients);
  module.def("noisy_or_forward", &noisy_or_forward, released);
  module.def("noisy_or_backward", &noisy_or_backward, released);
  module.def("noisy_or_pass", &noisy_or_pass);
  module.def("noisy_or_gradients", &noisy_or_gradients);
  module.def("log_mean_exp_forward", &log_mean_exp_forward, released);
  module.def("log_mean_exp_backward", &log_mean_exp_backward, released);
  module.def("statistics_forward", &statistics_forward, released);
  module.def("statistics_backward", &statistics_backward, released);
  module.def("gated_fusion_forward", &gated_fusion_forward, released);
  module.def("gated_fusion_backward", &gated_fusion_backward, released);
  module.def("linear_attention_forward", &linear_attention_forward, released);
  module.def("linear_attention_backward", &linear_attention_backward, released);
  module.def("class_attention_forward", &class_attention_forward, released);
  module.def("class_attention_backward", &class_attention_backward, released);
  module.def("rank_forward", &rank_forward, released);
  module.def("rank_backward", &rank_backward, released);
  module.def("prefer_huge_pages",
             [](const Tensor& memory, size_t bytes) { prefer_huge_pages(memory.data, bytes); });
  torch_module();  // without its exchange table the module cannot serve, and is not imported
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
