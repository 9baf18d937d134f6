#include "api/cli/model.h"

#include <algorithm>
#include <cstdio>
#include <iostream>

#include "api/cli/command.h"
#include "generator/weights/model_catalog.h"

namespace quarry::cli {
namespace {

std::string megabytes(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f MB", static_cast<double>(bytes) / 1e6);
  return text;
}

OrderedJson to_json(const ModelInfo& info) {
  OrderedJson json;
  json["name"] = info.location.name;
  json["path"] = info.location.path.string();
  json["format"] = info.format;
  json["architecture"] = info.architecture;
  json["role"] = info.role;
  json["parameters"] = info.parameters;
  json["weight_bytes"] = info.weight_bytes;
  json["context_length"] = info.context_length;
  json["vocab_size"] = info.vocab_size;
  json["tokenizer"] = info.tokenizer;
  for (const auto& [type, count] : info.tensor_types) json["tensor_types"][type] = count;
  json["content_hash"] = info.content_hash;
  return json;
}

void print_info(const ModelInfo& info) {
  std::cout << info.location.name << "\n"
            << "  path           " << info.location.path.string() << "\n"
            << "  format         " << info.format << "\n"
            << "  architecture   " << info.architecture << " (" << info.role << ")\n"
            << "  parameters     " << info.parameters << "\n"
            << "  weights        " << megabytes(info.weight_bytes) << ":";
  for (const auto& [type, count] : info.tensor_types) std::cout << " " << count << " " << type;
  std::cout << "\n"
            << "  context        " << info.context_length << " tokens\n"
            << "  vocabulary     " << info.vocab_size << " (" << info.tokenizer << ")\n"
            << "  content hash   " << info.content_hash << "\n";
}

void list_models(bool as_json) {
  OrderedJson all = OrderedJson::array();
  const std::vector<ModelLocation> models = installed_models();
  for (const ModelLocation& location : models) {
    const ModelInfo info = describe_model(location);
    if (as_json) {
      all.push_back(to_json(info));
    } else {
      std::printf("%-26s %-10s %-8s %10s  %s\n", location.name.c_str(), info.role.c_str(),
                  info.architecture.c_str(), megabytes(info.weight_bytes).c_str(),
                  info.format.c_str());
    }
  }
  if (as_json) print_json(all);
  if (!as_json && models.empty()) {
    std::cerr << "no models are installed: run scripts/fetch_models.sh\n";
  }
}

}  // namespace

void add_model_command(CLI::App& app, CommandContext& context) {
  CLI::App* model = app.add_subcommand("model", "Models: ls, info, estimate, quantize");
  model->require_subcommand(1);
  model->footer("Examples\n  quarry model ls\n  quarry model info smollm2-135m-instruct --json");

  static bool as_json = false;
  CLI::App* ls = model->add_subcommand("ls", "List the installed models");
  ls->add_flag("--json", as_json, "Print JSON");
  ls->callback([] { list_models(as_json); });

  static std::string name;
  CLI::App* info = model->add_subcommand("info", "Tell everything about one model");
  info->add_option("MODEL", name, "Short name, Hugging Face folder or .gguf file")->required();
  info->add_flag("--json", as_json, "Print JSON");
  info->callback([] {
    const ModelInfo described = describe_model(resolve_model(name));
    if (as_json) {
      print_json(to_json(described));
    } else {
      print_info(described);
    }
  });
  add_model_estimate_command(*model);
  add_model_quantize_command(*model, context);
}

}  // namespace quarry::cli
