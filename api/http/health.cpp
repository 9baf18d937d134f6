// GET /healthz (the process answers), /readyz (it takes work) and /metrics (Prometheus text format
// 0.0.4). None waits for the engine.
#include <unistd.h>

#include <fstream>

#include "api/http/context.h"

namespace quarry::http {
namespace {

double resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total_pages = 0;
  int64_t resident_pages = 0;
  statm >> total_pages >> resident_pages;
  return static_cast<double>(resident_pages) * static_cast<double>(::sysconf(_SC_PAGESIZE));
}

void write_engine(const EngineStats& stats, std::string& out) {
  const auto sample = [&](const char* name, const char* type, const char* help, int64_t value) {
    write_sample(name, type, help, static_cast<double>(value), out);
  };
  sample("quarry_generations_running", "gauge", "Sequences in the batch", stats.running);
  sample("quarry_generations_waiting", "gauge", "Requests in the engine's queue", stats.waiting);
  sample("quarry_generations_total", "counter", "Requests given to the engine",
         stats.requests_total);
  sample("quarry_generations_cancelled_total", "counter", "Requests cancelled before their end",
         stats.cancelled_total);
  sample("quarry_prompt_tokens_total", "counter", "Prompt tokens read", stats.prompt_tokens_total);
  sample("quarry_prompt_tokens_cached_total", "counter",
         "Prompt tokens that the prefix cache held, of quarry_prompt_tokens_total",
         stats.cached_tokens_total);
  sample("quarry_prefix_cache_bytes", "gauge", "Memory of the prefix cache",
         stats.prefix_cache_bytes);
  sample("quarry_draft_tokens_total", "counter", "Tokens guessed by prompt lookup and checked",
         stats.draft_tokens_total);
  sample("quarry_draft_tokens_accepted_total", "counter", "Of those, the ones that came true",
         stats.accepted_draft_tokens_total);
  sample("quarry_completion_tokens_total", "counter", "Tokens generated",
         stats.completion_tokens_total);
}

}  // namespace

void handle_health(ServerContext&, Exchange&, const httplib::Request&,
                   httplib::Response& response) {
  write_json({{"status", "ok"}}, response);
}

void handle_ready(ServerContext& context, Exchange&, const httplib::Request&,
                  httplib::Response& response) {
  if (context.draining) throw shutting_down();
  write_json({{"status", "ready"}}, response);
}

void handle_metrics(ServerContext& context, Exchange&, const httplib::Request&,
                    httplib::Response& response) {
  std::string out;
  write_header("quarry_build_info", "gauge", "Version of the program", out);
  out += concat("quarry_build_info{version=\"", QUARRY_VERSION, "\"} 1\n");
  context.metrics.write(out);
  write_sample("quarry_requests_active", "gauge", "Requests being answered",
               static_cast<double>(context.active.load()), out);
  write_engine(context.pipeline.engine().stats(), out);
  if (const Retriever* retriever = context.pipeline.retriever()) {
    const StoreStats stats = retriever->stats();
    write_sample("quarry_index_documents", "gauge", "Documents in the index",
                 static_cast<double>(stats.documents), out);
    write_sample("quarry_index_passages", "gauge", "Passages in the index",
                 static_cast<double>(stats.passages), out);
  }
  write_sample("process_resident_memory_bytes", "gauge", "Resident memory", resident_bytes(), out);
  write_sample("process_start_time_seconds", "gauge", "Start of the server, since 1970",
               static_cast<double>(context.created), out);
  response.status = 200;
  response.set_content(out, "text/plain; version=0.0.4; charset=utf-8");
}

}  // namespace quarry::http
