// The Python functions that pool, compute the loss and its gradient in one pass.
#include <algorithm>
#include <memory>
#include <vector>

#include "pool_bce.h"
#include "whole_pass.h"

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
  problem.x_gradient = frame_tensor(x_gradient);
  problem.scores_gradient = frame_tensor(scores_gradient);
  problem.power_gradient = power_gradient.data;
  problem.alpha_gradient = alpha_gradient.data;
  run(problem, loss, x);
}

// The maximum and noisy-or.
template <class P>
void plain_bce(bool from_logits, const Walk& walk, const Tensor& x, const Tensor& mask,
               const Loss& loss, const Tensor& x_gradient) {
  auto problem = problem_of<P>(walk, from_logits, x, mask);
  problem.x_gradient = frame_tensor(x_gradient);
  run(problem, loss, x);
}

void log_mean_exp_bce(bool from_logits, const Walk& walk, const Tensor& x, const Tensor& mask,
                      const Tensor& sharpness, const Loss& loss, const Tensor& x_gradient,
                      const Tensor& sharpness_gradient) {
  auto problem = problem_of<LogMeanExpProblem>(walk, from_logits, x, mask);
  problem.sharpness = sharpness.data;
  problem.x_gradient = frame_tensor(x_gradient);
  problem.sharpness_gradient = sharpness_gradient.data;
  run(problem, loss, x);
}

void class_attention_bce(int activation, bool from_logits, const Walk& walk, const Tensor& x,
                         const Tensor& scores, const Tensor& mask, const Loss& loss,
                         const Tensor& x_gradient, const Tensor& scores_gradient) {
  ClassAttentionProblem problem =
      class_attention_problem(activation, from_logits, walk, x, scores, mask);
  problem.x_gradient = frame_tensor(x_gradient);
  problem.scores_gradient = frame_tensor(scores_gradient);
  run(problem, loss, x);
}

void rank_bce(double decay, bool from_logits, const Walk& walk, const Tensor& x, const Tensor& mask,
              const Loss& loss, const Tensor& x_gradient) {
  auto problem = problem_of<RankProblem>(walk, from_logits, x, mask);
  problem.decay = decay;
  problem.x_gradient = frame_tensor(x_gradient);
  run(problem, loss, x);
}

double sum_of(const Tensor& values) {
  return sum_in_order(values.data, values.count(), element_of(values));
}

// A call whose labels the kernels read as they are, (bags, classes) without gaps, and whose loss
// has x's dtype.
struct WholeLoss {
  Frames frames;
  Tensor target;
  Tensor known;

  const Tensor& x() const { return frames.x; }
};

bool are_of_bags(const std::optional<Tensor>& given, const Tensor& x) {
  return given && given->dimensions == 2 && given->sizes[0] == x.sizes[0] &&
         given->sizes[1] == x.sizes[1] && given->strides[1] == 1 &&
         given->strides[0] == given->sizes[1];
}

// Nothing of a call that goes the general way: see frames_of.
std::optional<WholeLoss> whole_loss_of(py::handle x, py::handle mask, py::handle target,
                                       py::handle known, int dim) {
  const auto frames = frames_of(x, mask, dim);
  if (!frames || frames->x.dtype.bits < 32) return std::nullopt;
  const auto labels = plain_tensor_of(target.ptr()), flags = plain_tensor_of(known.ptr());
  const auto& [code, bits, lanes] = frames->x.dtype;
  if (!are_of_bags(labels, frames->x) || labels->dtype.code != code || labels->dtype.bits != bits)
    return std::nullopt;
  const bool fits = are_of_bags(flags, frames->x) && flags->dtype.code == dlpack::kBool;
  if (!flags || (!flags->is_none() && !fits)) return std::nullopt;
  return WholeLoss{*frames, *labels, *flags};
}

// Σ over the bags of values (bags, classes), in order.
template <class T>
void sum_bags(const double* values, int64_t bags, const Tensor& to) {
  const T* from = reinterpret_cast<const T*>(values);
  std::vector<double> sums(size(to.sizes[0]));
  for (int64_t bag = 0; bag < bags; ++bag)
    for (double& sum : sums) sum += static_cast<double>(*from++);
  std::transform(sums.begin(), sums.end(), static_cast<T*>(to.data),
                 [](double sum) { return static_cast<T>(sum); });
}

bool is_learned(py::handle parameter) {
  return !parameter.is_none() && parameter.attr("requires_grad").cast<bool>();
}

// A parameter's gradient, if it is learned, and, while the bags' shares of it are not yet summed,
// those.
class Learned {
 public:
  Learned(py::handle parameter, const Tensor& x, bool wanted)
      : gradient(wanted && is_learned(parameter) ? empty_like(parameter) : py::none()),
        to_(tensor_of(gradient.ptr())),
        bags_(x.sizes[0]) {
    if (!to_.is_none()) shares_ = std::make_unique<double[]>(size(bags_ * to_.sizes[0]));
  }

  void* shares() const { return shares_.get(); }

  void sum() const {
    if (to_.is_none()) return;
    to_.dtype.bits == 64 ? sum_bags<double>(shares_.get(), bags_, to_)
                         : sum_bags<float>(shares_.get(), bags_, to_);
  }

  const py::object gradient;

 private:
  const Tensor to_;
  const int64_t bags_;
  std::unique_ptr<double[]> shares_;
};

// 1 over the number of known labels, and 1 of none.
double known_share(const Tensor& known, int64_t cells) {
  if (known.is_none()) return 1 / static_cast<double>(cells);
  const auto* flags = static_cast<const uint8_t*>(known.data);
  const auto count = cells - std::count(flags, flags + cells, uint8_t{0});
  return 1 / static_cast<double>(std::max<int64_t>(count, 1));
}

template <class T, class P>
void run_whole(const P& problem, const WholeLoss& whole, bool mean, T* result) {
  const int64_t cells = whole.target.count();
  const auto losses = std::make_unique<T[]>(size(cells));
  const T scale = mean ? static_cast<T>(known_share(whole.known, cells)) : T(1);
  CrossEntropyProblem loss;
  loss.target = whole.target.data;
  loss.known = static_cast<const uint8_t*>(whole.known.data);
  loss.loss = losses.get();
  loss.scale = static_cast<double>(scale);
  const Element element = element_of(whole.x());
  pool_bce(problem, loss, kernels(whole.x()), element);
  *result = static_cast<T>(sum_in_order(losses.get(), cells, element)) * scale;
}

// The loss, a number in x's dtype.
template <class P>
py::object run_whole(const P& problem, const WholeLoss& whole, py::handle x, bool mean) {
  const py::object loss = new_empty(x, {});
  void* to = tensor_of(loss.ptr()).data;
  const py::gil_scoped_release released;
  whole.x().dtype.bits == 64 ? run_whole(problem, whole, mean, static_cast<double*>(to))
                             : run_whole(problem, whole, mean, static_cast<float*>(to));
  return loss;
}

// The loss and, if they are wanted, the gradients of x, scores, alpha, power and sharpness for a
// gradient of 1, None for those that there are not. Or None: see whole_loss_of.
py::object weighted_average_loss(int member, int activation, int dim, bool from_logits, int threads,
                                 bool mean, bool wanted, py::handle x_object,
                                 py::handle scores_object, py::handle alpha_object,
                                 py::handle power_object, py::handle target, py::handle known,
                                 py::handle mask) {
  const auto whole = whole_loss_of(x_object, mask, target, known, dim);
  if (!whole) return py::none();
  const Tensor& x = whole->x();
  const auto scores = scores_of(scores_object, dim);
  const auto power = plain_tensor_of(power_object.ptr());
  const auto alpha = plain_tensor_of(alpha_object.ptr());
  if (!are_scores(scores, x) || !is_of_classes(power, x) || !is_of_classes(alpha, x))
    return py::none();
  AverageProblem problem = average_problem(member, activation, from_logits, walk_of(x, threads), x,
                                           *scores, *power, *alpha, whole->frames.mask);
  const py::object to_x = wanted ? empty_like(x_object) : py::none();
  const py::object to_scores = wanted ? empty_like(scores_object) : py::none();
  const Learned to_power(power_object, x, wanted), to_alpha(alpha_object, x, wanted);
  problem.x_gradient = frame_tensor(by_class(tensor_of(to_x.ptr()), dim));
  problem.scores_gradient = frame_tensor(by_class(tensor_of(to_scores.ptr()), dim));
  problem.power_gradient = to_power.shares();
  problem.alpha_gradient = to_alpha.shares();
  const py::object loss = run_whole(problem, *whole, x_object, mean);
  to_power.sum();
  to_alpha.sum();
  return py::make_tuple(loss, to_x, to_scores, to_alpha.gradient, to_power.gradient, py::none());
}

// The same of the maximum and of noisy-or, which take nothing beside x.
template <class P>
py::object plain_loss(int dim, bool from_logits, int threads, bool mean, bool wanted,
                      py::handle x_object, py::handle, py::handle, py::handle, py::handle target,
                      py::handle known, py::handle mask) {
  const auto whole = whole_loss_of(x_object, mask, target, known, dim);
  if (!whole) return py::none();
  const Tensor& x = whole->x();
  auto problem = problem_of<P>(walk_of(x, threads), from_logits, x, whole->frames.mask);
  const py::object to_x = wanted ? empty_like(x_object) : py::none();
  problem.x_gradient = frame_tensor(by_class(tensor_of(to_x.ptr()), dim));
  const py::object loss = run_whole(problem, *whole, x_object, mean);
  return py::make_tuple(loss, to_x, py::none(), py::none(), py::none(), py::none());
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
  module.def("weighted_average_loss", &weighted_average_loss);
  module.def("max_loss", &plain_loss<MaximumProblem>);
  module.def("noisy_or_loss", &plain_loss<NoisyOrProblem>);
}

}  // namespace milkernels
