#include <unistd.h>

#include <cstdio>
#include <functional>
#include <iostream>
#include <memory>

#include "api/cli/command.h"
#include "api/cli/options.h"
#include "api/cli/rm_help.h"
#include "data/core/error.h"
#include "data/core/progress.h"
#include "data/core/staged_folder.h"
#include "data/distributed/process_group.h"
#include "data/store/passage_store.h"
#include "generator/weights/model_catalog.h"
#include "indexer/build.h"
#include "indexer/embedder_adapter.h"
#include "indexer/readers/reader.h"
#include "indexer/reembed.h"
#include "indexer/shared_embedder.h"
#include "retriever/index_embedder.h"
#include "retriever/vector_index.h"
#include "retriever/vector_sync.h"

namespace quarry::cli {
namespace {

struct IndexArguments {
  IndexOptions options;
  std::string index;
  std::vector<std::string> paths;
  std::string new_index;  // of reembed
  std::string embedder;
  std::string embedder_adapter;  // folder; empty: none, or the index's
  std::string embed_precision = "fast";
  std::string device = "auto";
  std::string vectors = "auto";
  bool as_json = false;
};

VectorSyncOptions sync_options(const std::string& kind) {
  VectorSyncOptions options;
  if (kind != "auto") options.kind = parse_vector_index_kind(kind);
  return options;
}

std::unique_ptr<Progress> progress_for(const CommandContext& context) {
  if (context.quiet) return std::make_unique<SilentProgress>();
  return make_progress(
      std::cerr, ::isatty(STDERR_FILENO) != 0 ? ProgressStyle::kTerminal : ProgressStyle::kLines);
}

OrderedJson to_json(const IndexReport& report) {
  OrderedJson json;
  json["documents_added"] = report.documents_added;
  json["documents_updated"] = report.documents_changed;
  json["documents_removed"] = report.documents_removed;
  json["documents_unchanged"] = report.documents_unchanged;
  json["passages_embedded"] = report.passages_embedded;
  json["skipped"] = report.skipped;
  json["skips"] = OrderedJson::array();
  for (const Skip& skip : report.skips) {
    json["skips"].push_back({{"uri", skip.uri}, {"reason", skip.reason}});
  }
  json["warnings"] = report.warnings;
  for (const ReturningDocuments& returning : report.returning) {
    json["returning"].push_back({{"target", returning.target}, {"source", returning.source.path}});
  }
  json["cancelled"] = report.cancelled;
  json["seconds"] = report.seconds;
  json["embed_seconds"] = report.embed_seconds;
  json["documents"] = report.stats.documents;
  json["passages"] = report.stats.passages;
  return json;
}

void print_report(const IndexReport& report, const CommandContext& context) {
  constexpr size_t kShown = 20;
  if (!context.quiet) {
    for (size_t i = 0; i < report.warnings.size() && i < kShown; ++i) {
      std::cerr << "warning: " << report.warnings[i] << "\n";
    }
    for (size_t i = 0; i < report.skips.size() && i < kShown; ++i) {
      std::cerr << "skipped: " << report.skips[i].uri << ": " << report.skips[i].reason << "\n";
    }
    if (report.skips.size() > kShown || report.warnings.size() > kShown) {
      std::cerr << "help: --json lists every skipped file and warning\n";
    }
  }
  std::printf(
      "%lld added, %lld updated, %lld removed, %lld unchanged, %lld skipped; %lld passages "
      "embedded "
      "in %.1f s; the index holds %lld documents, %lld passages\n",
      static_cast<long long>(report.documents_added),
      static_cast<long long>(report.documents_changed),
      static_cast<long long>(report.documents_removed),
      static_cast<long long>(report.documents_unchanged), static_cast<long long>(report.skipped),
      static_cast<long long>(report.passages_embedded), report.seconds,
      static_cast<long long>(report.stats.documents),
      static_cast<long long>(report.stats.passages));
  if (report.stats.passages == 0) {
    std::cerr << "warning: the index holds nothing to find\n";
  }
}

void finish(const IndexReport& report, const IndexArguments& arguments, CommandContext& context) {
  if (arguments.as_json) {
    print_json(to_json(report));
  } else {
    print_report(report, context);
  }
  if (report.cancelled) {
    std::cerr << "interrupted: what is committed stays; the same command goes on from there\n";
    context.exit_code = kExitInterrupted;
  }
}

// The embedder of an existing index unless another one is named.
std::string embedder_of(const IndexArguments& arguments) {
  if (!arguments.embedder.empty()) return arguments.embedder;
  const std::filesystem::path store = store_path(arguments.index);
  if (!std::filesystem::exists(store)) return kDefaultEmbedder;
  return embedder_model(PassageStore::open(store, PassageStore::Mode::kReadOnly)->manifest());
}

std::unique_ptr<Embedder> load_embedder(const std::string& name, const IndexArguments& arguments) {
  EmbedderOptions options;
  options.adapter = arguments.embedder_adapter;
  options.precision = parse_precision(arguments.embed_precision);
  options.device = parse_device(arguments.device);
  auto embedder = Embedder::load(name, options);
  tell_why_cpu(embedder->name(), embedder->why_cpu());
  return embedder;
}

using EmbeddingWork = std::function<void(const PassageEmbedder&, IndexArguments&)>;

// Rank 0 reads and writes, all embed.
void work_together(ProcessGroup& group, IndexArguments& arguments, const EmbeddingWork& work) {
  std::string name =
      broadcast_text(group, group.rank() == 0 ? embedder_of(arguments) : std::string());
  // Another machine may have it elsewhere, under its short name.
  std::error_code failure;
  if (group.rank() != 0 && !std::filesystem::exists(name, failure)) {
    name = std::filesystem::path(name).filename().string();
  }
  for (std::string* of_rank_0 : {&arguments.embed_precision, &arguments.embedder_adapter}) {
    *of_rank_0 = broadcast_text(group, group.rank() == 0 ? *of_rank_0 : std::string());
  }
  const auto embedder = load_embedder(name, arguments);
  const EmbedderAdapter adapter(*embedder);
  if (group.rank() == 0) {
    arguments.options.embed_batch *= group.world_size();
    work(SharedEmbedder(adapter, group), arguments);
  } else {
    embed_for_rank_0(adapter, group);
  }
  group.barrier();  // nobody ends well before the index is whole
}

// Calls `check` and then `work` with the embedder, shared by the processes of a launcher: those but
// rank 0, where index and documents are, only embed.
void with_embedder(IndexArguments arguments, const std::function<void()>& check,
                   const std::string& after_a_loss, const EmbeddingWork& work) {
  const auto group = join_process_group();
  if (group == nullptr) {
    check();
    const auto embedder = load_embedder(embedder_of(arguments), arguments);
    return work(EmbedderAdapter(*embedder), arguments);
  }
  try {
    if (group->rank() == 0) check();
    work_together(*group, arguments, work);
  } catch (const LostRankError& lost) {
    throw LostRankError(concat(lost.what(), "; ", after_a_loss));
  } catch (const std::exception& error) {
    group->leave(error.what());
    throw;
  }
}

// A new index keeps the adapter that is named; one that is there has its own.
void settle_adapter(IndexArguments& arguments) {
  const std::string of_index = index_adapter(arguments.index).string();
  const bool is_new = !std::filesystem::exists(store_path(arguments.index));
  QUARRY_CHECK(!is_new || of_index.empty() || !arguments.embedder_adapter.empty(),
               ErrorCode::kInvalidArgument, of_index,
               ": an adapter without an index; name one with --embedder-adapter or remove it");
  if (arguments.embedder_adapter.empty()) arguments.embedder_adapter = of_index;
}

// Whether a folder holds anything that is no index's.
bool holds_other_files(const std::filesystem::path& folder) {
  std::error_code failure;
  for (std::filesystem::directory_iterator it(folder, failure), end; !failure && it != end;
       it.increment(failure)) {
    const std::string name = it->path().filename().string();
    if (name != kIndexAdapterFolder && name != "writer.lock" && name[0] != '.') return true;
  }
  return false;
}

// Before anything is made: mistakes that would look like success.
void check_places(const IndexArguments& arguments, Missing missing) {
  std::error_code failure;
  const std::filesystem::path index = arguments.index;
  QUARRY_CHECK(!arguments.index.empty(), ErrorCode::kInvalidArgument, "the index's name is empty");
  QUARRY_CHECK(
      !std::filesystem::exists(index, failure) || std::filesystem::is_directory(index, failure),
      ErrorCode::kInvalidArgument, arguments.index,
      ": is a file, wanted the folder of an index, which may be new");
  const bool is_there = std::filesystem::exists(store_path(index), failure);
  // `add` begins none: a name with a slip in it would.
  QUARRY_CHECK(missing == Missing::kRemove || is_there, ErrorCode::kNotFound, arguments.index,
               ": no index there; `quarry index build` makes one");
  QUARRY_CHECK(is_there || !holds_other_files(index), ErrorCode::kInvalidArgument, arguments.index,
               ": holds other files and no index, wanted a folder of the index's own");
  for (const std::string& path : arguments.paths) {
    QUARRY_CHECK(std::filesystem::exists(path, failure), ErrorCode::kNotFound, path,
                 ": no such file or folder");
    QUARRY_CHECK(!std::filesystem::exists(store_path(path), failure), ErrorCode::kInvalidArgument,
                 path, ": is an index, wanted documents; the index is named first");
  }
}

void build(IndexArguments arguments, Missing missing, CommandContext& context) {
  arguments.options.index = arguments.index;
  arguments.options.paths.assign(arguments.paths.begin(), arguments.paths.end());
  arguments.options.missing = missing;
  settle_adapter(arguments);
  with_embedder(
      arguments, [&arguments, missing] { check_places(arguments, missing); },
      "what is committed stays, the same command goes on from there",
      [&context](const PassageEmbedder& embedder, IndexArguments& settled) {
        const auto progress = progress_for(context);
        const bool is_new = !std::filesystem::exists(store_path(settled.index));
        if (is_new && !settled.embedder_adapter.empty()) {
          keep_index_adapter(settled.embedder_adapter, settled.index);
        }
        IndexReport report;
        try {
          report = build_store(settled.options, embedder, *progress, *context.cancel);
        } catch (const Error&) {  // an adapter without an index would refuse the next one
          if (is_new && !std::filesystem::exists(store_path(settled.index))) {
            std::error_code ignored;
            std::filesystem::remove_all(std::filesystem::path(settled.index) / kIndexAdapterFolder,
                                        ignored);
          }
          throw;
        }
        sync_vector_index(settled.index, sync_options(settled.vectors));
        finish(report, settled, context);
      });
}

void reembed(const IndexArguments& arguments, CommandContext& context) {
  const auto check = [&arguments] {
    QUARRY_CHECK(!std::filesystem::exists(arguments.new_index), ErrorCode::kInvalidArgument,
                 arguments.new_index, ": is there already, wanted the name of a new index");
  };
  with_embedder(arguments, check, "the same command begins anew",
                [&context](const PassageEmbedder& embedder, IndexArguments& settled) {
                  const auto progress = progress_for(context);
                  StagedFolder folder(settled.new_index);
                  if (!settled.embedder_adapter.empty()) {
                    keep_index_adapter(settled.embedder_adapter, folder.path());
                  }
                  ReembedOptions options;
                  options.from = settled.index;
                  options.to = folder.path();
                  options.embed_batch = settled.options.embed_batch;
                  const IndexReport report =
                      reembed_store(options, embedder, *progress, *context.cancel);
                  if (report.cancelled) {
                    std::cerr << "interrupted: no index was made\n";
                    context.exit_code = kExitInterrupted;
                    return;
                  }
                  sync_vector_index(folder.path(), sync_options(settled.vectors));
                  folder.commit();
                  finish(report, settled, context);
                });
}

void remove(const IndexArguments& arguments, CommandContext& context) {
  RemoveOptions options;
  options.index = arguments.index;
  options.targets = arguments.paths;
  const IndexReport report = remove_documents(options, *context.cancel);
  sync_vector_index(arguments.index, sync_options(arguments.vectors));
  finish(report, arguments, context);
  if (context.quiet || arguments.as_json) return;
  for (const ReturningDocuments& returning : report.returning) {
    std::cerr << "help: " << rm_help(arguments.index, returning) << "\n";
  }
}

void info(const IndexArguments& arguments) {
  const auto store = PassageStore::open(store_path(arguments.index), PassageStore::Mode::kReadOnly);
  const StoreManifest& manifest = store->manifest();
  const StoreStats stats = store->stats();
  const std::vector<Source> sources = load_sources(*store);
  OrderedJson json;
  json["index"] = arguments.index;
  json["documents"] = stats.documents;
  json["passages"] = stats.passages;
  json["text_bytes"] = stats.text_bytes;
  json["assumed_charset"] = store->documents_with(kAssumedCharset);
  json["generation"] = stats.generation;
  json["embedder"] = manifest.embedder_name;
  json["embedder_path"] = manifest.embedder_path;
  json["embedder_hash"] = manifest.embedder_hash;
  json["embedder_adapter"] = !index_adapter(arguments.index).empty();
  json["dim"] = manifest.dim;
  json["chunk_tokens"] = manifest.chunk_tokens;
  json["chunk_overlap_tokens"] = manifest.chunk_overlap_tokens;
  json["created_at"] = manifest.created_at;
  json["format_version"] = manifest.format_version;
  json["sources"] = OrderedJson::array();
  for (const Source& source : sources) json["sources"].push_back(source.path);
  if (arguments.as_json) {
    print_json(json);
    return;
  }
  for (const auto& [key, value] : json.items()) {
    std::printf("%-22s %s\n", key.c_str(),
                value.is_string() ? value.get<std::string>().c_str() : dump_json(value).c_str());
  }
}

bool is_model_here(const std::string& model) {
  try {
    resolve_model(model);
    return true;
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kNotFound) return false;
    throw;
  }
}

// Whether the embedder that searches would load is the one that made the vectors; of one that is
// not installed here nothing is known.
void check_embedder(const std::string& index, const StoreManifest& manifest,
                    std::vector<std::string>& problems) {
  try {
    if (!is_model_here(embedder_model(manifest))) return;
    const auto embedder = load_index_embedder(index);
    if (embedder->content_hash() == manifest.embedder_hash) return;
    problems.push_back(
        concat("searches would use another embedder: ",
               other_embedder_text(manifest, embedder->description(), embedder->content_hash())));
  } catch (const Error& error) {
    problems.push_back(concat("embedder: ", error.what()));
  }
}

void verify(const IndexArguments& arguments, CommandContext& context) {
  std::vector<std::string> problems;
  {
    const auto store =
        PassageStore::open(store_path(arguments.index), PassageStore::Mode::kReadOnly);
    problems = store->verify();
    check_embedder(arguments.index, store->manifest(), problems);
    const SyncedVectors vectors = open_vectors(arguments.index, *store);
    const int64_t passages = store->stats().passages;
    if (vectors.index->size() != passages) {
      problems.push_back(concat("vector index: holds ", vectors.index->size(),
                                " vectors, the store ", passages, " passages"));
    }
  }
  if (arguments.as_json) {
    print_json({{"index", arguments.index}, {"sound", problems.empty()}, {"problems", problems}});
  } else if (problems.empty()) {
    std::cout << arguments.index << ": sound\n";
  } else {
    for (const std::string& problem : problems)
      std::cout << arguments.index << ": " << problem << "\n";
  }
  if (!problems.empty()) context.exit_code = kExitCorrupt;
}

void add_embedding_flags(CLI::App& command, IndexArguments& arguments) {
  command.add_option(
      "--embedder", arguments.embedder,
      "Embedder: short name or Hugging Face folder (default: all-MiniLM-L6-v2, or the "
      "one the index was made with)");
  command
      .add_option(
          "--embed-precision", arguments.embed_precision,
          "fast: bfloat16; fast8: bytes, 1.5 times as fast with AVX-512 and vectors within a "
          "cosine of 0.999; exact: float32. Indexes are searched alike")
      ->check(CLI::IsMember({"fast", "fast8", "exact"}))
      ->capture_default_str();
  add_device_flag(command, arguments.device, "embeds");
  command.add_option(
      "--embedder-adapter", arguments.embedder_adapter,
      "LoRA adapter of the embedder, a PEFT folder, for passages and questions: a new "
      "index keeps a copy and is searched with it");
  command
      .add_option("--vectors", arguments.vectors,
                  "Vector index: flat (exact), hnsw (graph), auto (graph from 50,000 passages)")
      ->check(CLI::IsMember({"auto", "flat", "hnsw"}))
      ->capture_default_str();
}

void add_build_flags(CLI::App& command, IndexArguments& arguments) {
  command
      .add_option("--include", arguments.options.include,
                  "Only files that match this glob, e.g. '*.md' (repeatable)")
      ->take_all()
      ->expected(1);
  command
      .add_option("--exclude", arguments.options.exclude,
                  "No files or folders that match this glob; '/drafts' only the one in the folder "
                  "that is named (repeatable)")
      ->take_all()
      ->expected(1);
  add_embedding_flags(command, arguments);
  command
      .add_option("--chunk-tokens", arguments.options.chunk_tokens,
                  "Longest passage in the embedder's tokens; 0: as long as it reads, at most 250")
      ->check(kNonNegative);
  command
      .add_option("--chunk-overlap", arguments.options.chunk_overlap_tokens,
                  "Tokens that neighbouring passages share (default 0)")
      ->check(kNonNegative);
  command.add_option("--title-field", arguments.options.reader.title_field,
                     "Title field of JSONL records and CSV columns");
  command.add_option("--text-field", arguments.options.reader.text_field,
                     "Text field of JSONL records and CSV columns");
  command.add_option("--id-field", arguments.options.reader.id_field,
                     "Id field of JSONL records and CSV columns");
}

CLI::App* add_verb(CLI::App& index, const std::string& name, const std::string& help,
                   IndexArguments& arguments) {
  CLI::App* verb = index.add_subcommand(name, help);
  verb->add_option("INDEX", arguments.index, "Index folder")->required();
  verb->add_flag("--json", arguments.as_json, "Print JSON");
  return verb;
}

}  // namespace

void add_index_command(CLI::App& app, CommandContext& context) {
  auto arguments = std::make_shared<IndexArguments>();
  CLI::App* index =
      app.add_subcommand("index", "Make and keep indexes: build, add, reembed, rm, info, verify");
  index->require_subcommand(1);
  index->footer(
      "Examples\n"
      "  quarry index build notes.idx ~/notes --include '*.md' --include '*.pdf'\n"
      "  quarry index build notes.idx            look again: new, changed and removed files\n"
      "  quarry index add notes.idx ~/more/paper.pdf\n"
      "  quarry index rm notes.idx ~/notes/old.md\n"
      "  quarry index verify notes.idx");

  CLI::App* build_verb =
      add_verb(*index, "build",
               "Bring an index in step with files and folders; makes it when missing", *arguments);
  build_verb->add_option("PATH", arguments->paths,
                         "Files and folders (default: those the index was built from)");
  add_build_flags(*build_verb, *arguments);
  build_verb->footer(
      "Unchanged files are not embedded again; files that are gone are removed.\n"
      "Reads txt, Markdown, HTML, reStructuredText, JSONL, CSV, TSV and PDF (with pdftotext).\n"
      "Started several times by torchrun, mpirun or srun, all processes embed and rank 0 writes.\n"
      "Examples\n  quarry index build notes.idx ~/notes --exclude 'drafts'\n"
      "  torchrun --nproc-per-node 2 --no-python quarry index build notes.idx ~/notes");
  build_verb->callback([arguments, &context] { build(*arguments, Missing::kRemove, context); });

  CLI::App* add = add_verb(*index, "add", "Add files and folders; removes nothing", *arguments);
  add->add_option("PATH", arguments->paths, "Files and folders")->required();
  add_build_flags(*add, *arguments);
  add->callback([arguments, &context] { build(*arguments, Missing::kKeep, context); });

  CLI::App* reembed_verb = add_verb(
      *index, "reembed", "Make a new index of another one's documents, embedded anew", *arguments);
  reembed_verb->add_option("NEW", arguments->new_index, "Folder of the new index")->required();
  add_embedding_flags(*reembed_verb, *arguments);
  reembed_verb->footer(
      "The sources need not be there. INDEX stays as it is.\n"
      "Example\n  quarry index reembed notes.idx tuned.idx --embedder-adapter "
      "my-rag/last-query-encoder");
  reembed_verb->callback([arguments, &context] { reembed(*arguments, context); });

  CLI::App* rm = add_verb(*index, "rm", "Remove documents by path or uri", *arguments);
  rm->add_option("TARGET", arguments->paths, "Path (with all below it) or document uri")
      ->required();
  rm->footer(
      "What is still there below a folder that the index was built from comes back with the next\n"
      "build, unless that leaves it out. A folder that is itself removed is forgotten.\n"
      "Example\n  quarry index rm notes.idx ~/notes/old.md\n"
      "  quarry index build notes.idx ~/notes --exclude '/old.md'");
  rm->callback([arguments, &context] { remove(*arguments, context); });

  CLI::App* info_verb = add_verb(*index, "info", "Tell what an index holds", *arguments);
  info_verb->callback([arguments] { info(*arguments); });

  CLI::App* verify_verb =
      add_verb(*index, "verify", "Read everything and report each problem; exit status 5 if any",
               *arguments);
  verify_verb->callback([arguments, &context] { verify(*arguments, context); });
}

}  // namespace quarry::cli
