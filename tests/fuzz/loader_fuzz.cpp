// Gives mutated files to every loader: GGUF, safetensors and their index, bitsandbytes,
// config.json, tokenizers, chat templates, adapters, the store and the snapshots of an index.
//
//   loader_fuzz [--count N] [--seed S] [--first I] [--format F] [--keep FOLDER] [--verbose]
//
// A case is a file and up to four mutations of it, fixed by the seed and the case's number. The
// file must be refused with quarry::Error, whose message names it, or load; then every tensor must
// be what an independent parser finds in the file, and the model, tokenizer or index is made use
// of. A crash, a sanitizer's report, another exception, 10 CPU seconds or 256 MiB in one piece are
// failures. Cases run in a child process, so that one that dies is one failure. Exits 1 when there
// were any.
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/support/temporary_folder.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
// What the sanitizer itself watches: memory in one piece and in all. Read before main().
extern "C" const char* __asan_default_options() {
  return "max_allocation_size_mb=256:hard_rss_limit_mb=4096:quarantine_size_mb=32";
}
#endif

namespace {

namespace fs = std::filesystem;
using quarry::fuzz::CaseResult;
using quarry::fuzz::Dice;
using quarry::fuzz::FuzzTarget;
using quarry::fuzz::MutatedFile;

constexpr int kCpuSeconds = 10;          // of one case
constexpr int64_t kCasesOfAChild = 500;  // then memory starts anew
constexpr int kNoChild = 3;              // exit status of a child that could not start
constexpr int kLeaked = 4;

struct Options {
  int64_t count = 1000;
  uint64_t seed = 1;
  int64_t first = 0;
  std::string format;  // empty: all
  fs::path keep;
  bool verbose = false;
};

struct Counts {
  int64_t refused = 0;
  int64_t loaded = 0;
  int64_t failed = 0;
  int64_t tensors = 0;
};
constexpr size_t kMaxFormats = 16;

// What the child tells, in memory that both see.
struct Shared {
  int64_t next = 0;  // the case that comes or is running
  bool running = false;
  Counts counts[kMaxFormats];
};

[[noreturn]] void usage() {
  std::string known;
  for (const std::string& format : quarry::fuzz::formats()) known += "|" + format;
  std::fprintf(stderr,
               "usage: loader_fuzz [--count N] [--seed S] [--first I] [--format %s]\n"
               "                   [--keep FOLDER] [--verbose]\n",
               known.c_str() + 1);
  std::exit(2);
}

Options parse_options(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--verbose") {
      options.verbose = true;
      continue;
    }
    if (i + 1 >= argc) usage();
    const std::string value = argv[++i];
    if (name == "--count") {
      options.count = std::atoll(value.c_str());
    } else if (name == "--seed") {
      options.seed = std::strtoull(value.c_str(), nullptr, 10);
    } else if (name == "--first") {
      options.first = std::atoll(value.c_str());
    } else if (name == "--format") {
      const auto& known = quarry::fuzz::formats();
      if (std::find(known.begin(), known.end(), value) == known.end()) usage();
      options.format = value;
    } else if (name == "--keep") {
      options.keep = value;
    } else {
      usage();
    }
  }
  return options;
}

class LoaderFuzz {
 public:
  LoaderFuzz(const Options& options, const fs::path& folder, std::vector<FuzzTarget> targets)
      : options_(options), folder_(folder), targets_(std::move(targets)) {
    void* memory =
        ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    QUARRY_CHECK(memory != MAP_FAILED, quarry::ErrorCode::kUnavailable, "no shared memory");
    shared_ = new (memory) Shared();
    shared_->next = options.first;
  }

  // The number of failures.
  int64_t run() {
    const int64_t end = options_.first + options_.count;
    const auto start = std::chrono::steady_clock::now();
    while (shared_->next < end) {
      const int64_t stop = std::min(end, shared_->next + kCasesOfAChild);
      std::fflush(nullptr);
      const pid_t child = ::fork();
      QUARRY_CHECK(child >= 0, quarry::ErrorCode::kUnavailable, "fork failed");
      if (child == 0) run_child(stop);
      int status = 0;
      ::waitpid(child, &status, 0);
      note_end(status);
      const double seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      std::printf("%lld of %lld cases, %lld failed, %.0f s\n",
                  static_cast<long long>(shared_->next - options_.first),
                  static_cast<long long>(options_.count), static_cast<long long>(failures()),
                  seconds);
    }
    report();
    return failures() + leaks_;
  }

 private:
  struct Case {
    size_t format = 0;
    const FuzzTarget* target = nullptr;
    MutatedFile mutated;
  };

  // Fixed by seed, number and --format.
  Case make_case(int64_t number, Dice& dice) const {
    // A third each GGUF and safetensors; the rest by what they cost.
    static constexpr uint64_t kShares[] = {30, 60, 78, 84, 91, 96, 100};
    const auto& formats = quarry::fuzz::formats();
    Case made;
    const uint64_t at = dice.below(100);
    while (at >= kShares[made.format]) ++made.format;
    for (size_t i = 0; i < formats.size(); ++i) {
      if (formats[i] == options_.format) made.format = i;
    }
    std::vector<const FuzzTarget*> fitting;
    for (const FuzzTarget& target : targets_) {
      if (target.format == formats[made.format]) fitting.push_back(&target);
    }
    QUARRY_CHECK(!fitting.empty(), quarry::ErrorCode::kInternal, "case ", number,
                 " has no seed files");
    made.target = dice.pick(fitting);
    made.mutated = quarry::fuzz::mutate(made.target->seed, dice);
    return made;
  }

  // The folder of a target, copied once, with the mutated file in it.
  fs::path put_in_place(const Case& made) const {
    const size_t index = static_cast<size_t>(made.target - targets_.data());
    const fs::path folder = folder_ / "cases" / std::to_string(index);
    if (!fs::exists(folder)) {
      fs::create_directories(folder.parent_path());
      fs::copy(made.target->folder, folder, fs::copy_options::recursive);
    }
    std::ofstream file(folder / made.target->file, std::ios::binary | std::ios::trunc);
    file << made.mutated.bytes;
    QUARRY_CHECK(file.flush().good(), quarry::ErrorCode::kUnavailable, folder.string(),
                 ": cannot write the case");
    return folder;
  }

  [[noreturn]] void run_child(int64_t stop) {
    // One thread: what is slow here is the sanitizer, and cases run beside each other.
    quarry::set_num_threads(1);
    // A cache of content hashes that cannot be written is none.
    ::setenv("QUARRY_CACHE", "/dev/null/none", 1);
    try {
      for (; shared_->next < stop; ++shared_->next) run_one(shared_->next);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "loader_fuzz: %s\n", error.what());
      std::fflush(nullptr);
      ::_exit(kNoChild);
    }
    shared_->running = false;
    std::fflush(nullptr);
#if defined(__SANITIZE_ADDRESS__)
    if (__lsan_do_recoverable_leak_check() != 0) ::_exit(kLeaked);
#endif
    ::_exit(0);
  }

  void run_one(int64_t number) {
    Dice dice(options_.seed, static_cast<uint64_t>(number));
    const Case made = make_case(number, dice);
    const fs::path folder = put_in_place(made);
    Counts& counts = shared_->counts[made.format];
    // CPU time, not that of a busy machine; the signal ends the child.
    const itimerval limit = {{0, 0}, {kCpuSeconds, 0}};
    const itimerval none = {};
    ::setitimer(ITIMER_PROF, &limit, nullptr);
    shared_->running = true;
    try {
      const CaseResult result = quarry::fuzz::run_case(*made.target, folder, made.mutated, dice);
      ++(result.refused ? counts.refused : counts.loaded);
      counts.tensors += result.tensors_checked;
      if (options_.verbose) {
        std::printf("case %lld %s %s: %s\n", static_cast<long long>(number),
                    made.target->format.c_str(), seed_name(*made.target).c_str(),
                    result.refused ? result.message.c_str() : "loaded");
      }
    } catch (const quarry::fuzz::Failure& failure) {
      note_failure(number, made, failure.what());
    } catch (const std::exception& error) {
      note_failure(number, made, std::string("not a quarry::Error: ") + error.what());
    }
    ::setitimer(ITIMER_PROF, &none, nullptr);
    shared_->running = false;
  }

  static std::string seed_name(const FuzzTarget& target) {
    return (target.folder.filename() / target.file).string();
  }

  void note_failure(int64_t number, const Case& made, const std::string& what) {
    ++shared_->counts[made.format].failed;
    std::printf("FAILED: --seed %llu --first %lld --count 1%s (%s, %s): %s\n",
                static_cast<unsigned long long>(options_.seed), static_cast<long long>(number),
                options_.format.empty() ? "" : (" --format " + options_.format).c_str(),
                made.target->format.c_str(), seed_name(*made.target).c_str(), what.c_str());
    if (options_.keep.empty()) return;
    std::string name = seed_name(*made.target);
    std::replace(name.begin(), name.end(), '/', '_');
    fs::create_directories(options_.keep);
    std::ofstream(options_.keep / (std::to_string(options_.seed) + "-" + std::to_string(number) +
                                   "-" + made.target->format + "-" + name),
                  std::ios::binary)
        << made.mutated.bytes;
  }

  // How a child ended; one that died in the middle of a case goes on behind it.
  void note_end(int status) {
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
    QUARRY_CHECK(!WIFEXITED(status) || WEXITSTATUS(status) != kNoChild,
                 quarry::ErrorCode::kInternal, "the cases could not be run");
    if (!shared_->running) {
      ++leaks_;
      std::printf("FAILED: memory leaked in the cases up to %lld\n",
                  static_cast<long long>(shared_->next));
      return;
    }
    Dice dice(options_.seed, static_cast<uint64_t>(shared_->next));
    std::string what = quarry::concat("exit status ", WEXITSTATUS(status));
    if (WIFSIGNALED(status)) {
      what = WTERMSIG(status) == SIGPROF ? quarry::concat("took over ", kCpuSeconds, " CPU seconds")
                                         : quarry::concat("signal ", WTERMSIG(status));
    }
    note_failure(shared_->next, make_case(shared_->next, dice), "died: " + what);
    shared_->running = false;
    ++shared_->next;
  }

  int64_t failures() const {
    int64_t sum = 0;
    for (const Counts& counts : shared_->counts) sum += counts.failed;
    return sum;
  }

  void report() const {
    std::printf("%-12s %9s %9s %9s %9s %12s\n", "format", "cases", "refused", "loaded", "failed",
                "tensors");
    Counts sum;
    const auto line = [](const char* name, const Counts& counts) {
      std::printf("%-12s %9lld %9lld %9lld %9lld %12lld\n", name,
                  static_cast<long long>(counts.refused + counts.loaded + counts.failed),
                  static_cast<long long>(counts.refused), static_cast<long long>(counts.loaded),
                  static_cast<long long>(counts.failed), static_cast<long long>(counts.tensors));
    };
    for (size_t i = 0; i < quarry::fuzz::formats().size(); ++i) {
      const Counts& counts = shared_->counts[i];
      line(quarry::fuzz::formats()[i].c_str(), counts);
      sum.refused += counts.refused;
      sum.loaded += counts.loaded;
      sum.failed += counts.failed;
      sum.tensors += counts.tensors;
    }
    line("all", sum);
  }

  Options options_;
  fs::path folder_;
  std::vector<FuzzTarget> targets_;
  Shared* shared_ = nullptr;
  int64_t leaks_ = 0;
};

// In a child, as the libraries that make them start threads, which fork() would lose.
void make_seeds(const fs::path& folder) {
  const pid_t child = ::fork();
  if (child == 0) {
    int status = 0;
    try {
      quarry::set_num_threads(1);
      quarry::fuzz::make_seed_folders(folder);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "loader_fuzz: seeds: %s\n", error.what());
      status = 1;
    }
    std::fflush(nullptr);
    ::_exit(status);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  QUARRY_CHECK(child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0,
               quarry::ErrorCode::kInternal, "the seed files could not be made");
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = parse_options(argc, argv);
  try {
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
#if !defined(__SANITIZE_ADDRESS__)
    const rlimit memory = {rlim_t{4} << 30, rlim_t{4} << 30};
    ::setrlimit(RLIMIT_AS, &memory);
#endif
    const quarry::test::TemporaryFolder folder;
    const fs::path seeds = folder.path() / "seeds";
    fs::create_directories(seeds);
    make_seeds(seeds);
    LoaderFuzz fuzz(options, folder.path(), quarry::fuzz::list_targets(seeds));
    return fuzz.run() == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "loader_fuzz: %s\n", error.what());
    return 2;
  }
}
