#include <faiss/Index.h>
#include <httplib.h>
#include <sqlite3.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>

#include "api/cli/command.h"
#include "data/core/cpu_isa.h"
#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "data/core/paths.h"
#include "generator/models/device.h"
#include "generator/weights/model_catalog.h"

namespace quarry::cli {
namespace {

struct Finding {
  std::string name;
  std::string value;
  std::string meaning;
  bool good = true;
};

std::vector<Finding> check_cpu() {
  const CpuIsa best = detect_cpu_isa();
  const CpuIsa used = cpu_isa();
  std::string meaning = "the fastest kernels run";
  if (best == CpuIsa::kAvx2)
    meaning = "AVX2 kernels run; AVX-512 with VNNI would be about twice as fast";
  if (best == CpuIsa::kPortable) meaning = "no AVX2: everything works, several times slower";
  if (used != best) meaning = concat("lowered by QUARRY_CPU_ISA from ", cpu_isa_name(best));
  return {
      {"cpu", cpu_isa_name(used), meaning, used == best && best != CpuIsa::kPortable},
      {"threads", std::to_string(num_threads()), "set with --threads or OMP_NUM_THREADS", true}};
}

Finding check_gpu() {
  const CudaSupport cuda = cuda_support();
  if (!cuda.problem.empty()) return {"gpu", "not used", cuda.problem, false};
  if (cuda.num_devices > 0) {
    return {"gpu", cuda.name,
            concat("generators and embedders run on it (--device); ", cuda.free_bytes >> 20, " of ",
                   cuda.total_bytes >> 20, " MiB are free"),
            true};
  }
  if (cuda.is_built) {
    return {"gpu", "none", "the CUDA driver shows no device: everything runs on the CPU", true};
  }
  const bool device = std::filesystem::exists("/dev/nvidia0");
  return {"gpu", device ? "an NVIDIA device is present" : "none",
          device ? "this build has no CUDA: the cuda preset makes one that uses it"
                 : "not needed: everything runs on the CPU",
          true};
}

std::vector<Finding> check_models() {
  std::vector<Finding> findings;
  const std::vector<ModelLocation> models = installed_models();
  for (const char* name : {kDefaultGenerator, kDefaultEmbedder}) {
    bool found = false;
    for (const ModelLocation& model : models) found = found || model.name == name;
    findings.push_back(
        {"model", name,
         found ? "installed" : "missing: run scripts/fetch_models.sh " + std::string(name), found});
  }
  return findings;
}

Finding check_home() {
  const std::filesystem::path home = quarry_home();
  std::filesystem::path existing = home;
  while (!existing.empty() && !std::filesystem::exists(existing)) existing = existing.parent_path();
  struct statvfs info = {};
  if (::statvfs(existing.c_str(), &info) != 0) {
    return {"home", home.string(), "cannot be examined", false};
  }
  const double free_gb =
      static_cast<double>(info.f_bavail) * static_cast<double>(info.f_frsize) / 1e9;
  const bool writable = ::access(existing.c_str(), W_OK) == 0;
  char text[64];
  std::snprintf(text, sizeof text, "%.1f GB free", free_gb);
  return {"home", home.string(), writable ? text : "not writable by this user",
          writable && free_gb > 1.0};
}

Finding check_pdf() {
  bool found = false;
  const char* path = std::getenv("PATH");
  std::string remaining = path == nullptr ? "" : path;
  while (!remaining.empty() && !found) {
    const size_t colon = remaining.find(':');
    found = ::access((remaining.substr(0, colon) + "/pdftotext").c_str(), X_OK) == 0;
    remaining = colon == std::string::npos ? "" : remaining.substr(colon + 1);
  }
  return {"pdftotext", found ? "found" : "missing",
          found ? "PDF files can be indexed" : "PDF files are skipped: install poppler-utils",
          true};
}

std::vector<Finding> libraries() {
  return {{"sqlite", sqlite3_libversion(), "", true},
          {"faiss", concat(FAISS_VERSION_MAJOR, ".", FAISS_VERSION_MINOR, ".", FAISS_VERSION_PATCH),
           "", true},
          {"libtorch", QUARRY_TORCH_VERSION, "", true},
          {"cpp-httplib", CPPHTTPLIB_VERSION, "", true},
          {"build", QUARRY_VERSION, QUARRY_BUILD_TYPE, true}};
}

void doctor(bool as_json, CommandContext& context) {
  std::vector<Finding> findings = check_cpu();
  findings.push_back(check_gpu());
  for (Finding& finding : check_models()) findings.push_back(std::move(finding));
  findings.push_back(check_home());
  findings.push_back(check_pdf());
  for (Finding& finding : libraries()) findings.push_back(std::move(finding));
  bool all_good = true;
  OrderedJson json = OrderedJson::array();
  for (const Finding& finding : findings) {
    all_good = all_good && finding.good;
    if (as_json) {
      json.push_back({{"check", finding.name},
                      {"value", finding.value},
                      {"meaning", finding.meaning},
                      {"ok", finding.good}});
    } else {
      std::cout << (finding.good ? "  ok   " : "  !!   ") << finding.name << ": " << finding.value;
      if (!finding.meaning.empty()) std::cout << " - " << finding.meaning;
      std::cout << "\n";
    }
  }
  if (as_json) print_json(json);
  if (!all_good) context.exit_code = kExitFailed;
}

}  // namespace

void add_doctor_command(CLI::App& app, CommandContext& context) {
  auto as_json = std::make_shared<bool>(false);
  CLI::App* command =
      app.add_subcommand("doctor", "Check CPU, GPU, models and libraries, and say what each means");
  command->add_flag("--json", *as_json, "Print JSON");
  command->footer("Exit status 1 when something needs mending.");
  command->callback([as_json, &context] { doctor(*as_json, context); });
}

}  // namespace quarry::cli
