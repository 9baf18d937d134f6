#include "finetune/model_card.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "data/core/error.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

ModelCard sample() {
  ModelCard card;
  card.title = "Answers from passages";
  card.base_model = "smollm2-135m-instruct";
  card.base_model_hash = "abc123";
  card.description = "What it does.";
  card.licence = "apache-2.0";
  card.data_files = {{"train|1.jsonl", "ff00", 12, "CC BY-SA 4.0"}};
  card.command = "quarry finetune --data.train train.jsonl";
  card.seed = 7;
  card.minutes = 12.34;
  card.hyperparameters = {{"adapter.r", "16"}};
  card.figure_columns = {"set", "EM", "F1"};
  card.figures = {{"dev", "62.0 [59, 65]", "73.1"}};
  card.curve_columns = {"EM"};
  card.learning_curve = {{100, 1.5, {40.25}}, {200, 3, {std::numeric_limits<double>::quiet_NaN()}}};
  return card;
}

TEST(ModelCard, WholeCard) {
  EXPECT_EQ(model_card_markdown(sample()), R"(---
base_model: smollm2-135m-instruct
library_name: peft
license: apache-2.0
pipeline_tag: text-generation
tags:
  - lora
  - question-answering
  - rag
---

# Answers from passages

What it does.

LoRA adapter for `smollm2-135m-instruct`. Content hash of the base it was trained on: `abc123`.

## Training data

| file | examples | licence | SHA-256 |
|---|---|---|---|
| `train\|1.jsonl` | 12 | CC BY-SA 4.0 | `ff00` |

## Training

```sh
quarry finetune --data.train train.jsonl
```

| setting | value |
|---|---|
| seed | 7 |
| wall time | 12.3 minutes |
| `adapter.r` | 16 |

## Figures

| set | EM | F1 |
|---|---|---|
| dev | 62.0 [59, 65] | 73.1 |

## Learning curve

| examples | minutes | EM |
|---|---|---|
| 100 | 1.5 | 40.25 |
| 200 | 3.0 | - |
)");
}

TEST(ModelCard, EmptyPartsAreLeftOut) {
  ModelCard card;
  card.title = "T";
  card.base_model = "odd: name # x";
  const std::string text = model_card_markdown(card);
  EXPECT_THAT(text, StartsWith("---\nbase_model: \"odd: name # x\"\nlibrary_name: peft\n"));
  for (const char* part : {"license", "## Training data", "```", "## Figures", "## Learning"}) {
    EXPECT_EQ(text.find(part), std::string::npos) << part;
  }
}

TEST(ModelCard, RowOfAnotherWidthIsRefused) {
  ModelCard card = sample();
  card.figures.push_back({"dev"});
  try {
    model_card_markdown(card);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("a row of the figures has 1 cells, wanted 3"));
  }
}

}  // namespace
}  // namespace quarry
