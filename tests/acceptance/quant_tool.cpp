// Quantizes the float32 values on standard input, for bitsandbytes_parity.py. Not installed.
//   quant_tool nf4|fp4 BLOCK_SIZE single|double OUT      the parts of "x.weight", one row
//   quant_tool int8 COLUMNS - OUT                        the parts of "x.weight", rows of COLUMNS
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "generator/quant/four_bit.h"
#include "generator/quant/int8_rows.h"
#include "generator/weights/bnb_tensors.h"

namespace {

using quarry::TensorToWrite;
using quarry::WeightType;

std::vector<float> read_values() {
  std::string bytes;
  char buffer[1 << 16];
  for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, stdin)) > 0;) bytes.append(buffer, n);
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

std::vector<TensorToWrite> quantized(const std::string& type, int64_t size, bool double_quant) {
  const std::vector<float> values = read_values();
  const auto count = static_cast<int64_t>(values.size());
  if (type == "int8") {
    quarry::Int8Rows rows = quarry::quantize_int8_rows(values.data(), count / size, size);
    return quarry::split_bnb_tensor("x.weight", WeightType::kInt8Rows, {count / size, size},
                                    {rows.codes.begin(), rows.codes.end()}, rows.state);
  }
  quarry::FourBitOptions options;
  options.type = type == "nf4" ? WeightType::kNF4 : WeightType::kFP4;
  options.block_size = size;
  options.double_quant = double_quant;
  quarry::FourBitCodes coded = quarry::quantize_four_bit(values.data(), count, options);
  return quarry::split_bnb_tensor("x.weight", options.type, {1, count},
                                  {coded.codes.begin(), coded.codes.end()}, coded.state);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fputs("usage: quant_tool nf4|fp4|int8 SIZE single|double|- OUT\n", stderr);
    return 2;
  }
  try {
    const bool double_quant = std::string(argv[3]) == "double";
    quarry::write_safetensors(argv[4], quantized(argv[1], std::atoll(argv[2]), double_quant), {});
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "quant_tool: %s\n", error.what());
    return 1;
  }
}
