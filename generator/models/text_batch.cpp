#include "generator/models/text_batch.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <atomic>
#include <numeric>

#include "data/core/parallel_for.h"

namespace quarry {

std::vector<EncoderInput> encode_texts(const Tokenizer& tokenizer,
                                       const std::vector<std::string>& texts, int64_t max_tokens) {
  std::vector<EncoderInput> inputs(texts.size());
  parallel_for(static_cast<int64_t>(texts.size()), 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::vector<int32_t>& row = inputs[static_cast<size_t>(i)].ids;
      row = tokenizer.encode(texts[static_cast<size_t>(i)], Tokenizer::SpecialTokens::kAdd);
      if (static_cast<int64_t>(row.size()) <= max_tokens) continue;
      // The text is cut, its closing [SEP] stays.
      row[static_cast<size_t>(max_tokens) - 1] = row.back();
      row.resize(static_cast<size_t>(max_tokens));
    }
  });
  return inputs;
}

int64_t num_template_tokens(const PairTemplate& around) {
  return static_cast<int64_t>(around.before.size() + around.between.size() + around.after.size());
}

EncoderInput join_pair(const PairTemplate& around, const std::vector<int32_t>& first,
                       const std::vector<int32_t>& second) {
  EncoderInput input;
  const auto add = [&input](const std::vector<PairTemplate::Token>& tokens) {
    for (const PairTemplate::Token& token : tokens) {
      input.ids.push_back(token.id);
      input.types.push_back(token.type);
    }
  };
  const auto add_text = [&input](const std::vector<int32_t>& ids, int32_t type) {
    input.ids.insert(input.ids.end(), ids.begin(), ids.end());
    input.types.resize(input.ids.size(), type);
  };
  add(around.before);
  add_text(first, around.first_type);
  add(around.between);
  input.second_begin = input.ids.size();
  add_text(second, around.second_type);
  input.second_end = input.ids.size();
  add(around.after);
  return input;
}

EncoderInput encode_pair(const Tokenizer& tokenizer, const PairTemplate& around,
                         const std::string& first, const std::string& second, int64_t max_tokens) {
  std::vector<int32_t> a = tokenizer.encode(first, Tokenizer::SpecialTokens::kNone);
  std::vector<int32_t> b = tokenizer.encode(second, Tokenizer::SpecialTokens::kNone);
  const auto room = static_cast<size_t>(max_tokens - num_template_tokens(around));
  if (a.size() + b.size() > room) {
    std::vector<int32_t>& shorter = a.size() <= b.size() ? a : b;
    std::vector<int32_t>& longer = a.size() <= b.size() ? b : a;
    shorter.resize(std::min(shorter.size(), room / 2));
    longer.resize(room - shorter.size());
  }
  return join_pair(around, a, b);
}

void TextBatch::add(const EncoderInput& input) {
  if (!input.types.empty()) {
    types.resize(ids.size(), 0);
    types.insert(types.end(), input.types.begin(), input.types.end());
  }
  ids.insert(ids.end(), input.ids.begin(), input.ids.end());
  if (!types.empty()) types.resize(ids.size(), 0);
  for (size_t t = 0; t < input.ids.size(); ++t) positions.push_back(static_cast<int32_t>(t));
  starts.push_back(num_rows());
}

void for_each_batch(const std::vector<EncoderInput>& inputs, int64_t rows_per_batch,
                    std::vector<nn::Workspace>& workspaces, const BatchWork& work) {
  std::vector<size_t> order(inputs.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return inputs[a].ids.size() < inputs[b].ids.size(); });
  std::vector<size_t> borders = {0};  // batch i is order[borders[i] .. borders[i + 1])
  int64_t rows = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const auto length = static_cast<int64_t>(inputs[order[i]].ids.size());
    if (rows > 0 && rows + length > rows_per_batch) {
      borders.push_back(i);
      rows = 0;
    }
    rows += length;
  }
  borders.push_back(order.size());
  const size_t num_batches = inputs.empty() ? 0 : borders.size() - 1;

  // A thread takes whole batches: nothing to wait for inside the layers. A lone batch (a query)
  // runs on this thread and the kernels share its rows out.
  const auto workers = std::min<int64_t>(static_cast<int64_t>(num_batches), num_threads());
  if (static_cast<int64_t>(workspaces.size()) < workers) {
    workspaces.resize(static_cast<size_t>(workers));
  }
  std::atomic<size_t> next{0};
  parallel_for(workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) {
      for (size_t batch = next++; batch < num_batches; batch = next++) {
        TextBatch texts;
        for (size_t i = borders[batch]; i < borders[batch + 1]; ++i) texts.add(inputs[order[i]]);
        const at::NoGradGuard no_grad;
        work(texts, order.data() + borders[batch], workspaces[static_cast<size_t>(worker)]);
      }
    }
  });
}

}  // namespace quarry
