// The Python functions of the weighted averages: kernels on what the caller has prepared, and whole
// passes.
#include <memory>

#include "whole_pass.h"

namespace milkernels {
namespace {

void weighted_average_forward(int member, int activation, bool from_logits, const Walk& walk,
                              const Tensor& x, const Tensor& scores, const Tensor& mask,
                              const Tensor& power, const Tensor& alpha, const Tensor& y,
                              const Tensor& statistics) {
  AverageProblem problem =
      average_problem(member, activation, from_logits, walk, x, scores, power, alpha, mask);
  problem.y = y.data;
  problem.statistics = statistics.data;
  const auto scratch = std::make_unique<double[]>(size(forward_scratch(problem)));
  problem.scratch = scratch.get();
  kernels(x).average_forward(problem);
}

void weighted_average_backward(int member, int activation, bool from_logits, const Walk& walk,
                               const Tensor& x, const Tensor& scores, const Tensor& mask,
                               const Tensor& power, const Tensor& alpha, const Tensor& gradient,
                               const Tensor& statistics, const Tensor& x_gradient,
                               const Tensor& scores_gradient, const Tensor& power_gradient,
                               const Tensor& alpha_gradient) {
  AverageProblem problem =
      average_problem(member, activation, from_logits, walk, x, scores, power, alpha, mask);
  problem.gradient = gradient.data;
  problem.statistics = statistics.data;
  problem.x_gradient = frame_tensor(x_gradient);
  problem.scores_gradient = frame_tensor(scores_gradient);
  problem.power_gradient = power_gradient.data;
  problem.alpha_gradient = alpha_gradient.data;
  const bool learns = power_gradient.data != nullptr || alpha_gradient.data != nullptr;
  const auto scratch = std::make_unique<double[]>(size(learns ? backward_scratch(problem) : 0));
  problem.scratch = scratch.get();
  kernels(x).average_backward(problem);
}

// y and what is left for the backward pass, or None: see frames_of.
py::object weighted_average_pass(int member, int activation, int dim, bool from_logits, int threads,
                                 py::handle x_object, py::handle scores_object,
                                 py::handle power_object, py::handle alpha_object,
                                 py::handle mask_object) {
  const auto frames = frames_of(x_object, mask_object, dim);
  if (!frames) return py::none();
  const Tensor& x = frames->x;
  const auto scores = scores_of(scores_object, dim);
  const auto power = plain_tensor_of(power_object.ptr());
  const auto alpha = plain_tensor_of(alpha_object.ptr());
  if (!are_scores(scores, x) || !is_of_classes(power, x) || !is_of_classes(alpha, x))
    return py::none();
  return pooled(*frames, x_object, left_rows(x, kAverage + 1), threads,
                [&](const Walk& walk, const Tensor& mask, const Tensor& y, const Tensor& left) {
                  weighted_average_forward(member, activation, from_logits, walk, x, *scores, mask,
                                           *power, *alpha, y, left);
                });
}

// Of x, scores, power, alpha and mask: see gradients_of_call. Or None: see are_as_before.
py::object weighted_average_gradients(int member, int activation, int dim, bool from_logits,
                                      int threads, bool learn, py::handle gradient_object,
                                      py::handle x_object, py::handle scores_object,
                                      py::handle power_object, py::handle alpha_object,
                                      const Tensor& mask, py::handle left) {
  if (!are_as_before(x_object, dim, scores_object, power_object, alpha_object)) return py::none();
  const py::object gradient = contiguous(gradient_object);
  const py::object to_x = empty_like(x_object), to_scores = empty_like(scores_object);
  const py::object to_power = learn ? empty_like(power_object) : py::none();
  const py::object to_alpha = learn ? empty_like(alpha_object) : py::none();
  const auto view = [dim](py::handle object) { return by_class(tensor_of(object.ptr()), dim); };
  const Tensor x = view(x_object), scores = view(scores_object);
  const Tensor x_gradient = view(to_x), scores_gradient = view(to_scores);
  const Tensor power = tensor_of(power_object.ptr()), alpha = tensor_of(alpha_object.ptr());
  const Tensor power_gradient = tensor_of(to_power.ptr()),
               alpha_gradient = tensor_of(to_alpha.ptr());
  const Tensor y_gradient = tensor_of(gradient.ptr()), statistics = left_tensor(left);
  {
    const py::gil_scoped_release released;
    weighted_average_backward(member, activation, from_logits, walk_of(x, threads), x, scores, mask,
                              power, alpha, y_gradient, statistics, x_gradient, scores_gradient,
                              power_gradient, alpha_gradient);
  }
  return gradients_of_call(to_x, to_scores, to_power, to_alpha, py::none());
}

}  // namespace

void define_weighted_average(py::module_& module) {
  define_family(module, "weighted_average", &weighted_average_forward, &weighted_average_backward,
                &weighted_average_pass, &weighted_average_gradients);
}

}  // namespace milkernels
