// GET /, /page.css, /page.js: the page for people. /source is the same page, opened at a span of a
// document.
#include "api/http/context.h"
#include "api/http/page_files.h"
#include "data/core/hash.h"

namespace quarry::http {
namespace {

// Nothing but our own files, no inline script or style, no frames.
constexpr char kContentSecurityPolicy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' "
    "data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

struct PageFile {
  std::string_view bytes;
  const char* type;
  std::string etag;
};

const PageFile& file_for(const std::string& path) {
  static const auto make = [](std::string_view bytes, const char* type) {
    return PageFile{bytes, type, "\"" + sha256_hex(bytes).substr(0, 32) + "\""};
  };
  static const PageFile kHtml = make(page_html(), "text/html; charset=utf-8");
  static const PageFile kCss = make(page_css(), "text/css; charset=utf-8");
  static const PageFile kJs = make(page_js(), "text/javascript; charset=utf-8");
  if (path == "/page.css") return kCss;
  return path == "/page.js" ? kJs : kHtml;
}

}  // namespace

void handle_page(ServerContext&, Exchange& exchange, const httplib::Request& request,
                 httplib::Response& response) {
  const PageFile& file = file_for(exchange.path);
  response.set_header("Content-Security-Policy", kContentSecurityPolicy);
  response.set_header("Referrer-Policy", "no-referrer");
  response.set_header("Cache-Control", "no-cache");  // asked again, answered with 304
  response.set_header("ETag", file.etag);
  if (request.get_header_value("If-None-Match") == file.etag) {
    response.status = 304;
    return;
  }
  response.status = 200;
  response.set_content(file.bytes.data(), file.bytes.size(), file.type);
}

}  // namespace quarry::http
