// The Python functions that pool bags of different lengths. y and its gradient are (bags, classes);
// statistics (bags, rows, classes), so that each bag's are what its family's kernels know.
#include "bindings.h"
#include "packed.h"

namespace milkernels {
namespace {

// The address of the offsets, and how many bags there are.
using Bags = std::tuple<Address, int64_t>;

// Addresses of y or its gradient, and of the statistics.
using Cells = std::tuple<Address, Address>;

Packing packing_of(const Bags& bags, int element) {
  const auto& [offsets, count] = bags;
  return {pointer<const int64_t>(offsets), count, bytes_of(static_cast<Element>(element))};
}

template <class P>
P problem_of(const Layout& layout, bool from_logits, const Frames& x) {
  P problem;
  set_problem(problem, layout, Mask{}, from_logits);
  problem.x = frame_tensor(x);
  return problem;
}

AverageProblem average_problem(const Layout& layout, bool from_logits, const Frames& x, int member,
                               int activation, const Frames& scores, Address power,
                               Address alpha) {
  AverageProblem problem = problem_of<AverageProblem>(layout, from_logits, x);
  problem.member = static_cast<Member>(member);
  problem.activation = static_cast<Activation>(activation);
  problem.scores = frame_tensor(scores);
  problem.power = pointer(power);
  problem.alpha = pointer(alpha);
  return problem;
}

// Gives a bag its cells: `y` is the member of the problem that y or its gradient belongs to.
template <class P, class Pointer>
void set_cells(P& part, Pointer P::*y, void* P::*statistics, const Cells& cells, int64_t rows,
               int64_t bag, const Bytes& bytes) {
  const auto& [values, saved] = cells;
  part.*y = of_bag(pointer(values), bag, part.classes, bytes.element);
  part.*statistics = of_bag(pointer(saved), bag, rows * part.classes, bytes.arithmetic);
}

constexpr int64_t kAverageRows = 3;

void average_forward(int element, const Layout& layout, const Bags& bags, bool from_logits,
                     const Frames& x, int member, int activation, const Frames& scores,
                     Address power, Address alpha, const Cells& cells) {
  const AverageProblem whole =
      average_problem(layout, from_logits, x, member, activation, scores, power, alpha);
  const Packing packing = packing_of(bags, element);
  const auto kernel = kernels(element).average_forward;
  pool_bags(whole, packing, [&](AverageProblem& part, int64_t bag, std::vector<double>& scratch) {
    set_cells(part, &AverageProblem::y, &AverageProblem::statistics, cells, kAverageRows, bag,
              packing.bytes);
    part.scratch = at_least(scratch, forward_scratch(part));
    kernel(part);
  });
}

void average_backward(int element, const Layout& layout, const Bags& bags, bool from_logits,
                      const Frames& x, int member, int activation, const Frames& scores,
                      Address power, Address alpha, const Cells& cells, const Frames& x_gradient,
                      const Frames& scores_gradient, Address power_gradient,
                      Address alpha_gradient) {
  AverageProblem whole =
      average_problem(layout, from_logits, x, member, activation, scores, power, alpha);
  whole.x_gradient = frame_tensor(x_gradient);
  whole.scores_gradient = frame_tensor(scores_gradient);
  const Packing packing = packing_of(bags, element);
  Shares shares(packing, whole.classes, {pointer(power_gradient), pointer(alpha_gradient)});
  const bool learns = power_gradient != 0 || alpha_gradient != 0;
  const auto kernel = kernels(element).average_backward;
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
void set_places(MaximumProblem& part, Address places, int64_t bags, int64_t bag) {
  part.index = pointer<int64_t>(places) + bag * part.classes;
  part.count = part.index + (part.plus_mean ? bags * part.classes : 0);
}

void maximum_forward(int element, const Layout& layout, const Bags& bags, bool from_logits,
                     const Frames& x, bool plus_mean, Address y, Address places) {
  MaximumProblem whole = problem_of<MaximumProblem>(layout, from_logits, x);
  whole.plus_mean = plus_mean;
  const Packing packing = packing_of(bags, element);
  const auto kernel = kernels(element).maximum_forward;
  pool_bags(whole, packing, [&](MaximumProblem& part, int64_t bag, std::vector<double>&) {
    part.y = of_bag(pointer(y), bag, part.classes, packing.bytes.element);
    set_places(part, places, packing.bags, bag);
    kernel(part);
  });
}

void maximum_backward(int element, const Layout& layout, const Bags& bags, bool from_logits,
                      const Frames& x, bool plus_mean, Address gradient, Address places,
                      const Frames& x_gradient) {
  MaximumProblem whole = problem_of<MaximumProblem>(layout, from_logits, x);
  whole.plus_mean = plus_mean;
  whole.x_gradient = frame_tensor(x_gradient);
  const Packing packing = packing_of(bags, element);
  const auto kernel = kernels(element).maximum_backward;
  pool_bags(whole, packing, [&](MaximumProblem& part, int64_t bag, std::vector<double>&) {
    part.gradient = of_bag(pointer(gradient), bag, part.classes, packing.bytes.element);
    set_places(part, places, packing.bags, bag);
    kernel(part);
  });
}

constexpr int64_t kNoisyOrStatistics = 3;

void noisy_or_forward(int element, const Layout& layout, const Bags& bags, bool from_logits,
                      const Frames& x, const Cells& cells) {
  const NoisyOrProblem whole = problem_of<NoisyOrProblem>(layout, from_logits, x);
  const Packing packing = packing_of(bags, element);
  const auto kernel = kernels(element).noisy_or_forward;
  pool_bags(whole, packing, [&](NoisyOrProblem& part, int64_t bag, std::vector<double>& scratch) {
    set_cells<GatheredProblem>(part, &GatheredProblem::y, &GatheredProblem::statistics, cells,
                               kNoisyOrStatistics, bag, packing.bytes);
    part.scratch = at_least(scratch, gathered_scratch(part, kNoisyOrRows));
    kernel(part);
  });
}

void noisy_or_backward(int element, const Layout& layout, const Bags& bags, bool from_logits,
                       const Frames& x, const Cells& cells, const Frames& x_gradient) {
  NoisyOrProblem whole = problem_of<NoisyOrProblem>(layout, from_logits, x);
  whole.x_gradient = frame_tensor(x_gradient);
  const Packing packing = packing_of(bags, element);
  const auto kernel = kernels(element).noisy_or_backward;
  pool_bags(whole, packing, [&](NoisyOrProblem& part, int64_t bag, std::vector<double>&) {
    set_cells<GatheredProblem>(part, &GatheredProblem::gradient, &GatheredProblem::statistics,
                               cells, kNoisyOrStatistics, bag, packing.bytes);
    kernel(part);
  });
}

void log_mean_exp_forward(int element, const Layout& layout, const Bags& bags, bool from_logits,
                          const Frames& x, Address sharpness, bool learn, const Cells& cells) {
  LogMeanExpProblem whole = problem_of<LogMeanExpProblem>(layout, from_logits, x);
  whole.sharpness = pointer(sharpness);
  whole.learn = learn;
  const Packing packing = packing_of(bags, element);
  const auto kernel = kernels(element).log_mean_exp_forward;
  pool_bags(whole, packing, [&](LogMeanExpProblem& part, int64_t bag, std::vector<double>& scratch) {
    set_cells<GatheredProblem>(part, &GatheredProblem::y, &GatheredProblem::statistics, cells,
                               2 + learn, bag, packing.bytes);
    part.scratch = at_least(scratch, gathered_scratch(part, kLogMeanExpRows));
    kernel(part);
  });
}

void log_mean_exp_backward(int element, const Layout& layout, const Bags& bags, bool from_logits,
                           const Frames& x, Address sharpness, bool learn, const Cells& cells,
                           const Frames& x_gradient, Address sharpness_gradient) {
  LogMeanExpProblem whole = problem_of<LogMeanExpProblem>(layout, from_logits, x);
  whole.sharpness = pointer(sharpness);
  whole.learn = learn;
  whole.x_gradient = frame_tensor(x_gradient);
  const Packing packing = packing_of(bags, element);
  Shares shares(packing, whole.classes, {pointer(sharpness_gradient)});
  const auto kernel = kernels(element).log_mean_exp_backward;
  pool_bags(whole, packing, [&](LogMeanExpProblem& part, int64_t bag, std::vector<double>&) {
    set_cells<GatheredProblem>(part, &GatheredProblem::gradient, &GatheredProblem::statistics,
                               cells, 2 + learn, bag, packing.bytes);
    part.sharpness_gradient = shares.of(0, bag);
    kernel(part);
  });
  shares.sum();
}

constexpr int64_t kClassAttentionRows = 2;

ClassAttentionProblem class_attention_problem(const Layout& layout, bool from_logits,
                                              const Frames& x, int activation,
                                              const Frames& scores) {
  ClassAttentionProblem problem = problem_of<ClassAttentionProblem>(layout, from_logits, x);
  problem.activation = static_cast<Activation>(activation);
  problem.scores = frame_tensor(scores);
  return problem;
}

void class_attention_forward(int element, const Layout& layout, const Bags& bags, bool from_logits,
                             const Frames& x, int activation, const Frames& scores,
                             const Cells& cells) {
  const ClassAttentionProblem whole =
      class_attention_problem(layout, from_logits, x, activation, scores);
  const Packing packing = packing_of(bags, element);
  const auto kernel = kernels(element).class_attention_forward;
  pool_bags(whole, packing, [&](ClassAttentionProblem& part, int64_t bag, std::vector<double>&) {
    set_cells(part, &ClassAttentionProblem::y, &ClassAttentionProblem::statistics, cells,
              kClassAttentionRows, bag, packing.bytes);
    kernel(part);
  });
}

void class_attention_backward(int element, const Layout& layout, const Bags& bags,
                              bool from_logits, const Frames& x, int activation,
                              const Frames& scores, const Cells& cells, const Frames& x_gradient,
                              const Frames& scores_gradient) {
  ClassAttentionProblem whole =
      class_attention_problem(layout, from_logits, x, activation, scores);
  whole.x_gradient = frame_tensor(x_gradient);
  whole.scores_gradient = frame_tensor(scores_gradient);
  const Packing packing = packing_of(bags, element);
  const auto kernel = kernels(element).class_attention_backward;
  pool_bags(whole, packing, [&](ClassAttentionProblem& part, int64_t bag, std::vector<double>&) {
    set_cells(part, &ClassAttentionProblem::gradient, &ClassAttentionProblem::statistics, cells,
              kClassAttentionRows, bag, packing.bytes);
    kernel(part);
  });
}

RankProblem rank_problem(const Layout& layout, bool from_logits, const Frames& x, double decay,
                         const Frames& ranks, bool wide_ranks) {
  RankProblem problem = problem_of<RankProblem>(layout, from_logits, x);
  problem.decay = decay;
  problem.ranks = frame_tensor(ranks);
  problem.wide_ranks = wide_ranks;
  return problem;
}

void rank_forward(int element, const Layout& layout, const Bags& bags, bool from_logits,
                  const Frames& x, double decay, const Frames& ranks, bool wide_ranks,
                  const Cells& cells) {
  const RankProblem whole = rank_problem(layout, from_logits, x, decay, ranks, wide_ranks);
  const Packing packing = packing_of(bags, element);
  const auto kernel = kernels(element).rank_forward;
  pool_bags(whole, packing, [&](RankProblem& part, int64_t bag, std::vector<double>&) {
    set_cells(part, &RankProblem::y, &RankProblem::total, cells, 1, bag, packing.bytes);
    kernel(part);
  });
}

void rank_backward(int element, const Layout& layout, const Bags& bags, bool from_logits,
                   const Frames& x, double decay, const Frames& ranks, bool wide_ranks,
                   const Cells& cells, const Frames& x_gradient) {
  RankProblem whole = rank_problem(layout, from_logits, x, decay, ranks, wide_ranks);
  whole.x_gradient = frame_tensor(x_gradient);
  const Packing packing = packing_of(bags, element);
  const auto kernel = kernels(element).rank_backward;
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
