#pragma once

#include <string_view>

namespace quarry::http {

// Files of api/http/web, embedded by embed.cmake when the program is built.
std::string_view page_html();
std::string_view page_css();
std::string_view page_js();

}  // namespace quarry::http
