#include "generator/nn/workspace.h"

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <vector>

namespace quarry::nn {
namespace {

TEST(Workspace, MemoryOfADroppedTensorIsUsedAgain) {
  const at::NoGradGuard no_grad;
  Workspace workspace;
  Tensor a = workspace.empty(3, 5);
  const float* memory = a.data_ptr<float>();
  Tensor b = workspace.empty(3, 5);
  EXPECT_NE(b.data_ptr<float>(), memory);
  a = Tensor();
  const int64_t bytes = workspace.bytes();
  Tensor c = workspace.empty(2, 7);
  EXPECT_EQ(c.data_ptr<float>(), memory);
  EXPECT_EQ(c.sizes(), at::IntArrayRef({2, 7}));
  EXPECT_TRUE(c.is_contiguous());
  EXPECT_EQ(workspace.bytes(), bytes);
}

TEST(Workspace, AViewKeepsItsMemory) {
  const at::NoGradGuard no_grad;
  Workspace workspace;
  Tensor a = workspace.empty(4, 4);
  const float* memory = a.data_ptr<float>();
  const Tensor view = a.narrow(0, 1, 2);
  a = Tensor();
  EXPECT_NE(workspace.empty(4, 4).data_ptr<float>(), memory);
}

TEST(Workspace, GrowsWhenAskedForMore) {
  const at::NoGradGuard no_grad;
  Workspace workspace;
  workspace.empty(1, 10);
  const Tensor large = workspace.empty(100, 1000);
  EXPECT_EQ(large.numel(), 100000);
  EXPECT_LT(workspace.bytes(), 2 * 100000 * 4);
  EXPECT_EQ(workspace.empty(0, 8).numel(), 0);
}

// Rows of one size after another, with a narrow tensor among them, as a training pass asks.
void run_pass(Workspace& workspace, int64_t rows) {
  workspace.begin_pass(rows);
  std::vector<Tensor> kept;
  for (int layer = 0; layer < 8; ++layer) {
    kept.push_back(workspace.empty(rows, 576));
    workspace.empty(3, 1536);
    workspace.empty(rows, 3072);
    workspace.empty(rows, 8);
  }
}

TEST(Workspace, PassesOfManySizesTakeWhatTheLargestOneAloneWould) {
  const at::NoGradGuard no_grad;
  Workspace alone;
  run_pass(alone, 400);
  Workspace workspace;
  for (const int64_t rows : {300, 310, 320, 150, 390, 400, 60, 395, 399}) run_pass(workspace, rows);
  EXPECT_EQ(workspace.bytes(), alone.bytes());
  EXPECT_EQ(workspace.empty(60, 7).sizes(), at::IntArrayRef({60, 7}));
}

TEST(Workspace, ATensorThatGrowsTakesThePlaceOfTheLargestFreeOne) {
  const at::NoGradGuard no_grad;
  Workspace workspace;
  {
    const Tensor wide = workspace.empty(100, 1000);
    const Tensor narrow = workspace.empty(100, 100);
  }
  const int64_t before = workspace.bytes();
  const Tensor wide = workspace.empty(110, 1000);
  EXPECT_LT(workspace.bytes(), before + 20 * 1000 * 4);
  const Tensor narrow = workspace.empty(100, 100);
  EXPECT_LT(workspace.bytes(), before + 20 * 1000 * 4);
}

TEST(Workspace, WithGradientsOnHistoryStaysWithTheTensorAndNotWithTheMemory) {
  Workspace workspace;
  Tensor a = workspace.empty(3, 5);
  const float* memory = a.data_ptr<float>();
  a.set_requires_grad(true);
  const Tensor saved = a.detach();  // what a backward function keeps
  a = Tensor();
  EXPECT_NE(workspace.empty(3, 5).data_ptr<float>(), memory);
  Tensor b = workspace.empty(3, 5);
  b.set_requires_grad(true);
  memory = b.data_ptr<float>();
  b = Tensor();
  const Tensor again = workspace.empty(3, 5);
  EXPECT_EQ(again.data_ptr<float>(), memory);
  EXPECT_FALSE(again.requires_grad());
}

}  // namespace
}  // namespace quarry::nn
