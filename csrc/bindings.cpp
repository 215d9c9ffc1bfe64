// The Python module: turns addresses, sizes and strides into a problem and runs its kernel. The
// caller has checked them.
#include "bindings.h"

#include <memory>

#include "pages.h"

namespace milkernels {
namespace {

void weighted_average_forward(int element, int member, int activation, bool from_logits,
                              const Layout& layout, const Frames& x, const Frames& scores,
                              const Mask& mask, Address power, Address alpha, Address y,
                              Address statistics) {
  AverageProblem problem;
  set_problem(problem, layout, mask, from_logits);
  problem.member = static_cast<Member>(member);
  problem.activation = static_cast<Activation>(activation);
  problem.x = frame_tensor(x);
  problem.scores = frame_tensor(scores);
  problem.power = pointer(power);
  problem.alpha = pointer(alpha);
  problem.y = pointer(y);
  problem.statistics = pointer(statistics);
  const auto scratch = std::make_unique<double[]>(size(forward_scratch(problem)));
  problem.scratch = scratch.get();
  kernels(element).average_forward(problem);
}

void weighted_average_backward(int element, int member, int activation, bool from_logits,
                               const Layout& layout, const Frames& x, const Frames& scores,
                               const Mask& mask, Address power, Address alpha, Address gradient,
                               Address statistics, const Frames& x_gradient,
                               const Frames& scores_gradient, Address power_gradient,
                               Address alpha_gradient) {
  AverageProblem problem;
  set_problem(problem, layout, mask, from_logits);
  problem.member = static_cast<Member>(member);
  problem.activation = static_cast<Activation>(activation);
  problem.x = frame_tensor(x);
  problem.scores = frame_tensor(scores);
  problem.power = pointer(power);
  problem.alpha = pointer(alpha);
  problem.gradient = pointer(gradient);
  problem.statistics = pointer(statistics);
  problem.x_gradient = frame_tensor(x_gradient);
  problem.scores_gradient = frame_tensor(scores_gradient);
  problem.power_gradient = pointer(power_gradient);
  problem.alpha_gradient = pointer(alpha_gradient);
  const bool learns = power_gradient != 0 || alpha_gradient != 0;
  const auto scratch = std::make_unique<double[]>(size(learns ? backward_scratch(problem) : 0));
  problem.scratch = scratch.get();
  kernels(element).average_backward(problem);
}

void maximum_forward(int element, bool from_logits, bool plus_mean, const Layout& layout,
                     const Frames& x, const Mask& mask, Address y, Address index, Address count) {
  MaximumProblem problem;
  set_problem(problem, layout, mask, from_logits);
  problem.plus_mean = plus_mean;
  problem.x = frame_tensor(x);
  problem.y = pointer(y);
  problem.index = pointer<int64_t>(index);
  problem.count = pointer<int64_t>(count);
  kernels(element).maximum_forward(problem);
}

void maximum_backward(int element, bool from_logits, bool plus_mean, const Layout& layout,
                      const Frames& x, const Mask& mask, Address gradient, Address index,
                      Address count, const Frames& x_gradient) {
  MaximumProblem problem;
  set_problem(problem, layout, mask, from_logits);
  problem.plus_mean = plus_mean;
  problem.x = frame_tensor(x);
  problem.gradient = pointer(gradient);
  problem.index = pointer<int64_t>(index);
  problem.count = pointer<int64_t>(count);
  problem.x_gradient = frame_tensor(x_gradient);
  kernels(element).maximum_backward(problem);
}

void noisy_or_forward(int element, bool from_logits, const Layout& layout, const Frames& x,
                      const Mask& mask, Address y, Address statistics) {
  NoisyOrProblem problem;
  set_problem(problem, layout, mask, from_logits);
  problem.x = frame_tensor(x);
  problem.y = pointer(y);
  problem.statistics = pointer(statistics);
  const auto scratch = std::make_unique<double[]>(size(gathered_scratch(problem, kNoisyOrRows)));
  problem.scratch = scratch.get();
  kernels(element).noisy_or_forward(problem);
}

void noisy_or_backward(int element, bool from_logits, const Layout& layout, const Frames& x,
                       const Mask& mask, Address gradient, Address statistics,
                       const Frames& x_gradient) {
  NoisyOrProblem problem;
  set_problem(problem, layout, mask, from_logits);
  problem.x = frame_tensor(x);
  problem.gradient = pointer(gradient);
  problem.statistics = pointer(statistics);
  problem.x_gradient = frame_tensor(x_gradient);
  kernels(element).noisy_or_backward(problem);
}

void log_mean_exp_forward(int element, bool from_logits, bool learn, const Layout& layout,
                          const Frames& x, const Mask& mask, Address sharpness, Address y,
                          Address statistics) {
  LogMeanExpProblem problem;
  set_problem(problem, layout, mask, from_logits);
  problem.learn = learn;
  problem.x = frame_tensor(x);
  problem.sharpness = pointer(sharpness);
  problem.y = pointer(y);
  problem.statistics = pointer(statistics);
  const auto scratch = std::make_unique<double[]>(size(gathered_scratch(problem, kLogMeanExpRows)));
  problem.scratch = scratch.get();
  kernels(element).log_mean_exp_forward(problem);
}

void log_mean_exp_backward(int element, bool from_logits, const Layout& layout, const Frames& x,
                           const Mask& mask, Address sharpness, Address gradient,
                           Address statistics, const Frames& x_gradient,
                           Address sharpness_gradient) {
  LogMeanExpProblem problem;
  set_problem(problem, layout, mask, from_logits);
  problem.x = frame_tensor(x);
  problem.sharpness = pointer(sharpness);
  problem.gradient = pointer(gradient);
  problem.statistics = pointer(statistics);
  problem.x_gradient = frame_tensor(x_gradient);
  problem.sharpness_gradient = pointer(sharpness_gradient);
  kernels(element).log_mean_exp_backward(problem);
}

void set_statistics(StatisticsProblem& problem, const Layout& layout, const Mask& mask,
                    int64_t heads, double eps, const Frames& h, Address query, const Frames& scores,
                    Address normaliser, Address moments) {
  set_problem(problem, layout, mask, false);
  problem.heads = heads;
  problem.eps = eps;
  problem.h = frame_tensor(h);
  problem.query = pointer(query);
  problem.scores = frame_tensor(scores);
  problem.normaliser = pointer(normaliser);
  problem.moments = pointer(moments);
}

void statistics_forward(int element, const Layout& layout, const Mask& mask, int64_t heads,
                        double eps, const Frames& h, Address query, const Frames& scores,
                        Address normaliser, Address moments, Address y) {
  StatisticsProblem problem;
  set_statistics(problem, layout, mask, heads, eps, h, query, scores, normaliser, moments);
  problem.y = pointer(y);
  const auto scratch = std::make_unique<double[]>(size(statistics_forward_scratch(problem)));
  problem.scratch = scratch.get();
  kernels(element).statistics_forward(problem);
}

void statistics_backward(int element, const Layout& layout, const Mask& mask, int64_t heads,
                         double eps, const Frames& h, Address query, const Frames& scores,
                         Address normaliser, Address moments, Address gradient,
                         const Frames& h_gradient, Address query_gradient,
                         const Frames& scores_gradient) {
  StatisticsProblem problem;
  set_statistics(problem, layout, mask, heads, eps, h, query, scores, normaliser, moments);
  problem.gradient = pointer(gradient);
  problem.h_gradient = frame_tensor(h_gradient);
  problem.query_gradient = pointer(query_gradient);
  problem.scores_gradient = frame_tensor(scores_gradient);
  const auto scratch = std::make_unique<double[]>(size(statistics_backward_scratch(problem)));
  problem.scratch = scratch.get();
  kernels(element).statistics_backward(problem);
}

void gated_fusion_forward(int element, int64_t elements, int threads, Address c, Address gate,
                          Address y) {
  GatedFusionProblem problem;
  problem.elements = elements;
  problem.threads = threads;
  problem.c = pointer(c);
  problem.gate = pointer(gate);
  problem.y = pointer(y);
  kernels(element).gated_fusion_forward(problem);
}

void gated_fusion_backward(int element, int64_t elements, int threads, Address c, Address gate,
                           Address gradient, Address c_gradient, Address gate_gradient) {
  GatedFusionProblem problem;
  problem.elements = elements;
  problem.threads = threads;
  problem.c = pointer(c);
  problem.gate = pointer(gate);
  problem.gradient = pointer(gradient);
  problem.c_gradient = pointer(c_gradient);
  problem.gate_gradient = pointer(gate_gradient);
  kernels(element).gated_fusion_backward(problem);
}

// Rows, their width, the stride from row to row, whether as in the authors' program, threads.
using Rows = std::tuple<int64_t, int64_t, int64_t, bool, int>;

// Weight and bias of the attention layer, then of the class layer.
using Layers = std::array<Address, 4>;

LinearAttentionProblem linear_attention_problem(const Rows& rows, Address z, const Layers& layers,
                                                Address statistics) {
  LinearAttentionProblem problem;
  std::tie(problem.rows, problem.width, problem.stride_row, problem.as_in_code, problem.threads) =
      rows;
  problem.z = pointer(z);
  problem.attention_weight = pointer(layers[0]);
  problem.attention_bias = pointer(layers[1]);
  problem.class_weight = pointer(layers[2]);
  problem.class_bias = pointer(layers[3]);
  problem.statistics = pointer(statistics);
  return problem;
}

void linear_attention_forward(int element, const Rows& rows, Address z, const Layers& layers,
                              Address y, Address statistics) {
  LinearAttentionProblem problem = linear_attention_problem(rows, z, layers, statistics);
  problem.y = pointer(y);
  kernels(element).linear_attention_forward(problem);
}

void linear_attention_backward(int element, const Rows& rows, Address gradient, Address z,
                               const Layers& layers, Address statistics, Address z_gradient,
                               const Layers& layer_gradients) {
  LinearAttentionProblem problem = linear_attention_problem(rows, z, layers, statistics);
  problem.gradient = pointer(gradient);
  problem.z_gradient = pointer(z_gradient);
  problem.attention_weight_gradient = pointer(layer_gradients[0]);
  problem.attention_bias_gradient = pointer(layer_gradients[1]);
  problem.class_weight_gradient = pointer(layer_gradients[2]);
  problem.class_bias_gradient = pointer(layer_gradients[3]);
  kernels(element).linear_attention_backward(problem);
}

void class_attention_forward(int element, int activation, bool from_logits, const Layout& layout,
                             const Frames& x, const Frames& scores, const Mask& mask, Address y,
                             Address statistics) {
  ClassAttentionProblem problem;
  set_problem(problem, layout, mask, from_logits);
  problem.activation = static_cast<Activation>(activation);
  problem.x = frame_tensor(x);
  problem.scores = frame_tensor(scores);
  problem.y = pointer(y);
  problem.statistics = pointer(statistics);
  kernels(element).class_attention_forward(problem);
}

void class_attention_backward(int element, int activation, bool from_logits, const Layout& layout,
                              const Frames& x, const Frames& scores, const Mask& mask,
                              Address gradient, Address statistics, const Frames& x_gradient,
                              const Frames& scores_gradient) {
  ClassAttentionProblem problem;
  set_problem(problem, layout, mask, from_logits);
  problem.activation = static_cast<Activation>(activation);
  problem.x = frame_tensor(x);
  problem.scores = frame_tensor(scores);
  problem.gradient = pointer(gradient);
  problem.statistics = pointer(statistics);
  problem.x_gradient = frame_tensor(x_gradient);
  problem.scores_gradient = frame_tensor(scores_gradient);
  kernels(element).class_attention_backward(problem);
}

void rank_forward(int element, double decay, bool from_logits, const Layout& layout,
                  const Frames& x, const Mask& mask, Address y, Address total, const Frames& ranks,
                  bool wide_ranks) {
  RankProblem problem;
  set_problem(problem, layout, mask, from_logits);
  problem.decay = decay;
  problem.x = frame_tensor(x);
  problem.y = pointer(y);
  problem.total = pointer(total);
  problem.ranks = frame_tensor(ranks);
  problem.wide_ranks = wide_ranks;
  kernels(element).rank_forward(problem);
}

void rank_backward(int element, double decay, bool from_logits, const Layout& layout,
                   const Frames& x, Address gradient, Address total, const Frames& ranks,
                   bool wide_ranks, const Frames& x_gradient) {
  RankProblem problem;
  set_problem(problem, layout, Mask{}, from_logits);
  problem.decay = decay;
  problem.x = frame_tensor(x);
  problem.gradient = pointer(gradient);
  problem.total = pointer(total);
  problem.ranks = frame_tensor(ranks);
  problem.wide_ranks = wide_ranks;
  problem.x_gradient = frame_tensor(x_gradient);
  kernels(element).rank_backward(problem);
}

}  // namespace
}  // namespace milkernels

PYBIND11_MODULE(_C, module) {
  using namespace milkernels;
  module.doc() = "C++ pooling kernels";
  const auto released = py::call_guard<py::gil_scoped_release>();
  module.def("weighted_average_forward", &weighted_average_forward, released);
  module.def("weighted_average_backward", &weighted_average_backward, released);
  module.def("maximum_forward", &maximum_forward, released);
  module.def("maximum_backward", &maximum_backward, released);
  module.def("noisy_or_forward", &noisy_or_forward, released);
  module.def("noisy_or_backward", &noisy_or_backward, released);
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
  module.def("prefer_huge_pages", [](Address memory, size_t bytes) {
    prefer_huge_pages(pointer(memory), bytes);
  });
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
