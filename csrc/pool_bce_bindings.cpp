// The Python functions that pool, compute the loss and its gradient in one pass.
#include "bindings.h"
#include "pool_bce.h"

namespace milkernels {
namespace {

// Targets, weights and known labels (bags, classes), contiguous, and where the loss goes; what
// gradients are multiplied by.
using Loss = std::tuple<Tensor, Tensor, Tensor, Tensor, double>;

CrossEntropyProblem cross_entropy_problem(const Loss& loss) {
  CrossEntropyProblem problem;
  const auto& [target, weight, known, result, scale] = loss;
  problem.target = target.data;
  problem.weight = weight.data;
  problem.known = static_cast<const uint8_t*>(known.data);
  problem.loss = result.data;
  problem.scale = scale;
  return problem;
}

template <class P>
void run(const P& problem, const Loss& loss, const Tensor& x) {
  pool_bce(problem, cross_entropy_problem(loss), kernels(x), element_of(x));
}

void weighted_average_bce(int member, int activation, bool from_logits, const Walk& walk,
                          const Tensor& x, const Tensor& scores, const Tensor& mask,
                          const Tensor& power, const Tensor& alpha, const Loss& loss,
                          const Tensor& x_gradient, const Tensor& scores_gradient,
                          const Tensor& power_gradient, const Tensor& alpha_gradient) {
  AverageProblem problem =
      average_problem(member, activation, from_logits, walk, x, scores, power, alpha, mask);
  problem.x_gradient = frames_to_fill(x_gradient);
  problem.scores_gradient = frames_to_fill(scores_gradient);
  problem.power_gradient = power_gradient.data;
  problem.alpha_gradient = alpha_gradient.data;
  run(problem, loss, x);
}

// The maximum and noisy-or.
template <class P>
void plain_bce(bool from_logits, const Walk& walk, const Tensor& x, const Tensor& mask,
               const Loss& loss, const Tensor& x_gradient) {
  auto problem = problem_of<P>(walk, from_logits, x, mask);
  problem.x_gradient = frames_to_fill(x_gradient);
  run(problem, loss, x);
}

void log_mean_exp_bce(bool from_logits, const Walk& walk, const Tensor& x, const Tensor& mask,
                      const Tensor& sharpness, const Loss& loss, const Tensor& x_gradient,
                      const Tensor& sharpness_gradient) {
  auto problem = problem_of<LogMeanExpProblem>(walk, from_logits, x, mask);
  problem.sharpness = sharpness.data;
  problem.x_gradient = frames_to_fill(x_gradient);
  problem.sharpness_gradient = sharpness_gradient.data;
  run(problem, loss, x);
}

void class_attention_bce(int activation, bool from_logits, const Walk& walk, const Tensor& x,
                         const Tensor& scores, const Tensor& mask, const Loss& loss,
                         const Tensor& x_gradient, const Tensor& scores_gradient) {
  ClassAttentionProblem problem =
      class_attention_problem(activation, from_logits, walk, x, scores, mask);
  problem.x_gradient = frames_to_fill(x_gradient);
  problem.scores_gradient = frames_to_fill(scores_gradient);
  run(problem, loss, x);
}

void rank_bce(double decay, bool from_logits, const Walk& walk, const Tensor& x, const Tensor& mask,
              const Loss& loss, const Tensor& x_gradient) {
  auto problem = problem_of<RankProblem>(walk, from_logits, x, mask);
  problem.decay = decay;
  problem.x_gradient = frames_to_fill(x_gradient);
  run(problem, loss, x);
}

double sum_of(const Tensor& values) {
  return sum_in_order(values.data, values.count(), element_of(values));
}

}  // namespace

void define_pool_bce(py::module_& module) {
  const auto released = py::call_guard<py::gil_scoped_release>();
  module.def("weighted_average_bce", &weighted_average_bce, released);
  module.def("maximum_bce", &plain_bce<MaximumProblem>, released);
  module.def("noisy_or_bce", &plain_bce<NoisyOrProblem>, released);
  module.def("log_mean_exp_bce", &log_mean_exp_bce, released);
  module.def("class_attention_bce", &class_attention_bce, released);
  module.def("rank_bce", &rank_bce, released);
  module.def("sum_in_order", &sum_of, released);
}

}  // namespace milkernels
