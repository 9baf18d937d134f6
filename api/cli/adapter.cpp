// quarry adapter: LoRA adapters as files. Which adapters a server runs is `quarry serve`'s.
#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>

#include "api/cli/command.h"
#include "data/core/error.h"
#include "generator/adapters/adapter_catalog.h"
#include "generator/adapters/gguf_adapter.h"
#include "generator/adapters/merge_adapter.h"
#include "generator/adapters/retype_adapter.h"

namespace quarry::cli {
namespace {

struct AdapterArguments {
  std::string folder;  // of ls; empty: adapters_folder()
  std::string adapter;
  std::string model;
  std::string out;
  std::string type;  // empty: default_merge_type
  std::optional<double> refusal_bias;
  bool any_base = false;
  bool as_json = false;
};

std::string size_text(int64_t bytes) {
  char text[32];
  const bool small = bytes < 1'000'000;
  std::snprintf(text, sizeof text, small ? "%.1f kB" : "%.1f MB",
                static_cast<double>(bytes) / (small ? 1e3 : 1e6));
  return text;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

const char* base_name(AdapterFit::Base base) {
  if (base == AdapterFit::Base::kMatches) return "matches";
  return base == AdapterFit::Base::kDiffers ? "differs" : "unknown";
}

OrderedJson to_json(const AdapterInfo& info) {
  OrderedJson json;
  json["name"] = info.name;
  json["path"] = info.path.string();
  json["format"] = info.format;
  if (!info.target_modules.empty()) {
    json["target_modules"] = OrderedJson::parse(info.target_modules);
  }
  json["modules_to_save"] = info.modules_to_save;
  json["bias"] = info.bias.empty() ? "none" : info.bias;
  json["linear_names"] = info.linear_names;
  json["r"] = info.r;
  json["lora_alpha"] = info.lora_alpha;
  json["use_rslora"] = info.use_rslora;
  json["alora_invocation_tokens"] = info.invocation_tokens;
  json["scale"] = info.scale;
  json["has_patterns"] = info.has_patterns;
  json["linears"] = info.num_linears;
  json["parameters"] = info.parameters;
  json["bytes"] = info.bytes;
  json["tensor_type"] = info.tensor_type;
  if (info.notes) {
    json["base_model"] = {{"name", info.notes->base_name},
                          {"content_hash", info.notes->base_content_hash}};
    json["rag_template"] = info.notes->rag_template;
    json["rag_template_version"] = info.notes->rag_template_version;
    json["not_in_documents"] = info.notes->not_in_documents;
    json["refusal_bias"] = info.notes->refusal_bias;
  }
  json["warnings"] = info.warnings;
  return json;
}

void list(const AdapterArguments& arguments) {
  const std::filesystem::path folder =
      arguments.folder.empty() ? adapters_folder() : std::filesystem::path(arguments.folder);
  std::error_code ignored;
  QUARRY_CHECK(arguments.folder.empty() || std::filesystem::is_directory(folder, ignored),
               ErrorCode::kNotFound, folder.string(), ": no such folder");
  const std::vector<AdapterInfo> adapters = list_adapters(folder);
  if (arguments.as_json) {
    OrderedJson all = OrderedJson::array();
    for (const AdapterInfo& info : adapters) all.push_back(to_json(info));
    print_json(all);
    return;
  }
  for (const AdapterInfo& info : adapters) {
    if (info.format.empty()) {
      std::printf("%-24s unusable: %s\n", info.name.c_str(), info.warnings.front().c_str());
      continue;
    }
    std::printf("%-24s %-5s r %-4lld %10s  %-24s %s\n", info.name.c_str(), info.format.c_str(),
                static_cast<long long>(info.r), size_text(info.bytes).c_str(),
                info.notes ? info.notes->base_name.c_str() : "", joined(info.linear_names).c_str());
  }
  if (adapters.empty()) std::cerr << "no adapters in " << folder.string() << "\n";
}

void print_notes(const AdapterNotes& notes) {
  std::cout << "  trained on     " << notes.base_name << "\n";
  if (!notes.rag_template.empty()) {
    std::cout << "  prompt form    " << notes.rag_template << ", version "
              << notes.rag_template_version << "\n";
  }
  if (!notes.not_in_documents.empty()) {
    std::cout << "  no answer      " << notes.not_in_documents << "\n";
    if (notes.refusal_bias != 0) std::cout << "  refusal bias   " << notes.refusal_bias << "\n";
  }
}

void print_info(const AdapterInfo& info) {
  std::cout << info.name << "\n"
            << "  path           " << info.path.string() << "\n"
            << "  format         " << info.format << ", " << size_text(info.bytes) << " of "
            << info.tensor_type << "\n"
            << "  targets        " << joined(info.linear_names) << ": " << info.num_linears
            << " Linears\n"
            << "  r, alpha       " << info.r << ", " << number(info.lora_alpha)
            << (info.use_rslora ? ", rsLoRA" : "")
            << (info.has_patterns ? "; some Linears differ" : "") << "\n"
            << "  scale          " << number(info.scale) << "\n"
            << "  parameters     " << info.parameters << "\n";
  if (!info.invocation_tokens.empty()) {
    std::cout << "  acts from      the last of these tokens in a prompt on (aLoRA):";
    for (const int32_t token : info.invocation_tokens) std::cout << " " << token;
    std::cout << "\n";
  }
  if (!info.modules_to_save.empty()) {
    std::cout << "  held whole     " << joined(info.modules_to_save) << "\n";
  }
  if (!info.bias.empty() && info.bias != "none") {
    std::cout << "  biases         " << info.bias << "\n";
  }
  if (info.notes) print_notes(*info.notes);
}

void print_fit(const AdapterFit& fit, const ModelFile& model) {
  std::cout << "  with           " << model.location().name << "\n"
            << "  base model     " << base_name(fit.base);
  if (fit.base == AdapterFit::Base::kDiffers) {
    std::cout << ": this is not the model that the adapter was trained on";
  } else if (fit.base == AdapterFit::Base::kUnknown) {
    std::cout << ": the adapter does not say what it was trained on; shapes fit";
  }
  std::cout << "\n  " << trainable_parameters_text(fit.trainable_parameters, fit.all_parameters)
            << "\n";
}

void info(const AdapterArguments& arguments) {
  const AdapterInfo described = describe_adapter(resolve_adapter(arguments.adapter));
  std::unique_ptr<ModelFile> model;
  AdapterFit fit;
  if (!arguments.model.empty()) {
    model = ModelFile::open(resolve_model(arguments.model));
    fit = fit_adapter(described, *model);
  }
  if (arguments.as_json) {
    OrderedJson json = to_json(described);
    if (model != nullptr) {
      json["model"] = {{"name", model->location().name},
                       {"base", base_name(fit.base)},
                       {"trainable_parameters", fit.trainable_parameters},
                       {"all_parameters", fit.all_parameters}};
    }
    print_json(json);
    return;
  }
  print_info(described);
  if (model != nullptr) print_fit(fit, *model);
  for (const std::string& warning : described.warnings) std::cerr << "warning: " << warning << "\n";
}

void merge(const AdapterArguments& arguments, const CommandContext& context) {
  const auto model = ModelFile::open(resolve_model(arguments.model));
  MergeOptions options;
  options.check_base = !arguments.any_base;
  options.cancel = context.cancel;
  options.type =
      arguments.type.empty() ? default_merge_type(*model) : parse_merge_type(arguments.type);
  const MergeResult result =
      merge_adapter(*model, resolve_adapter(arguments.adapter), arguments.out, options);
  if (context.quiet) return;
  std::cerr << "merged " << result.merged_tensors << " tensors into " << arguments.out << ": "
            << size_text(result.bytes) << "\n";
}

void convert(const AdapterArguments& arguments, const CommandContext& context) {
  const std::filesystem::path adapter = resolve_adapter(arguments.adapter);
  const std::filesystem::path out = arguments.out;
  std::error_code ignored;
  QUARRY_CHECK(!std::filesystem::exists(out, ignored), ErrorCode::kInvalidArgument, out.string(),
               ": is there already and is not replaced");
  const bool from_gguf = adapter.extension() == ".gguf";
  const bool to_gguf = out.extension() == ".gguf";
  const bool retypes = !from_gguf && !to_gguf && !arguments.type.empty();
  QUARRY_CHECK(from_gguf != to_gguf || retypes, ErrorCode::kInvalidArgument,
               "convert makes a .gguf of a PEFT folder, a folder of a .gguf, or with --type a "
               "folder of another type, not ",
               adapter.string(), " of the same kind as ", out.string());
  const auto model = ModelFile::open(resolve_model(arguments.model));
  ConvertOptions options;
  options.check_base = !arguments.any_base;
  if (retypes) {
    retype_adapter(adapter, *model, {*parse_merge_type(arguments.type), arguments.refusal_bias},
                   out);
  } else if (to_gguf) {
    adapter_to_gguf(adapter, *model, out, options);
  } else {
    gguf_to_adapter(adapter, *model, out, options);
  }
  if (!context.quiet) std::cerr << "wrote " << out.string() << "\n";
}

using Arguments = std::shared_ptr<AdapterArguments>;

void add_ls(CLI::App& parent, const Arguments& arguments) {
  CLI::App* ls = parent.add_subcommand("ls", "List adapters");
  ls->add_option("DIR", arguments->folder,
                 "Folder that holds adapters (default: $QUARRY_HOME/adapters)");
  ls->add_flag("--json", arguments->as_json, "Print JSON");
  ls->callback([arguments] { list(*arguments); });
}

void add_info(CLI::App& parent, const Arguments& arguments) {
  CLI::App* command = parent.add_subcommand("info", "Tell everything about one adapter");
  command->add_option("ADAPTER", arguments->adapter, "PEFT folder, GGUF file or name")->required();
  command->add_option("--model", arguments->model,
                      "Check against this model and count its parameters");
  command->add_flag("--json", arguments->as_json, "Print JSON");
  command->callback([arguments] { info(*arguments); });
}

void add_merge(CLI::App& parent, const Arguments& arguments, const CommandContext& context) {
  CLI::App* command =
      parent.add_subcommand("merge", "Write a model that has the adapter in its weights");
  command->add_option("MODEL", arguments->model, "Short name, Hugging Face folder or .gguf file")
      ->required();
  command->add_option("ADAPTER", arguments->adapter, "PEFT folder or name")->required();
  command
      ->add_option("OUT", arguments->out, "New folder (safetensors), or a name that ends in .gguf")
      ->required();
  command
      ->add_option("--type", arguments->type,
                   "Merged weights as f32, bf16, f16 or as-base (default: as-base when the base is "
                   "dense, else f16)")
      ->check(CLI::IsMember({"f32", "bf16", "f16", "as-base"}));
  command->add_flag("--any-base", arguments->any_base,
                    "Merge into a model other than the adapter was trained on");
  command->footer(
      "Sums are in float32 and rounded once. A 4-bit base is dequantized first, so that the "
      "merged\n"
      "model answers as base and adapter did together; merging back into 4 bits would change it.\n"
      "In a .gguf only the adapted Linears change type; all else is copied. modules_to_save and "
      "biases\n"
      "take the place of the base's; a head tied to the embedding becomes its own where one of "
      "both "
      "is\n"
      "saved.");
  command->callback([arguments, &context] { merge(*arguments, context); });
}

void add_convert(CLI::App& parent, const Arguments& arguments, const CommandContext& context) {
  CLI::App* command = parent.add_subcommand(
      "convert", "PEFT folder to GGUF adapter for llama.cpp, back, or to another type");
  command->add_option("ADAPTER", arguments->adapter, "PEFT folder, GGUF adapter or name")
      ->required();
  command->add_option("OUT", arguments->out, "New .gguf file, or a new folder")->required();
  command->add_option("--model", arguments->model, "The base model of the adapter")->required();
  command->add_flag("--any-base", arguments->any_base,
                    "Convert for a model other than the adapter was trained on");
  command->add_option("--type", arguments->type, "Folder to folder: matrices as f32, bf16 or f16")
      ->check(CLI::IsMember({"f32", "bf16", "f16"}));
  command->add_option("--refusal-bias", arguments->refusal_bias,
                      "Folder to folder: how readily it says \"not in the documents\", in nats");
  command->footer(
      "llama.cpp scales every matrix by alpha / r. rsLoRA and alpha_pattern are multiplied into "
      "B,\n"
      "so the GGUF computes what the folder does. It has no place for modules_to_save and biases: "
      "use merge.\n"
      "  llama-cli -m MODEL.gguf --lora OUT.gguf");
  command->callback([arguments, &context] { convert(*arguments, context); });
}

}  // namespace

void add_adapter_command(CLI::App& app, CommandContext& context) {
  CLI::App* adapter =
      app.add_subcommand("adapter", "LoRA adapters as files: ls, info, merge, convert");
  adapter->require_subcommand(1);
  adapter->footer(
      "An adapter is a PEFT folder: adapter_config.json and adapter_model.safetensors. Use one "
      "with\n"
      "--adapter of quarry generate, ask and serve.\n"
      "Examples\n"
      "  quarry adapter ls data/adapters\n"
      "  quarry adapter info my-adapter --model smollm2-135m-instruct\n"
      "  quarry adapter merge smollm2-135m-instruct my-adapter merged --type bf16\n"
      "  quarry adapter convert my-adapter my-adapter.gguf --model smollm2-135m-instruct");
  const auto arguments = std::make_shared<AdapterArguments>();
  add_ls(*adapter, arguments);
  add_info(*adapter, arguments);
  add_merge(*adapter, arguments, context);
  add_convert(*adapter, arguments, context);
}

}  // namespace quarry::cli
