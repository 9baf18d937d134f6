#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/text/chat_template.h"
#include "data/types.h"

namespace quarry {

// One row of training data as read, before a template and a tokenizer saw it.
struct TrainingRow {
  enum class Kind {
    kQuestion,  // question, answers, passages
    kChat,      // messages, of which some are learned
    kRaw,       // messages[0] continued by messages[1], without a chat template
    kLabelled   // text, second, label
  };
  Kind kind = Kind::kQuestion;
  std::string id;     // unique in the set
  std::string where;  // "file:line", or what names the row in a file without lines

  std::string question;
  std::vector<std::string> answers;   // the first is learned; none: the passages do not answer it
  std::vector<int32_t> passages;      // indexes into TrainingSet::passages, in prompt order
  int32_t gold = -1;                  // the one of `passages` that answers; -1: not known
  std::vector<std::string> gold_ids;  // documents of an index that answer, as document_names()

  std::vector<ChatMessage> messages;
  std::vector<uint8_t> learned;  // [messages.size()]: its tokens count in the loss

  std::string text;
  std::optional<std::string> second;  // of a pair of texts
  std::string label;                  // as the row has it
};

struct TrainingSet {
  std::vector<TrainingRow> rows;
  std::vector<Passage> passages;           // title and text, each pair once
  std::map<std::string, int64_t> skipped;  // reason -> rows that a reader left out
};

// Columns of a CSV file, and fields of completions and labelled texts in JSON Lines; an empty name
// stands for the usual ones.
struct CsvColumns {
  std::string id;          // "id", "qid"
  std::string question;    // "question", "query"
  std::string answer;      // "answer", "answers"
  std::string context;     // "context", "passage"
  std::string title;       // "title"
  std::string prompt;      // "prompt", "instruction"
  std::string completion;  // "completion", "output", "response"
  std::string text;        // "text", "sentence", "sentence1", "premise"
  std::string second;      // "sentence2", "hypothesis"
  std::string label;       // "label"
};

enum class ChatTargets {
  kLastTurn,  // the last assistant message
  kAllTurns   // every assistant message
};

enum class CompletionForm {
  kChat,  // the prompt as a user's message, the completion as the assistant's: what chats and
          // `quarry generate` send
  kRaw    // the prompt's own tokens: what /v1/completions sends
};

struct TrainingReadOptions {
  CsvColumns columns;
  ChatTargets chat_targets = ChatTargets::kLastTurn;
  CompletionForm completion_form = CompletionForm::kChat;
  // Of completions: a PromptTemplate over the row's columns; empty: the prompt is a column.
  std::string prompt_template;
  // Passages of "squad" questions in JSON Lines (pid, title, text): a file or a folder. Empty:
  // files named *passages*.jsonl beside the questions, when there are any.
  std::filesystem::path squad_passages;
};

struct TrainingSource {
  std::filesystem::path path;
  std::string format = "auto";  // a name of training_readers()
};

// One format: its name, one line of help, and the function, which appends to the set. Rows without
// an id get `where` as theirs.
struct TrainingReader {
  const char* name;
  const char* help;
  void (*read)(const std::filesystem::path& path, const TrainingReadOptions& options,
               TrainingSet& set);
};

const std::vector<TrainingReader>& training_readers();

// Reads all sources into one set. "auto" guesses the format from a file's first row. Throws
// kInvalidArgument for an unknown format, listing the names; kNotFound; kCorruptData as "file:line:
// field: found ..., wanted ..." for a row that cannot be used, an id that is there twice and a file
// without rows.
TrainingSet read_training_set(const std::vector<TrainingSource>& sources,
                              const TrainingReadOptions& options);

// Readers, one file each.
void read_qa_rows(const std::filesystem::path& path, const TrainingReadOptions& options,
                  TrainingSet& set);
void read_completion_rows(const std::filesystem::path& path, const TrainingReadOptions& options,
                          TrainingSet& set);
void read_chat_rows(const std::filesystem::path& path, const TrainingReadOptions& options,
                    TrainingSet& set);
void read_csv_rows(const std::filesystem::path& path, const TrainingReadOptions& options,
                   TrainingSet& set);
void read_labelled_rows(const std::filesystem::path& path, const TrainingReadOptions& options,
                        TrainingSet& set);
void read_squad_rows(const std::filesystem::path& path, const TrainingReadOptions& options,
                     TrainingSet& set);
void read_nq_gold_rows(const std::filesystem::path& path, const TrainingReadOptions& options,
                       TrainingSet& set);

}  // namespace quarry
