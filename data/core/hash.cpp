#include "data/core/hash.h"

#include <openssl/evp.h>

#include "data/core/error.h"
#include "data/core/mapped_file.h"

namespace quarry {

std::string sha256_hex(std::string_view bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  QUARRY_CHECK(EVP_Digest(bytes.data(), bytes.size(), digest, &length, EVP_sha256(), nullptr) == 1,
               ErrorCode::kInternal, "SHA-256 failed in libcrypto");
  static const char* kDigits = "0123456789abcdef";
  std::string hex;
  hex.reserve(length * 2);
  for (unsigned int i = 0; i < length; ++i) {
    hex.push_back(kDigits[digest[i] >> 4]);
    hex.push_back(kDigits[digest[i] & 15]);
  }
  return hex;
}

std::string sha256_file_hex(const std::filesystem::path& path) {
  const MappedFile file(path);
  return sha256_hex({reinterpret_cast<const char*>(file.data()), file.size()});
}

}  // namespace quarry
