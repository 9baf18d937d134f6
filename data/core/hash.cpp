#include "data/core/hash.h"

#include <openssl/evp.h>
#include <sys/mman.h>

#include <algorithm>
#include <memory>

#include "data/core/error.h"
#include "data/core/mapped_file.h"

namespace quarry {
namespace {

// Whole pages.
constexpr size_t kChunkBytes = size_t{1} << 20;

std::string to_hex(const unsigned char* digest, unsigned int length) {
  static const char* kDigits = "0123456789abcdef";
  std::string hex;
  hex.reserve(size_t{length} * 2);
  for (unsigned int i = 0; i < length; ++i) {
    hex.push_back(kDigits[digest[i] >> 4]);
    hex.push_back(kDigits[digest[i] & 15]);
  }
  return hex;
}

void check(int result) {
  QUARRY_CHECK(result == 1, ErrorCode::kInternal, "SHA-256 failed in libcrypto");
}

}  // namespace

std::string sha256_hex(std::string_view bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  check(EVP_Digest(bytes.data(), bytes.size(), digest, &length, EVP_sha256(), nullptr));
  return to_hex(digest, length);
}

std::string sha256_file_hex(const std::filesystem::path& path) {
  const MappedFile file(path);
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(),
                                                                        &EVP_MD_CTX_free);
  check(context != nullptr && EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1);
  for (size_t begin = 0; begin < file.size(); begin += kChunkBytes) {
    const size_t size = std::min(kChunkBytes, file.size() - begin);
    const uint8_t* chunk = file.data() + begin;
    check(EVP_DigestUpdate(context.get(), chunk, size));
    // What was read does not stay resident: a model's file may be larger than the memory.
    ::madvise(const_cast<uint8_t*>(chunk), size, MADV_DONTNEED);
  }
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  check(EVP_DigestFinal_ex(context.get(), digest, &length));
  return to_hex(digest, length);
}

}  // namespace quarry
