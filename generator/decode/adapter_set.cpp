#include "generator/decode/adapter_set.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "data/core/error.h"
#include "generator/nn/lora_save.h"

namespace quarry {
namespace {

constexpr size_t kLongestName = 256;

// The template that the adapter in `folder` was trained with; the default one without a note.
const RagTemplate& noted_template(const AdapterNotes& notes, const std::filesystem::path& folder) {
  if (notes.rag_template.empty()) return default_rag_template();
  std::string known;
  for (const RagTemplate& form : rag_templates()) {
    if (form.name == notes.rag_template && form.version == notes.rag_template_version) return form;
    known += concat(known.empty() ? "" : ", ", "'", form.name, "' version ", form.version);
  }
  throw_error(ErrorCode::kInvalidArgument, folder.string(),
              ": was trained with the prompt template '", notes.rag_template, "' version ",
              notes.rag_template_version, "; this program has ", known);
}

struct WeightedPair {
  const LoraWeights* pair;
  double weight;
};

// sum_i weight_i * scale_i * B_i A_i as one pair of the summed rank and scale 1.
LoraWeights concatenate(const std::vector<WeightedPair>& pieces) {
  LoraWeights sum;
  for (const WeightedPair& piece : pieces) {
    sum.rank += piece.pair->rank;
    sum.a.insert(sum.a.end(), piece.pair->a.begin(), piece.pair->a.end());
  }
  const LoraWeights& first = *pieces.front().pair;
  const size_t rows = first.b.size() / static_cast<size_t>(first.rank);
  sum.b.reserve(rows * static_cast<size_t>(sum.rank));
  for (size_t row = 0; row < rows; ++row) {
    for (const WeightedPair& piece : pieces) {
      const double factor = piece.weight * double{piece.pair->scale};
      const size_t rank = static_cast<size_t>(piece.pair->rank);
      for (size_t i = row * rank; i < (row + 1) * rank; ++i) {
        sum.b.push_back(static_cast<float>(factor * double{piece.pair->b[i]}));
        QUARRY_CHECK(std::isfinite(sum.b.back()), ErrorCode::kInvalidArgument, "the weight ",
                     piece.weight, " of an adapter makes its update overflow float32");
      }
    }
  }
  sum.pack();
  return sum;
}

int64_t largest_rank(const LoraAdapter& adapter) {
  int64_t rank = 0;
  for (const auto& [path, pair] : adapter.weights()) rank = std::max(rank, pair.rank);
  return rank;
}

}  // namespace

std::string mix_text(const AdapterMix& mix) {
  std::string text;
  for (const auto& [name, weight] : mix) {
    text += concat(text.empty() ? "" : "+", name, ":", weight);
  }
  return text;
}

AdapterSet::AdapterSet(std::shared_ptr<const LoadedGenerator> generator, int64_t max_rank)
    : generator_(std::move(generator)), max_rank_(max_rank) {
  unfuse();
}

void AdapterSet::check_generator(const std::string& name) const {
  QUARRY_CHECK(generator_ != nullptr, ErrorCode::kUnavailable, "adapter '", name,
               "': no generator is loaded");
}

void AdapterSet::check_free(const std::string& name) const {
  QUARRY_CHECK(!name.empty(), ErrorCode::kInvalidArgument, "the name of the adapter is empty");
  const bool printable = std::all_of(name.begin(), name.end(), [](char c) {
    return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f;
  });
  QUARRY_CHECK(printable && name.size() <= kLongestName, ErrorCode::kInvalidArgument,
               "the name of the adapter has ", name.size(), " bytes; wanted at most ", kLongestName,
               " without control characters");
  check_generator(name);
  QUARRY_CHECK(name != generator_->name && entries_.count(name) == 0, ErrorCode::kInvalidArgument,
               "adapter '", name, "': the name is taken");
}

void AdapterSet::check_not_fused(const std::string& name) const {
  QUARRY_CHECK(fused_.count(name) == 0, ErrorCode::kInvalidArgument, "adapter '", name,
               "' is fused into the base model (", mix_text(fused_), "); unfuse first");
}

const AdapterSet::Entry& AdapterSet::find(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found != entries_.end()) return found->second;
  std::string known;
  for (const auto& entry : entries_) known += (known.empty() ? "" : ", ") + entry.first;
  throw_error(ErrorCode::kNotFound, "no adapter is named '", name, "'; there ",
              known.empty() ? "are none" : "are: ", known);
}

AdapterSet::Entry AdapterSet::read(const std::string& name,
                                   const std::filesystem::path& folder) const {
  std::error_code ignored;
  QUARRY_CHECK(!std::filesystem::is_regular_file(folder, ignored), ErrorCode::kInvalidArgument,
               folder.string(),
               ": is a file; adapters are served from PEFT folders (`quarry adapter convert` makes "
               "one of a GGUF)");
  QUARRY_CHECK(std::filesystem::is_directory(folder, ignored), ErrorCode::kNotFound,
               folder.string(), ": no such adapter folder");
  const AdapterNotes notes = read_adapter_notes(folder).value_or(AdapterNotes());
  check_adapter_base(notes, folder.string(), generator_->content_hash, generator_->name);
  const RagTemplate& form = noted_template(notes, folder);
  const std::vector<CausalLm::LinearSlot>& slots = generator_->model->linear_slots();
  const LoraConfig config = LoraConfig::load(folder / "adapter_config.json");
  for (const CausalLm::LinearSlot& slot : slots) {  // before any weight is read
    QUARRY_CHECK(
        config.rank(slot.path) <= max_rank_ || !config.targets(slot.path, slot.path == "lm_head"),
        ErrorCode::kInvalidArgument, folder.string(), ": has rank ", config.rank(slot.path),
        ", above the limit of ", max_rank_, " (max_lora_rank)");
  }
  ServedAdapter served;
  served.name = name;
  served.weights = LoraAdapter::load(
      folder, *generator_->model,
      generator_->model->config().has_encoder() ? ActivatedLora::kRefuse : ActivatedLora::kAccept);
  served.rag_template = &form;
  served.not_in_documents =
      notes.not_in_documents.empty() ? form.not_in_documents : notes.not_in_documents;
  served.refusal_bias = notes.refusal_bias;
  Entry entry;
  entry.listing.name = name;
  entry.listing.origin = std::filesystem::absolute(folder).lexically_normal().string();
  generator_->model->check_adapter(*served.weights);
  entry.listing.rank = largest_rank(*served.weights);
  entry.listing.scale = config.default_scale();
  entry.adapter = std::make_shared<const ServedAdapter>(std::move(served));
  return entry;
}

void AdapterSet::load(const std::string& name, const std::filesystem::path& folder) {
  const std::lock_guard<std::mutex> change(change_mutex_);
  check_free(name);
  Entry entry = read(name, folder);
  const std::lock_guard<std::mutex> lock(mutex_);
  entries_.emplace(name, std::move(entry));
}

void AdapterSet::replace(const std::string& name, const std::filesystem::path& folder) {
  const std::lock_guard<std::mutex> change(change_mutex_);
  const Entry& old = find(name);
  check_not_fused(name);
  Entry entry = read(name, folder);  // takes over below; the old weights go after the lock
  entry.in_flight = old.in_flight;
  const std::lock_guard<std::mutex> lock(mutex_);
  std::swap(entries_[name], entry);
}

void AdapterSet::remove(const std::string& name) {
  Entry removed;  // freed after the locks, if no request runs with it
  const std::lock_guard<std::mutex> change(change_mutex_);
  removed = find(name);
  check_not_fused(name);
  const std::lock_guard<std::mutex> lock(mutex_);
  entries_.erase(name);
}

std::shared_ptr<const ServedAdapter> AdapterSet::sum(const std::string& name,
                                                     const AdapterMix& mix) const {
  QUARRY_CHECK(!mix.empty(), ErrorCode::kInvalidArgument, "a mix of adapters needs at least one");
  ServedAdapter result;
  result.name = name;
  std::map<std::string, std::vector<WeightedPair>> pieces;
  std::map<std::string, FullTensor> full;
  for (const auto& [part, weight] : mix) {
    QUARRY_CHECK(std::isfinite(weight) && weight != 0, ErrorCode::kInvalidArgument,
                 "the weight of adapter '", part, "' is ", weight,
                 ", wanted a number that is not 0");
    const ServedAdapter& served = *find(part).adapter;
    QUARRY_CHECK(served.weights->invocation_tokens().empty(), ErrorCode::kInvalidArgument,
                 "adapter '", part,
                 "' acts from its alora_invocation_tokens on only (aLoRA): it cannot be mixed or "
                 "fused");
    const std::map<std::string, FullTensor>& whole = served.weights->full();
    QUARRY_CHECK(whole.empty() || (mix.size() == 1 && weight == 1), ErrorCode::kInvalidArgument,
                 "adapter '", part, "' has '", whole.empty() ? "" : whole.begin()->first,
                 whole.size() > 1 ? "' and others" : "'",
                 " whole (modules_to_save or bias), which cannot be weighted or added up: a mix "
                 "takes it alone with weight 1");
    full = whole;
    for (const auto& [path, pair] : served.weights->weights()) {
      pieces[path].push_back({&pair, weight});
    }
    const bool is_first = result.rag_template == nullptr;
    if (is_first) result.rag_template = served.rag_template;
    if (is_first) result.not_in_documents = served.not_in_documents;
    if (is_first) result.refusal_bias = served.refusal_bias;
    const bool agrees = result.rag_template == served.rag_template &&
                        result.not_in_documents == served.not_in_documents &&
                        result.refusal_bias == served.refusal_bias;
    if (agrees) continue;
    result.rag_template = &default_rag_template();
    result.not_in_documents = default_rag_template().not_in_documents;
    result.refusal_bias = 0;
  }
  std::map<std::string, LoraWeights> sums;
  for (const auto& [path, list] : pieces) {
    int64_t rank = 0;
    for (const WeightedPair& piece : list) rank += piece.pair->rank;
    QUARRY_CHECK(rank <= max_rank_, ErrorCode::kInvalidArgument, "the mix ", mix_text(mix),
                 " has rank ", rank, ", above the limit of ", max_rank_,
                 " (max_lora_rank): ranks add");
    sums.emplace(path, concatenate(list));
  }
  result.weights = std::make_shared<const LoraAdapter>(std::move(sums), std::move(full));
  generator_->model->check_adapter(*result.weights);
  return std::make_shared<const ServedAdapter>(std::move(result));
}

void AdapterSet::combine(const std::string& name, const AdapterMix& mix) {
  const std::lock_guard<std::mutex> change(change_mutex_);
  check_free(name);
  Entry entry;
  entry.adapter = sum(name, mix);
  entry.listing.name = name;
  entry.listing.parts = mix;
  entry.listing.rank = largest_rank(*entry.adapter->weights);
  const std::lock_guard<std::mutex> lock(mutex_);
  entries_.emplace(name, std::move(entry));
}

void AdapterSet::fuse(const AdapterMix& mix) {
  const std::lock_guard<std::mutex> change(change_mutex_);
  std::shared_ptr<const ServedAdapter> base = sum(mix_text(mix), mix);
  const std::lock_guard<std::mutex> lock(mutex_);
  base_.adapter.swap(base);
  fused_ = mix;
}

void AdapterSet::unfuse() {
  ServedAdapter plain;
  plain.rag_template = &default_rag_template();
  plain.not_in_documents = default_rag_template().not_in_documents;
  auto base = std::make_shared<const ServedAdapter>(std::move(plain));
  const std::lock_guard<std::mutex> change(change_mutex_);
  const std::lock_guard<std::mutex> lock(mutex_);
  base_.adapter.swap(base);
  fused_.clear();
}

AdapterMix AdapterSet::fused() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return fused_;
}

std::vector<AdapterSet::Listing> AdapterSet::list() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Listing> listings;
  for (const auto& [name, entry] : entries_) {
    listings.push_back(entry.listing);
    listings.back().requests_in_flight = *entry.in_flight;
  }
  return listings;
}

std::vector<std::string> AdapterSet::names() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<std::string> names;
  for (const auto& entry : entries_) names.push_back(entry.first);
  return names;
}

int64_t AdapterSet::base_requests_in_flight() const { return *base_.in_flight; }

std::shared_ptr<const ServedAdapter> AdapterSet::acquire(const std::string& name) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Entry& entry = name.empty() ? base_ : find(name);
  ++*entry.in_flight;
  const auto release = [adapter = entry.adapter, count = entry.in_flight](const ServedAdapter*) {
    --*count;
  };
  return {entry.adapter.get(), release};
}

}  // namespace quarry
