// One Linear in the types of bitsandbytes, for peers/linear_vs_bitsandbytes.py: it reads inputs
// from and writes results to a folder, so that the error can be measured beside the peer's.
//   linear_bench FOLDER N K ROWS dequantize | nf4 | int8
// FOLDER has w.f32 [N, K] and x.f32 [ROWS, K]; y.f32 gets the product [ROWS, N], or the decoded
// weights. Prints seconds a call, the median.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "generator/kernels/matmul.h"
#include "generator/quant/four_bit.h"
#include "generator/quant/int8_rows.h"
#include "tests/bench/bench_util.h"

namespace {

std::vector<float> read_floats(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

void write_floats(const std::string& path, const std::vector<float>& values) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(values.data()),
             static_cast<std::streamsize>(values.size() * sizeof(float)));
}

double run(const std::string& folder, int64_t n, int64_t k, int64_t m, const std::string& work) {
  const std::vector<float> w = read_floats(folder + "/w.f32");
  const std::vector<float> x = read_floats(folder + "/x.f32");
  std::vector<float> y(static_cast<size_t>(work == "dequantize" ? n * k : m * n));
  double seconds = 0.0;
  const auto time = [&](const auto& body) { seconds = quarry::bench::time_calls(body, 5).median; };
  if (work == "int8") {
    const quarry::Int8Rows rows = quarry::quantize_int8_rows(w.data(), n, k);
    time([&] {
      quarry::multiply_int8_rows(rows.state, rows.codes.data(), n, k, x.data(), m, {}, y.data(), n);
    });
  } else {
    quarry::FourBitOptions options;
    options.double_quant = false;
    const quarry::FourBitCodes coded = quarry::quantize_four_bit(w.data(), n * k, options);
    if (work == "dequantize") {
      time([&] {
        quarry::dequantize_four_bit(quarry::WeightType::kNF4, coded.state, coded.codes.data(), 0,
                                    n * k, y.data());
      });
    } else {
      const auto packed =
          quarry::kernels::pack_quantized(quarry::WeightType::kNF4, coded.state, coded.codes.data(),
                                          n, k, quarry::kernels::Precision::kFast8);
      time([&] { quarry::kernels::matmul(*packed, x.data(), m, k, y.data(), n); });
    }
  }
  write_floats(folder + "/y.f32", y);
  return seconds;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fputs("usage: linear_bench FOLDER N K ROWS dequantize|nf4|int8\n", stderr);
    return 2;
  }
  std::printf("%.9f\n",
              run(argv[1], std::stoll(argv[2]), std::stoll(argv[3]), std::stoll(argv[4]), argv[5]));
}
