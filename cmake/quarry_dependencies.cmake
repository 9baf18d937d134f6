# Third parties. All come from Debian packages or from CMAKE_PREFIX_PATH, none from the network.
if(DEFINED ENV{QUARRY_CACHE})
  set(QUARRY_CACHE_DIR "$ENV{QUARRY_CACHE}")
else()
  set(QUARRY_CACHE_DIR "$ENV{HOME}/.cache/quarry")
endif()
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(OpenSSL REQUIRED)
find_package(SQLite3 REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(spdlog REQUIRED)
find_package(CLI11 REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(pcre2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(utf8proc REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(gumbo REQUIRED IMPORTED_TARGET gumbo)
pkg_check_modules(yaml_cpp REQUIRED IMPORTED_TARGET yaml-cpp)

# LibTorch 1.13 (Debian) to 2.x (CMAKE_PREFIX_PATH). TorchConfig's own flags are not ours to keep.
find_package(Torch REQUIRED)
message(STATUS "LibTorch ${Torch_VERSION}")

# FAISS: a SIMD build that scripts/setup.sh left in the cache folder, any other in
# CMAKE_PREFIX_PATH, or Debian's generic one (3 to 6 times slower).
include(quarry_faiss)
include(quarry_sentencepiece)

find_path(HTTPLIB_INCLUDE_DIR httplib.h REQUIRED)
find_library(HTTPLIB_LIBRARY cpp-httplib)
add_library(quarry_httplib INTERFACE)
target_include_directories(quarry_httplib SYSTEM INTERFACE "${HTTPLIB_INCLUDE_DIR}")
if(HTTPLIB_LIBRARY)
  target_link_libraries(quarry_httplib INTERFACE "${HTTPLIB_LIBRARY}")
  # A compiled httplib lays out its classes by these macros: use the ones it was built with.
  pkg_check_modules(httplib QUIET cpp-httplib)
  target_compile_options(quarry_httplib INTERFACE ${httplib_CFLAGS_OTHER})
  target_link_libraries(quarry_httplib INTERFACE OpenSSL::SSL)
endif()
target_link_libraries(quarry_httplib INTERFACE Threads::Threads)

if(QUARRY_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()
