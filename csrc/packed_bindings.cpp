// The Python functions that pool bags of different lengths. y and its gradient are (bags, classes);
// statistics (bags, rows, classes), so that each bag's are what its family's kernels know.
#include "bindings.h"
#include "packed.h"

namespace milkernels {
namespace {

// y or its gradient, and the statistics.
using Cells = std::tuple<Tensor, Tensor>;

Packing packing_of(const Tensor& offsets, const Tensor& x) {
  return {static_cast<const int64_t*>(offsets.data), offsets.sizes[0] - 1, bytes_of(element_of(x))};
}

// Gives a bag its cells: `y` is the member of the problem that y or its gradient belongs to.
template <class P, class Pointer>
void set_cells(P& part, Pointer P::* y, void* P::* statistics, const Cells& cells, int64_t rows,
               int64_t bag, const Bytes& bytes) {
  const auto& [values, saved] = cells;
  part.*y = of_bag(values.data, bag, part.classes, bytes.element);
  part.*statistics = of_bag(saved.data, bag, rows * part.classes, bytes.arithmetic);
}

constexpr int64_t kAverageRows = 3;

void average_forward(const Walk& walk, const Tensor& offsets, bool from_logits, const Tensor& x,
                     int member, int activation, const Tensor& scores, const Tensor& power,
                     const Tensor& alpha, const Cells& cells) {
  const AverageProblem whole =
      average_problem(member, activation, from_logits, walk, x, scores, power, alpha);
  const Packing packing = packing_of(offsets, x);
  const auto kernel = kernels(x).average_forward;
  pool_bags(whole, packing, [&](AverageProblem& part, int64_t bag, std::vector<double>& scratch) {
    set_cells(part, &AverageProblem::y, &AverageProblem::statistics, cells, kAverageRows, bag,
              packing.bytes);
    part.scratch = at_least(scratch, forward_scratch(part));
    kernel(part);
  });
}

void average_backward(const Walk& walk, const Tensor& offsets, bool from_logits, const Tensor& x,
                      int member, int activation, const Tensor& scores, const Tensor& power,
                      const Tensor& alpha, const Cells& cells, const Tensor& x_gradient,
                      const Tensor& scores_gradient, const Tensor& power_gradient,
                      const Tensor& alpha_gradient) {
  AverageProblem whole =
      average_problem(member, activation, from_logits, walk, x, scores, power, alpha);
  whole.x_gradient = frame_tensor(x_gradient);
  whole.scores_gradient = frame_tensor(scores_gradient);
  const Packing packing = packing_of(offsets, x);
  Shares shares(packing, whole.classes, {power_gradient.data, alpha_gradient.data});
  const bool learns = power_gradient.data != nullptr || alpha_gradient.data != nullptr;
  const auto kernel = kernels(x).average_backward;
  pool_bags(whole, packing, [&](AverageProblem& part, int64_t bag, std::vector<double>& scratch) {
    set_cells(part, &AverageProblem::gradient, &AverageProblem::statistics, cells, kAverageRows,
              bag, packing.bytes);
    part.power_gradient = shares.of(0, bag);
    part.alpha_gradient = shares.of(1, bag);
    part.scratch = at_least(scratch, learns ? backward_scratch(part) : 0);
    kernel(part);
  });
  shares.sum();
}

// A bag's maxima and, with the mean, its counts, in the two rows of places (rows, bags, classes).
void set_places(MaximumProblem& part, const Tensor& places, int64_t bags, int64_t bag) {
  part.index = static_cast<int64_t*>(places.data) + bag * part.classes;
  part.count = part.index + (part.plus_mean ? bags * part.classes : 0);
}

void maximum_forward(const Walk& walk, const Tensor& offsets, bool from_logits, const Tensor& x,
                     bool plus_mean, const Tensor& y, const Tensor& places) {
  MaximumProblem whole = problem_of<MaximumProblem>(walk, from_logits, x);
  whole.plus_mean = plus_mean;
  const Packing packing = packing_of(offsets, x);
  const auto kernel = kernels(x).maximum_forward;
  pool_bags(whole, packing, [&](MaximumProblem& part, int64_t bag, std::vector<double>&) {
    part.y = of_bag(y.data, bag, part.classes, packing.bytes.element);
    set_places(part, places, packing.bags, bag);
    kernel(part);
  });
}

void maximum_backward(const Walk& walk, const Tensor& offsets, bool from_logits, const Tensor& x,
                      bool plus_mean, const Tensor& gradient, const Tensor& places,
                      const Tensor& x_gradient) {
  MaximumProblem whole = problem_of<MaximumProblem>(walk, from_logits, x);
  whole.plus_mean = plus_mean;
  whole.x_gradient = frame_tensor(x_gradient);
  const Packing packing = packing_of(offsets, x);
  const auto kernel = kernels(x).maximum_backward;
  pool_bags(whole, packing, [&](MaximumProblem& part, int64_t bag, std::vector<double>&) {
    part.gradient = of_bag(gradient.data, bag, part.classes, packing.bytes.element);
    set_places(part, places, packing.bags, bag);
    kernel(part);
  });
}

constexpr int64_t kNoisyOrStatistics = 3;

void noisy_or_forward(const Walk& walk, const Tensor& offsets, bool from_logits, const Tensor& x,
                      const Cells& cells) {
  const NoisyOrProblem whole = problem_of<NoisyOrProblem>(walk, from_logits, x);
  const Packing packing = packing_of(offsets, x);
  const auto kernel = kernels(x).noisy_or_forward;
  pool_bags(whole, packing, [&](NoisyOrProblem& part, int64_t bag, std::vector<double>& scratch) {
    set_cells<GatheredProblem>(part, &GatheredProblem::y, &GatheredProblem::statistics, cells,
                               kNoisyOrStatistics, bag, packing.bytes);
    part.scratch = at_least(scratch, gathered_scratch(part, kNoisyOrRows));
    kernel(part);
  });
}

void noisy_or_backward(const Walk& walk, const Tensor& offsets, bool from_logits, const Tensor& x,
                       const Cells& cells, const Tensor& x_gradient) {
  NoisyOrProblem whole = problem_of<NoisyOrProblem>(walk, from_logits, x);
  whole.x_gradient = frame_tensor(x_gradient);
  const Packing packing = packing_of(offsets, x);
  const auto kernel = kernels(x).noisy_or_backward;
  pool_bags(whole, packing, [&](NoisyOrProblem& part, int64_t bag, std::vector<double>&) {
    set_cells<GatheredProblem>(part, &GatheredProblem::gradient, &GatheredProblem::statistics,
                               cells, kNoisyOrStatistics, bag, packing.bytes);
    kernel(part);
  });
}

void log_mean_exp_forward(const Walk& walk, const Tensor& offsets, bool from_logits,
                          const Tensor& x, const Tensor& sharpness, bool learn,
                          const Cells& cells) {
  LogMeanExpProblem whole = problem_of<LogMeanExpProblem>(walk, from_logits, x);
  whole.sharpness = sharpness.data;
  whole.learn = learn;
  const Packing packing = packing_of(offsets, x);
  const auto kernel = kernels(x).log_mean_exp_forward;
  pool_bags(whole, packing,
            [&](LogMeanExpProblem& part, int64_t bag, std::vector<double>& scratch) {
              set_cells<GatheredProblem>(part, &GatheredProblem::y, &GatheredProblem::statistics,
                                         cells, 2 + learn, bag, packing.bytes);
              part.scratch = at_least(scratch, gathered_scratch(part, kLogMeanExpRows));
              kernel(part);
            });
}

void log_mean_exp_backward(const Walk& walk, const Tensor& offsets, bool from_logits,
                           const Tensor& x, const Tensor& sharpness, bool learn, const Cells& cells,
                           const Tensor& x_gradient, const Tensor& sharpness_gradient) {
  LogMeanExpProblem whole = problem_of<LogMeanExpProblem>(walk, from_logits, x);
  whole.sharpness = sharpness.data;
  whole.learn = learn;
  whole.x_gradient = frame_tensor(x_gradient);
  const Packing packing = packing_of(offsets, x);
  Shares shares(packing, whole.classes, {sharpness_gradient.data});
  const auto kernel = kernels(x).log_mean_exp_backward;
  pool_bags(whole, packing, [&](LogMeanExpProblem& part, int64_t bag, std::vector<double>&) {
    set_cells<GatheredProblem>(part, &GatheredProblem::gradient, &GatheredProblem::statistics,
                               cells, 2 + learn, bag, packing.bytes);
    part.sharpness_gradient = shares.of(0, bag);
    kernel(part);
  });
  shares.sum();
}

constexpr int64_t kClassAttentionRows = 2;

void class_attention_forward(const Walk& walk, const Tensor& offsets, bool from_logits,
                             const Tensor& x, int activation, const Tensor& scores,
                             const Cells& cells) {
  const ClassAttentionProblem whole =
      class_attention_problem(activation, from_logits, walk, x, scores);
  const Packing packing = packing_of(offsets, x);
  const auto kernel = kernels(x).class_attention_forward;
  pool_bags(whole, packing, [&](ClassAttentionProblem& part, int64_t bag, std::vector<double>&) {
    set_cells(part, &ClassAttentionProblem::y, &ClassAttentionProblem::statistics, cells,
              kClassAttentionRows, bag, packing.bytes);
    kernel(part);
  });
}

void class_attention_backward(const Walk& walk, const Tensor& offsets, bool from_logits,
                              const Tensor& x, int activation, const Tensor& scores,
                              const Cells& cells, const Tensor& x_gradient,
                              const Tensor& scores_gradient) {
  ClassAttentionProblem whole = class_attention_problem(activation, from_logits, walk, x, scores);
  whole.x_gradient = frame_tensor(x_gradient);
  whole.scores_gradient = frame_tensor(scores_gradient);
  const Packing packing = packing_of(offsets, x);
  const auto kernel = kernels(x).class_attention_backward;
  pool_bags(whole, packing, [&](ClassAttentionProblem& part, int64_t bag, std::vector<double>&) {
    set_cells(part, &ClassAttentionProblem::gradient, &ClassAttentionProblem::statistics, cells,
              kClassAttentionRows, bag, packing.bytes);
    kernel(part);
  });
}

RankProblem rank_problem(const Walk& walk, bool from_logits, const Tensor& x, double decay,
                         const Tensor& ranks) {
  RankProblem problem = problem_of<RankProblem>(walk, from_logits, x);
  problem.decay = decay;
  problem.ranks = frame_tensor(ranks);
  problem.wide_ranks = is_wide(ranks);
  return problem;
}

void rank_forward(const Walk& walk, const Tensor& offsets, bool from_logits, const Tensor& x,
                  double decay, const Tensor& ranks, const Cells& cells) {
  const RankProblem whole = rank_problem(walk, from_logits, x, decay, ranks);
  const Packing packing = packing_of(offsets, x);
  const auto kernel = kernels(x).rank_forward;
  pool_bags(whole, packing, [&](RankProblem& part, int64_t bag, std::vector<double>&) {
    set_cells(part, &RankProblem::y, &RankProblem::total, cells, 1, bag, packing.bytes);
    kernel(part);
  });
}

void rank_backward(const Walk& walk, const Tensor& offsets, bool from_logits, const Tensor& x,
                   double decay, const Tensor& ranks, const Cells& cells,
                   const Tensor& x_gradient) {
  RankProblem whole = rank_problem(walk, from_logits, x, decay, ranks);
  whole.x_gradient = frame_tensor(x_gradient);
  const Packing packing = packing_of(offsets, x);
  const auto kernel = kernels(x).rank_backward;
  pool_bags(whole, packing, [&](RankProblem& part, int64_t bag, std::vector<double>&) {
    set_cells(part, &RankProblem::gradient, &RankProblem::total, cells, 1, bag, packing.bytes);
    kernel(part);
  });
}

}  // namespace

void define_packed(py::module_& module) {
  const auto released = py::call_guard<py::gil_scoped_release>();
  module.def("packed_average_forward", &average_forward, released);
  module.def("packed_average_backward", &average_backward, released);
  module.def("packed_maximum_forward", &maximum_forward, released);
  module.def("packed_maximum_backward", &maximum_backward, released);
  module.def("packed_noisy_or_forward", &noisy_or_forward, released);
  module.def("packed_noisy_or_backward", &noisy_or_backward, released);
  module.def("packed_log_mean_exp_forward", &log_mean_exp_forward, released);
  module.def("packed_log_mean_exp_backward", &log_mean_exp_backward, released);
  module.def("packed_class_attention_forward", &class_attention_forward, released);
  module.def("packed_class_attention_backward", &class_attention_backward, released);
  module.def("packed_rank_forward", &rank_forward, released);
  module.def("packed_rank_backward", &rank_backward, released);
}

}  // namespace milkernels
