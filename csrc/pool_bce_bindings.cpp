// The Python functions that pool, compute the loss and its gradient in one pass.
#include "bindings.h"
#include "pool_bce.h"

namespace milkernels {
namespace {

// Targets, weights and known labels (bags, classes), contiguous, and where the loss goes; what
// gradients are multiplied by.
using Loss = std::tuple<Address, Address, Address, Address, double>;

CrossEntropyProblem cross_entropy_problem(const Loss& loss) {
  CrossEntropyProblem problem;
  const auto& [target, weight, known, result, scale] = loss;
  problem.target = pointer(target);
  problem.weight = pointer(weight);
  problem.known = pointer<const uint8_t>(known);
  problem.loss = pointer(result);
  problem.scale = scale;
  return problem;
}

template <class P>
void run(const P& problem, const Loss& loss, int element) {
  pool_bce(problem, cross_entropy_problem(loss), kernels(element), static_cast<Element>(element));
}

void weighted_average_bce(int element, int member, int activation, bool from_logits,
                          const Layout& layout, const Frames& x, const Frames& scores,
                          const Mask& mask, Address power, Address alpha, const Loss& loss,
                          const Frames& x_gradient, const Frames& scores_gradient,
                          Address power_gradient, Address alpha_gradient) {
  AverageProblem problem;
  set_problem(problem, layout, mask, from_logits);
  problem.member = static_cast<Member>(member);
  problem.activation = static_cast<Activation>(activation);
  problem.x = frame_tensor(x);
  problem.scores = frame_tensor(scores);
  problem.power = pointer(power);
  problem.alpha = pointer(alpha);
  problem.x_gradient = frame_tensor(x_gradient);
  problem.scores_gradient = frame_tensor(scores_gradient);
  problem.power_gradient = pointer(power_gradient);
  problem.alpha_gradient = pointer(alpha_gradient);
  run(problem, loss, element);
}

// The maximum and noisy-or.
template <class P>
void plain_bce(int element, bool from_logits, const Layout& layout, const Frames& x,
               const Mask& mask, const Loss& loss, const Frames& x_gradient) {
  P problem;
  set_problem(problem, layout, mask, from_logits);
  problem.x = frame_tensor(x);
  problem.x_gradient = frame_tensor(x_gradient);
  run(problem, loss, element);
}

void log_mean_exp_bce(int element, bool from_logits, const Layout& layout, const Frames& x,
                      const Mask& mask, Address sharpness, const Loss& loss,
                      const Frames& x_gradient, Address sharpness_gradient) {
  LogMeanExpProblem problem;
  set_problem(problem, layout, mask, from_logits);
  problem.x = frame_tensor(x);
  problem.sharpness = pointer(sharpness);
  problem.x_gradient = frame_tensor(x_gradient);
  problem.sharpness_gradient = pointer(sharpness_gradient);
  run(problem, loss, element);
}

void class_attention_bce(int element, int activation, bool from_logits, const Layout& layout,
                         const Frames& x, const Frames& scores, const Mask& mask, const Loss& loss,
                         const Frames& x_gradient, const Frames& scores_gradient) {
  ClassAttentionProblem problem;
  set_problem(problem, layout, mask, from_logits);
  problem.activation = static_cast<Activation>(activation);
  problem.x = frame_tensor(x);
  problem.scores = frame_tensor(scores);
  problem.x_gradient = frame_tensor(x_gradient);
  problem.scores_gradient = frame_tensor(scores_gradient);
  run(problem, loss, element);
}

void rank_bce(int element, double decay, bool from_logits, const Layout& layout, const Frames& x,
              const Mask& mask, const Loss& loss, const Frames& x_gradient) {
  RankProblem problem;
  set_problem(problem, layout, mask, from_logits);
  problem.decay = decay;
  problem.x = frame_tensor(x);
  problem.x_gradient = frame_tensor(x_gradient);
  run(problem, loss, element);
}

double sum_of(int element, Address values, int64_t count) {
  return sum_in_order(pointer(values), count, static_cast<Element>(element));
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
