// POST /v1/search: passages with their spans and scores; GET /documents: text of a document of the
// index. Neither ever opens a file that a client names.
#include "api/answer_json.h"
#include "api/http/context.h"
#include "api/http/fields.h"
#include "api/http/sources.h"
#include "data/core/stopwatch.h"

namespace quarry::http {
namespace {

const Retriever& retriever_of(const ServerContext& context) {
  const Retriever* retriever = context.pipeline.retriever();
  if (retriever == nullptr) throw ApiError(404, "this server was started without an index");
  return *retriever;
}

// A byte offset from the query string, or `missing`.
int64_t read_offset(const httplib::Request& request, const char* name, int64_t missing) {
  if (!request.has_param(name)) return missing;
  const std::string text = request.get_param_value(name);
  const bool good = !text.empty() && text.size() <= 15 &&
                    text.find_first_not_of("0123456789") == std::string::npos;
  if (!good) {
    throw bad_request(name, concat("'", name, "' is '", text, "', expected a byte offset"));
  }
  return std::stoll(text);
}

bool is_continuation(const std::string& text, int64_t at) {
  return at < static_cast<int64_t>(text.size()) &&
         (static_cast<unsigned char>(text[static_cast<size_t>(at)]) & 0xC0) == 0x80;
}

OrderedJson document_json(const Document& document) {
  OrderedJson body;
  body["object"] = "document";
  body["uri"] = document.uri;
  body["title"] = document.title;
  body["format"] = document.format;
  body["content_hash"] = document.content_hash;
  body["metadata"] = document.metadata;
  body["bytes"] = document.text.size();
  return body;
}

}  // namespace

void handle_search(ServerContext& context, Exchange&, const httplib::Request& request,
                   httplib::Response& response) {
  retriever_of(context);
  const Json body = parse_body(request.body);
  const Fields fields(body);
  const std::optional<std::string> query = fields.string("query");
  if (!query) throw bad_request("query", "'query' is missing");
  if (query->find_first_not_of(" \t\r\n") == std::string::npos) {
    fields.fail("query", "a text that is not empty");
  }
  SearchOptions defaults;
  defaults.rerank_candidates = context.options.ask.search.rerank_candidates;
  const SearchOptions options =
      read_search_options(fields, defaults, context.pipeline.reranker() != nullptr);
  const auto start = std::chrono::steady_clock::now();
  const std::vector<Hit> hits = context.pipeline.search(*query, options);
  write_json(search_json(*query, options.mode, hits, seconds_since(start)), response);
}

// GET /documents?uri=U[&start=B&end=E[&context=N]][&format=text]. JSON with the text in three
// pieces, before, span and after, so that a client need not count bytes; format=text: the text.
void handle_document(ServerContext& context, Exchange&, const httplib::Request& request,
                     httplib::Response& response) {
  if (!request.has_param("uri")) throw bad_request("uri", "'uri' is missing");
  const std::string uri = request.get_param_value("uri");
  const std::optional<Document> document = retriever_of(context).document(uri);
  if (!document) {
    ApiError error(404, "the index holds no document '" + uri + "'");
    error.param = "uri";
    throw error;
  }
  const std::string& text = document->text;
  if (request.get_param_value("format") == "text") {
    response.status = 200;
    response.set_content(text, "text/plain; charset=utf-8");
    return;
  }
  const auto size = static_cast<int64_t>(text.size());
  const int64_t start = read_offset(request, "start", 0);
  const int64_t end = read_offset(request, "end", start);
  if (start > end || end > size || is_continuation(text, start) || is_continuation(text, end)) {
    throw bad_request("start", concat("span ", start, "-", end, " does not lie on characters of '",
                                      uri, "', which has ", size, " bytes"));
  }
  const int64_t around = read_offset(request, "context", size);
  int64_t from = start > around ? start - around : 0;
  int64_t to = size - end > around ? end + around : size;
  while (is_continuation(text, from)) ++from;
  while (is_continuation(text, to)) --to;
  const auto piece = [&](int64_t begin, int64_t stop) {
    return text.substr(static_cast<size_t>(begin), static_cast<size_t>(stop - begin));
  };
  OrderedJson body = document_json(*document);
  body["start"] = start;
  body["end"] = end;
  body["cut_before"] = from > 0;
  body["cut_after"] = to < size;
  body["before"] = piece(from, start);
  body["span"] = piece(start, end);
  body["after"] = piece(end, to);
  write_json(body, response);
}

}  // namespace quarry::http
