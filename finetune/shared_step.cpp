#include "finetune/shared_step.h"

#include <algorithm>
#include <numeric>

#include "finetune/packer.h"

namespace quarry {
namespace {

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

int rank_of(const ProcessGroup* group) { return group == nullptr ? 0 : group->rank(); }
int num_ranks(const ProcessGroup* group) { return group == nullptr ? 1 : group->world_size(); }

std::vector<int> deal_passes(const std::vector<int64_t>& rows, int num_ranks) {
  std::vector<size_t> order(rows.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return rows[a] > rows[b]; });
  std::vector<int64_t> load(static_cast<size_t>(num_ranks), 0);
  std::vector<int> ranks(rows.size());
  for (const size_t pass : order) {
    const auto least = std::min_element(load.begin(), load.end());
    *least += rows[pass];
    ranks[pass] = static_cast<int>(least - load.begin());
  }
  return ranks;
}

int64_t even_pass_rows(int64_t num_passes, int64_t rows, int64_t max_rows, int num_ranks,
                       bool cut_shows) {
  const bool is_even = num_passes % num_ranks == 0;
  if (is_even || (cut_shows && num_passes >= num_ranks)) return max_rows;
  const int64_t wanted = round_up(num_passes, num_ranks);
  return std::clamp<int64_t>(round_up(rows, wanted) / wanted, 1, max_rows);
}

std::vector<StepPass> make_passes(const std::vector<TrainingSequence>& sequences,
                                  const PassOptions& options, float target_weight) {
  return cut_for_ranks(options, [&](int64_t max_rows) {
    std::vector<StepPass> passes;
    for (TokenTree& tree : pack_sequences(sequences, max_rows, options.share, target_weight)) {
      passes.push_back({std::move(tree)});
    }
    return passes;
  });
}

void sum_over_ranks(ProcessGroup* group, std::vector<double>& values) {
  if (group == nullptr) return;
  group->all_reduce_sum(values.data(), static_cast<int64_t>(values.size()));
}

// In one piece: there are hundreds of small matrices.
void sum_over_ranks(ProcessGroup* group, const std::vector<GradientView>& gradients) {
  if (group == nullptr) return;
  std::vector<float> all;
  for (const GradientView& view : gradients) {
    all.insert(all.end(), view.value, view.value + view.size);
  }
  group->all_reduce_sum(all.data(), static_cast<int64_t>(all.size()));
  const float* next = all.data();
  for (const GradientView& view : gradients) {
    std::copy_n(next, view.size, view.value);
    next += view.size;
  }
}

void take_from_rank_0(ProcessGroup* group, const std::vector<ParameterView>& parameters) {
  if (group == nullptr) return;
  for (const ParameterView& view : parameters) {
    group->broadcast(view.value, view.size * static_cast<int64_t>(sizeof(float)));
  }
}

}  // namespace quarry
