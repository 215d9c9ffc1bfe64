// The Python functions of the other frame-level poolings: kernels on what the caller has prepared,
// and whole passes.
#include <memory>

#include "whole_pass.h"

namespace milkernels {
namespace {

// Each maximum's frame and, with the mean, how many frames are real: one or two rows (bags,
// classes). Then, with kSlopes, the slopes of logits.
template <bool kSlopes>
void set_places(MaximumProblem& problem, const Tensor& places) {
  const int64_t cells = problem.bags * problem.classes;
  problem.index = static_cast<int64_t*>(places.data);
  problem.count = problem.index + (problem.plus_mean ? cells : 0);
  if (kSlopes && problem.from_logits) problem.slopes = problem.count + cells;
}

template <bool kSlopes = false>
void maximum_forward(bool from_logits, bool plus_mean, const Walk& walk, const Tensor& x,
                     const Tensor& mask, const Tensor& y, const Tensor& places) {
  auto problem = problem_of<MaximumProblem>(walk, from_logits, x, mask);
  problem.plus_mean = plus_mean;
  problem.y = y.data;
  set_places<kSlopes>(problem, places);
  kernels(x).maximum_forward(problem);
}

template <bool kSlopes = false>
void maximum_backward(bool from_logits, bool plus_mean, const Walk& walk, const Tensor& x,
                      const Tensor& mask, const Tensor& gradient, const Tensor& places,
                      const Tensor& x_gradient) {
  auto problem = problem_of<MaximumProblem>(walk, from_logits, x, mask);
  problem.plus_mean = plus_mean;
  problem.gradient = gradient.data;
  set_places<kSlopes>(problem, places);
  problem.x_gradient = frame_tensor(x_gradient);
  kernels(x).maximum_backward(problem);
}

// y and what is left for the backward pass, or None: see frames_of.
py::object maximum_pass(int dim, bool from_logits, bool plus_mean, int threads, py::handle x_object,
                        py::handle mask_object) {
  const auto frames = frames_of(x_object, mask_object, dim);
  if (!frames) return py::none();
  const Tensor& x = frames->x;
  // Places and slopes.
  const int64_t rows = 1 + plus_mean + from_logits, bytes = sizeof(int64_t);
  const py::object memory = left_bytes(rows * x.sizes[0] * x.sizes[1] * bytes);
  return pooled(*frames, x_object, memory, threads,
                [&](const Walk& walk, const Tensor& mask, const Tensor& y, const Tensor& left) {
                  maximum_forward<true>(from_logits, plus_mean, walk, x, mask, y, left);
                });
}

// Of x and mask: see gradients_of_call. Or None: see are_as_before.
py::object maximum_gradients(int dim, bool from_logits, bool plus_mean, int threads, bool,
                             py::handle gradient_object, py::handle x_object, const Tensor& mask,
                             py::handle left) {
  if (!are_as_before(x_object, dim)) return py::none();
  const Tensor memory = left_tensor(left);
  const py::object filled = gradient_of_frames(
      dim, threads, gradient_object, x_object,
      [&](const Walk& walk, const Tensor& x, const Tensor& gradient, const Tensor& x_gradient) {
        maximum_backward<true>(from_logits, plus_mean, walk, x, mask, gradient, memory, x_gradient);
      });
  return gradients_of_call(filled, py::none());
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
  problem.x_gradient = frame_tensor(x_gradient);
  kernels(x).noisy_or_backward(problem);
}

// y and what is left for the backward pass, or None: see frames_of.
py::object noisy_or_pass(int dim, bool from_logits, int threads, py::handle x_object,
                         py::handle mask_object) {
  const auto frames = frames_of(x_object, mask_object, dim);
  if (!frames) return py::none();
  const Tensor& x = frames->x;
  return pooled(*frames, x_object, left_rows(x, kOnes + 1), threads,
                [&](const Walk& walk, const Tensor& mask, const Tensor& y, const Tensor& left) {
                  noisy_or_forward(from_logits, walk, x, mask, y, left);
                });
}

// Of x and mask: see gradients_of_call. Or None: see are_as_before.
py::object noisy_or_gradients(int dim, bool from_logits, int threads, bool,
                              py::handle gradient_object, py::handle x_object, const Tensor& mask,
                              py::handle left) {
  if (!are_as_before(x_object, dim)) return py::none();
  const Tensor statistics = left_tensor(left);
  const py::object filled = gradient_of_frames(
      dim, threads, gradient_object, x_object,
      [&](const Walk& walk, const Tensor& x, const Tensor& gradient, const Tensor& x_gradient) {
        noisy_or_backward(from_logits, walk, x, mask, gradient, statistics, x_gradient);
      });
  return gradients_of_call(filled, py::none());
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
  problem.x_gradient = frame_tensor(x_gradient);
  problem.sharpness_gradient = sharpness_gradient.data;
  kernels(x).log_mean_exp_backward(problem);
}

// y and what is left for the backward pass, or None: see frames_of.
py::object log_mean_exp_pass(int dim, bool from_logits, bool learn, int threads,
                             py::handle x_object, py::handle sharpness_object,
                             py::handle mask_object) {
  const auto frames = frames_of(x_object, mask_object, dim);
  if (!frames) return py::none();
  const Tensor& x = frames->x;
  const auto sharpness = plain_tensor_of(sharpness_object.ptr());
  if (!is_of_classes(sharpness, x) || sharpness->is_none()) return py::none();
  return pooled(*frames, x_object, left_rows(x, learn ? 3 : 2), threads,
                [&](const Walk& walk, const Tensor& mask, const Tensor& y, const Tensor& left) {
                  log_mean_exp_forward(from_logits, learn, walk, x, mask, *sharpness, y, left);
                });
}

// Of x, sharpness and mask: see gradients_of_call. Or None: see are_as_before.
py::object log_mean_exp_gradients(int dim, bool from_logits, bool, int threads, bool learn,
                                  py::handle gradient_object, py::handle x_object,
                                  py::handle sharpness_object, const Tensor& mask,
                                  py::handle left) {
  if (!are_as_before(x_object, dim, py::none(), sharpness_object)) return py::none();
  const py::object to_sharpness = learn ? empty_like(sharpness_object) : py::none();
  const Tensor sharpness = tensor_of(sharpness_object.ptr());
  const Tensor sharpness_gradient = tensor_of(to_sharpness.ptr()), statistics = left_tensor(left);
  const py::object filled = gradient_of_frames(
      dim, threads, gradient_object, x_object,
      [&](const Walk& walk, const Tensor& x, const Tensor& gradient, const Tensor& x_gradient) {
        log_mean_exp_backward(from_logits, walk, x, mask, sharpness, gradient, statistics,
                              x_gradient, sharpness_gradient);
      });
  return gradients_of_call(filled, to_sharpness, py::none());
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
  problem.x_gradient = frame_tensor(x_gradient);
  problem.scores_gradient = frame_tensor(scores_gradient);
  kernels(x).class_attention_backward(problem);
}

// y and what is left for the backward pass, or None: see frames_of.
py::object class_attention_pass(int activation, int dim, bool from_logits, int threads,
                                py::handle x_object, py::handle scores_object,
                                py::handle mask_object) {
  const auto frames = frames_of(x_object, mask_object, dim);
  if (!frames) return py::none();
  const Tensor& x = frames->x;
  const auto scores = scores_of(scores_object, dim);
  if (!are_scores(scores, x) || scores->is_none()) return py::none();
  return pooled(*frames, x_object, left_rows(x, 2), threads,
                [&](const Walk& walk, const Tensor& mask, const Tensor& y, const Tensor& left) {
                  class_attention_forward(activation, from_logits, walk, x, *scores, mask, y, left);
                });
}

// Of x, scores and mask: see gradients_of_call. Or None: see are_as_before.
py::object class_attention_gradients(int activation, int dim, bool from_logits, int threads, bool,
                                     py::handle gradient_object, py::handle x_object,
                                     py::handle scores_object, const Tensor& mask,
                                     py::handle left) {
  if (!are_as_before(x_object, dim, scores_object)) return py::none();
  const py::object to_scores = empty_like(scores_object);
  const Tensor scores = by_class(tensor_of(scores_object.ptr()), dim);
  const Tensor scores_gradient = by_class(tensor_of(to_scores.ptr()), dim);
  const Tensor statistics = left_tensor(left);
  const py::object filled = gradient_of_frames(
      dim, threads, gradient_object, x_object,
      [&](const Walk& walk, const Tensor& x, const Tensor& gradient, const Tensor& x_gradient) {
        class_attention_backward(activation, from_logits, walk, x, scores, mask, gradient,
                                 statistics, x_gradient, scores_gradient);
      });
  return gradients_of_call(filled, to_scores, py::none());
}

void rank_forward(double decay, bool from_logits, const Walk& walk, const Tensor& x,
                  const Tensor& mask, const Tensor& y, const Tensor& total, const Tensor& ranks) {
  auto problem = problem_of<RankProblem>(walk, from_logits, x, mask);
  problem.decay = decay;
  problem.y = y.data;
  problem.total = total.data;
  problem.ranks = frame_tensor(ranks);
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
  problem.x_gradient = frame_tensor(x_gradient);
  kernels(x).rank_backward(problem);
}

// y, what is left for the backward pass, and the ranks if they are to be kept, or None: see
// frames_of.
py::object rank_pass(double decay, int dim, bool from_logits, bool keep_ranks, int threads,
                     py::handle x_object, py::handle mask_object) {
  const auto frames = frames_of(x_object, mask_object, dim);
  if (!frames) return py::none();
  const Tensor& x = frames->x;
  const TorchModule& torch = torch_module();
  const bool wide = x.sizes[2] > INT16_MAX;
  const py::object ranks =
      keep_ranks ? empty_like(x_object, wide ? torch.int32 : torch.int16) : py::none();
  const Tensor to_ranks = by_class(tensor_of(ranks.ptr()), dim);
  const py::tuple filled =
      pooled(*frames, x_object, left_rows(x, 1), threads,
             [&](const Walk& walk, const Tensor& mask, const Tensor& y, const Tensor& left) {
               rank_forward(decay, from_logits, walk, x, mask, y, left, to_ranks);
             });
  return py::make_tuple(filled[0], filled[1], ranks);
}

// Of x and mask: see gradients_of_call. Or None: see are_as_before.
py::object rank_gradients(double decay, int dim, bool from_logits, bool, int threads, bool,
                          py::handle gradient_object, py::handle x_object, py::handle,
                          const Tensor& ranks, py::handle left) {
  if (!are_as_before(x_object, dim)) return py::none();
  const Tensor frames = tensor_of(x_object.ptr());
  if (ranks.sizes != frames.sizes || ranks.strides != frames.strides) return py::none();
  const Tensor totals = left_tensor(left);
  const py::object filled = gradient_of_frames(
      dim, threads, gradient_object, x_object,
      [&](const Walk& walk, const Tensor& x, const Tensor& gradient, const Tensor& x_gradient) {
        rank_backward(decay, from_logits, walk, x, gradient, totals, by_class(ranks, dim),
                      x_gradient);
      });
  return gradients_of_call(filled, py::none());
}

}  // namespace

void define_frame_level(py::module_& module) {
  define_family(module, "maximum", &maximum_forward<>, &maximum_backward<>, &maximum_pass,
                &maximum_gradients);
  define_family(module, "noisy_or", &noisy_or_forward, &noisy_or_backward, &noisy_or_pass,
                &noisy_or_gradients);
  define_family(module, "log_mean_exp", &log_mean_exp_forward, &log_mean_exp_backward,
                &log_mean_exp_pass, &log_mean_exp_gradients);
  define_family(module, "class_attention", &class_attention_forward, &class_attention_backward,
                &class_attention_pass, &class_attention_gradients);
  define_family(module, "rank", &rank_forward, &rank_backward, &rank_pass, &rank_gradients);
}

}  // namespace milkernels
