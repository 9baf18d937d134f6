#include "finetune/data/training_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "data/core/error.h"
#include "finetune/data/treebank_text.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class TrainingSetFiles : public ::testing::Test {
 protected:
  fs::path write(const std::string& name, const std::string& text) {
    const fs::path path = folder_.path() / name;
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  TrainingSet read(const std::string& name, const std::string& text,
                   const TrainingReadOptions& options = {}, const std::string& format = "auto") {
    return read_training_set({{write(name, text), format}}, options);
  }
  // The message that reading this text ends in, without the folder.
  std::string failure(const std::string& name, const std::string& text,
                      ErrorCode code = ErrorCode::kCorruptData,
                      const TrainingReadOptions& options = {}, const std::string& format = "auto") {
    try {
      read(name, text, options, format);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      std::string message = error.what();
      const std::string folder = folder_.path().string() + "/";
      for (size_t at = 0; (at = message.find(folder)) != std::string::npos;) {
        message.erase(at, folder.size());
      }
      return message;
    }
    return "no error";
  }
  std::string passage_text(const TrainingSet& set, int32_t index) {
    return set.passages.at(static_cast<size_t>(index)).text;
  }

  test::TemporaryFolder folder_;
};

TEST_F(TrainingSetFiles, QaRowsTakeEveryUsualShapeOfAnswersAndPassages) {
  const TrainingSet set = read(
      "qa.jsonl", R"({"id": 7, "question": "Q1", "answer": "A1", "context": "has A1", "title": "T"}
{"query": "Q2", "answers": ["A2", "A 2"], "passages": ["none", {"title": "U", "text": "it is a2 here"}]}
{"question": "Q3", "answers": {"text": ["A3"], "answer_start": [4]}, "context": "has A1", "title": "T"}
{"question": "Q4", "answers": [{"text": "A4"}], "gold_ids": ["d1", 2]}
{"question": "Q5", "answers": [], "context": "c"}
{"question": "Q6", "is_impossible": true, "context": "c"}
)");
  ASSERT_EQ(set.rows.size(), 6U);
  EXPECT_EQ(set.rows[0].id, "7");
  EXPECT_EQ(set.rows[0].where, (folder_.path() / "qa.jsonl:1").string());
  EXPECT_EQ(set.rows[1].id, set.rows[1].where) << "a row without an id";
  EXPECT_THAT(set.rows[1].answers, ElementsAre("A2", "A 2"));
  EXPECT_EQ(set.rows[1].passages.size(), 2U);
  EXPECT_EQ(passage_text(set, set.rows[1].gold), "it is a2 here");
  EXPECT_THAT(set.rows[2].answers, ElementsAre("A3"));
  EXPECT_EQ(set.rows[2].passages, set.rows[0].passages) << "each passage is kept once";
  EXPECT_EQ(set.passages[static_cast<size_t>(set.rows[0].gold)].title, "T");
  EXPECT_THAT(set.rows[3].gold_ids, ElementsAre("d1", "2"));
  EXPECT_EQ(set.rows[3].gold, -1);
  EXPECT_THAT(set.rows[4].answers, IsEmpty());
  EXPECT_THAT(set.rows[5].answers, IsEmpty());
}

TEST_F(TrainingSetFiles, BadQaRowsNameFileLineFieldFoundAndWanted) {
  const std::string good = "{\"question\": \"Q\", \"answer\": \"A\"}\n";
  EXPECT_EQ(failure("a.jsonl", good + R"({"answer": "A"})", ErrorCode::kCorruptData, {}, "qa"),
            "a.jsonl:2: question: found no such field, wanted the question's text");
  EXPECT_EQ(failure("a.jsonl", good + R"({"question": 5, "answer": "A"})"),
            "a.jsonl:2: question: found number, wanted the question's text");
  EXPECT_EQ(failure("a.jsonl", good + R"({"question": " ", "answer": "A"})"),
            "a.jsonl:2: question: found an empty text, wanted the question's text");
  EXPECT_EQ(failure("a.jsonl", good + R"({"question": "Q"})"),
            "a.jsonl:2: answers: found no such field, wanted a text, a list of texts or "
            "{\"text\": [...]}");
  EXPECT_EQ(
      failure("a.jsonl", good + R"({"question": "Q", "answers": ["A", ""]})"),
      "a.jsonl:2: answers: found an empty text, wanted an answer (an empty list says that the "
      "passages do not answer the question)");
  EXPECT_EQ(failure("a.jsonl", good + R"({"question": "Q", "answer": "A", "context": ""})"),
            "a.jsonl:2: context: found an empty text, wanted the passage's text");
  EXPECT_EQ(failure("a.jsonl", good + R"({"question": "Q", "answer": "A", "passages": [4]})"),
            "a.jsonl:2: passages: found number, wanted texts or {\"title\", \"text\"}");
}

TEST_F(TrainingSetFiles, BadFilesAreRefused) {
  EXPECT_EQ(failure("a.jsonl", ""), "a.jsonl: found no row, wanted at least one");
  EXPECT_EQ(failure("a.jsonl", "\n \n", ErrorCode::kCorruptData, {}, "qa"),
            "a.jsonl: found no row, wanted at least one (read as qa)");
  EXPECT_EQ(failure("a.jsonl", "{\"question\": \"Q\xFF\", \"answer\": \"A\"}"),
            "a.jsonl:1: byte 16 is 0xFF, which is not UTF-8, wanted UTF-8");
  EXPECT_EQ(failure("a.csv", std::string("\xff\xfeq\0,\0", 6)),
            "a.csv:1: found the byte order mark of UTF-16 or UTF-32, wanted UTF-8");
  EXPECT_EQ(failure("a.csv", std::string("q\0,\0a\0\n\0", 8)),
            "a.csv:1: found a NUL byte, as in UTF-16 or in no text, wanted UTF-8");
  EXPECT_EQ(failure("a.csv", "question,answer\nQ,caf\xe9\n"),
            "a.csv:2: byte 6 is 0xE9, which is not UTF-8, wanted UTF-8");
  EXPECT_THAT(failure("a.jsonl", "{\"question\": \"Q\", \"answer\": \"A\"}\n{\"question\": "),
              HasSubstr("a.jsonl:2: not valid JSON"));
  EXPECT_EQ(failure("a.jsonl", "[1]"), "a.jsonl:1: found array, wanted an object");
  EXPECT_EQ(failure("a.jsonl", R"({"text": "t", "kind": 1})"),
            "a.jsonl:1: row: found the fields kind, text, wanted question and answers, prompt and "
            "completion, instruction and output, messages, or text and label");
  EXPECT_EQ(failure("a.jsonl", "{}", ErrorCode::kInvalidArgument, {}, "tsv"),
            "training data format \"tsv\" is unknown: use one of auto, qa, completion, chat, "
            "labelled, csv, squad, nq-gold");
  EXPECT_THROW(read_training_set({{folder_.path() / "none.jsonl", "auto"}}, {}), Error);
}

TEST_F(TrainingSetFiles, AnIdThatIsThereTwiceNamesBothRowsEvenAcrossFiles) {
  const std::string one = R"({"id": "x", "question": "Q", "answer": "A"})";
  EXPECT_EQ(
      failure("a.jsonl", one + "\n" + one),
      "a.jsonl:2: id: found \"x\", which a.jsonl:1 has too, wanted ids that are there once in "
      "all the data");
  const fs::path first = write("b.jsonl", one);
  const fs::path second = write("c.jsonl", R"({"id": "x", "prompt": "P", "completion": "C"})");
  EXPECT_THROW(read_training_set({{first, "auto"}, {second, "auto"}}, {}), Error);
}

TEST_F(TrainingSetFiles, PromptsAndInstructionsBecomeChats) {
  const TrainingSet set = read("c.jsonl", R"({"prompt": "P", "completion": "C"}
{"instruction": "Translate.", "input": "Haus", "output": "house"}
{"instruction": "Hi.", "output": "Hello."}
)");
  ASSERT_EQ(set.rows.size(), 3U);
  EXPECT_EQ(set.rows[0].kind, TrainingRow::Kind::kChat);
  EXPECT_EQ(set.rows[0].messages[0].role, "user");
  EXPECT_EQ(set.rows[1].messages[0].content, "Translate.\n\nHaus");
  EXPECT_EQ(set.rows[1].messages[1].content, "house");
  EXPECT_EQ(set.rows[2].messages[0].content, "Hi.");
  EXPECT_THAT(set.rows[0].learned, ElementsAre(0, 1));
  TrainingReadOptions raw;
  raw.completion_form = CompletionForm::kRaw;
  EXPECT_EQ(read("c.jsonl", R"({"prompt": "P", "completion": "C"})", raw).rows[0].kind,
            TrainingRow::Kind::kRaw);
  EXPECT_EQ(failure("c.jsonl", R"({"prompt": "P", "completion": ""})"),
            "c.jsonl:1: completion: found an empty text, wanted the text to learn");
  EXPECT_EQ(failure("c.jsonl", R"({"instruction": "P"})"),
            "c.jsonl:1: output: found no such field, wanted the text to learn");
}

constexpr const char* kTwoTurns =
    R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
 {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}, {"role": "user", "content": "e"}]})";

// The columns of flytech/python-codes-25k, as JSON Lines and as CSV.
TEST_F(TrainingSetFiles, InstructionRowsAreTheSameFromBothFormats) {
  const std::string line =
      R"x({"output": "print(1)", "text": "all", "instruction": "Print it", "input": "1"})x";
  const std::string table = "output,text,instruction,input\nprint(1),all,Print it,1\n";
  for (const TrainingSet& set : {read("a.jsonl", line), read("a.csv", table)}) {
    ASSERT_EQ(set.rows.size(), 1U);
    EXPECT_EQ(set.rows[0].messages[0].content, "Print it\n\n1");
    EXPECT_EQ(set.rows[0].messages[1].content, "print(1)");
  }
}

TEST_F(TrainingSetFiles, PromptTemplatesTakeAnyColumns) {
  TrainingReadOptions options;
  options.completion_form = CompletionForm::kRaw;
  options.prompt_template = "### {task} of {n}: {{{x}}}\n";
  options.columns.completion = "code";
  const TrainingSet lines =
      read("a.jsonl", R"({"task": "Sum", "n": 2, "x": null, "code": "a + b"})", options);
  EXPECT_EQ(lines.rows[0].messages[0].content, "### Sum of 2: {}\n");
  EXPECT_EQ(lines.rows[0].messages[1].content, "a + b");
  EXPECT_EQ(lines.rows[0].kind, TrainingRow::Kind::kRaw);
  const TrainingSet table = read("a.csv", "code,question,x,n,task\na + b,Q,y,2,Sum\n", options);
  EXPECT_EQ(table.rows[0].messages[0].content, "### Sum of 2: {y}\n");
  EXPECT_EQ(failure("a.jsonl", R"({"task": "Sum", "n": 2, "code": "a"})", ErrorCode::kCorruptData,
                    options),
            "a.jsonl:1: x: found no such field, wanted it, as the prompt template names it");
  EXPECT_THAT(failure("b.csv", "code,x\na,y\n", ErrorCode::kCorruptData, options),
              HasSubstr("wanted a column \"task\""));
  for (const auto& [form, message] :
       {std::pair<std::string, std::string>{"{a", "a { without its } at byte 0"},
        {"a}", "a } without its { at byte 1"},
        {"{}", "an empty {} at byte 0"},
        {"plain", "names no column"}}) {
    options.prompt_template = form;
    EXPECT_THAT(failure("a.jsonl", "{}", ErrorCode::kInvalidArgument, options), HasSubstr(message));
  }
}

TEST_F(TrainingSetFiles, LabelledTextsAndPairs) {
  const TrainingSet set = read("l.jsonl", R"({"text": "T", "label": "yes"}
{"sentence": "S", "label": 3}
{"sentence1": "A", "sentence2": "B", "label": true}
{"premise": "P", "hypothesis": "H", "label": "no"}
)");
  ASSERT_EQ(set.rows.size(), 4U);
  EXPECT_EQ(set.rows[0].kind, TrainingRow::Kind::kLabelled);
  EXPECT_EQ(set.rows[0].text, "T");
  EXPECT_FALSE(set.rows[0].second.has_value());
  EXPECT_EQ(set.rows[1].label, "3");
  EXPECT_EQ(set.rows[2].second, "B");
  EXPECT_EQ(set.rows[2].label, "true");
  EXPECT_EQ(set.rows[3].second, "H");
  const TrainingSet table = read("l.tsv", "label\tsentence1\tsentence2\n1\tA\tB\n");
  EXPECT_EQ(table.rows[0].second, "B");
  EXPECT_EQ(table.rows[0].label, "1");
  TrainingReadOptions named;
  named.columns.text = "body";
  named.columns.label = "class";
  EXPECT_EQ(read("n.jsonl", R"({"body": "T", "class": "x"})", named).rows[0].label, "x");
  EXPECT_EQ(failure("l.jsonl", R"({"text": "T", "label": 1.5})"),
            "l.jsonl:1: label: found number, wanted a name, a whole number, true or false");
  EXPECT_EQ(failure("l.jsonl", R"({"text": " ", "label": 1})"),
            "l.jsonl:1: text: found an empty text, wanted the text to classify");
}

TEST_F(TrainingSetFiles, ChatTargetsAreTheLastAnswerOrAll) {
  std::string line = kTwoTurns;
  line.erase(line.find('\n'), 1);
  EXPECT_THAT(read("chat.jsonl", line).rows[0].learned, ElementsAre(0, 0, 0, 1));
  TrainingReadOptions all;
  all.chat_targets = ChatTargets::kAllTurns;
  EXPECT_THAT(read("chat.jsonl", line, all).rows[0].learned, ElementsAre(0, 1, 0, 1));
  const std::string off =
      R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},)"
      R"( {"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "weight": 0}]})";
  EXPECT_THAT(read("chat.jsonl", off, all).rows[0].learned, ElementsAre(0, 1));
}

TEST_F(TrainingSetFiles, BadChatsAreRefused) {
  EXPECT_EQ(
      failure("c.jsonl", R"({"messages": [{"role": "user", "content": "a"}]})"),
      "c.jsonl:1: messages: found no assistant message to learn: every label is masked, wanted "
      "at least one");
  EXPECT_EQ(failure("c.jsonl", R"({"messages": [{"role": "assistant", "content": "a"}]})"),
            "c.jsonl:1: messages: found an assistant message first, wanted a user message first");
  EXPECT_EQ(failure("c.jsonl", R"({"messages": [{"role": "human", "content": "a"}]})"),
            "c.jsonl:1: role: found \"human\", wanted system, user, assistant or tool");
  EXPECT_EQ(failure("c.jsonl", R"({"messages": "hello"})"),
            "c.jsonl:1: messages: found string, wanted a list of messages");
}

TEST_F(TrainingSetFiles, CsvColumnsAreTheUsualOnesOrThoseNamed) {
  const TrainingSet usual =
      read("q.csv", "id,question,answer,context,title\n1,Who?,Ann|Anne,\"Ann, 5\",T\n");
  ASSERT_EQ(usual.rows.size(), 1U);
  EXPECT_EQ(usual.rows[0].id, "1");
  EXPECT_THAT(usual.rows[0].answers, ElementsAre("Ann", "Anne"));
  EXPECT_EQ(passage_text(usual, usual.rows[0].gold), "Ann, 5");
  TrainingReadOptions named;
  named.columns.question = "frage";
  named.columns.answer = "antwort";
  const TrainingSet other = read("q.tsv", "frage\tantwort\nWer?\tAnn\n", named);
  EXPECT_EQ(other.rows[0].question, "Wer?");
  EXPECT_EQ(other.rows[0].id, (folder_.path() / "q.tsv:2").string());
  const TrainingSet pairs = read("p.csv", "prompt,completion\nHi,Hello\n");
  EXPECT_EQ(pairs.rows[0].messages[1].content, "Hello");
}

TEST_F(TrainingSetFiles, AByteOrderMarkIsNoPartOfAName) {
  EXPECT_EQ(read("a.csv", "\xEF\xBB\xBFquestion,answer\nQ,A\n").rows.at(0).question, "Q");
  EXPECT_EQ(read("b.csv", "\xEF\xBB\xBF\"question\",answer\nQ,A\n").rows.at(0).question, "Q");
  EXPECT_EQ(
      read("c.jsonl", "\xEF\xBB\xBF{\"question\": \"Q\", \"answer\": \"A\"}\n").rows.at(0).question,
      "Q");
}

TEST_F(TrainingSetFiles, BadCsvIsRefused) {
  EXPECT_EQ(failure("q.csv", "question,text\nWho?,x\n"),
            "q.csv:1: header: found the columns \"question\", \"text\", wanted \"question\" and "
            "\"answer\", or \"prompt\" and \"completion\", or \"text\" and \"label\"");
  TrainingReadOptions named;
  named.columns.answer = "reply";
  EXPECT_EQ(
      failure("q.csv", "question,answer\nWho?,x\n", ErrorCode::kCorruptData, named),
      "q.csv:1: header: found the columns \"question\", \"answer\", wanted a column \"reply\"");
  EXPECT_EQ(failure("q.csv", "question,answer\nWho?,Ann\n\"Two\nlines?\", \n"),
            "q.csv:3: answer: found an empty text, wanted the answer to learn");
  EXPECT_EQ(failure("q.csv", "question,answer\nWho?\n"),
            "q.csv:2: found 1 fields, the header has 2");
  EXPECT_EQ(failure("q.csv", "question,answer\n"),
            "q.csv: found no row, wanted at least one (read as csv)");
}

TEST_F(TrainingSetFiles, SquadLinesFindTheirPassagesInTheFilesBeside) {
  write("set/train.passages.00.jsonl",
        "{\"pid\": \"p1\", \"title\": \"T\", \"text\": \"It was 1973.\"}\n"
        "{\"pid\": \"p2\", \"title\": \"T\", \"text\": \"Unused.\"}\n");
  const fs::path questions =
      write("set/train.questions.00.jsonl",
            "{\"qid\": \"a\", \"pid\": \"p1\", \"question\": \"When?\", \"answers\": [\"1973\"]}\n"
            "{\"qid\": \"b\", \"pid\": \"p1\", \"question\": \"In which year?\", \"answers\": "
            "[\"1973\"]}\n");
  const TrainingSet set = read_training_set({{questions, "auto"}}, {});
  ASSERT_EQ(set.rows.size(), 2U);
  ASSERT_EQ(set.passages.size(), 1U);
  EXPECT_EQ(passage_text(set, set.rows[0].gold), "It was 1973.");
  EXPECT_EQ(set.rows[1].gold, set.rows[0].gold);
  EXPECT_THAT(set.rows[0].gold_ids, ElementsAre("p1"));
  EXPECT_THAT(
      failure("set/train.questions.01.jsonl",
              R"({"qid": "c", "pid": "p9", "question": "When?", "answers": ["1973"]})"),
      HasSubstr(
          "set/train.questions.01.jsonl: question c: pid: found \"p9\", wanted a passage of"));
}

TEST_F(TrainingSetFiles, SquadJsonAndListsOfRowsAreToldApart) {
  const TrainingSet squad = read("s.json", R"({"data": [{"title": "A_B", "paragraphs": [{"context":
"Ann.", "qas": [{"id": "1", "question": "Who?", "answers": [{"text": "Ann", "answer_start": 0}]},
{"id": "2", "question": "When?", "answers": []}]}]}]})");
  ASSERT_EQ(squad.rows.size(), 2U);
  EXPECT_EQ(squad.passages[0].title, "A B");
  EXPECT_THAT(squad.rows[1].answers, IsEmpty());
  EXPECT_EQ(squad.rows[1].gold, 0);
  const TrainingSet list = read("l.json", R"([{"instruction": "I", "output": "O"}])");
  EXPECT_EQ(list.rows[0].where, (folder_.path() / "l.json: row 1").string());
}

TEST_F(TrainingSetFiles, NaturalQuestionsLoseTheirTokenisationAndWrongAnswers) {
  const auto row = [](const std::string& id, const std::string& answer) {
    return "{\"qid\": \"uda-" + id + "\", \"question\": \"q\", \"answers\": [\"" + answer +
           "\"], \"title\": \"T\", \"passage\": \"The court 's `` judges '' ( six ) met .\"}\n";
  };
  const TrainingSet set =
      read("n.jsonl", row("1", "Donald Bradman,") + row("2", "Pom Klementieff (") +
                          row("3", "Robert Parish broke") + row("4", "") + row("5", "2006"));
  ASSERT_EQ(set.rows.size(), 3U);
  EXPECT_THAT(set.rows[0].answers, ElementsAre("Donald Bradman"));
  EXPECT_THAT(set.rows[1].answers, ElementsAre("Pom Klementieff"));
  EXPECT_THAT(set.rows[2].answers, ElementsAre("2006"));
  EXPECT_EQ(set.passages[0].text, "The court's \"judges\" (six) met.");
  EXPECT_EQ(set.skipped.at("the set gives no answer"), 1);
  EXPECT_EQ(set.skipped.at("the set's answer may hold a word too many"), 1);
}

TEST(TreebankText, PlainTextStaysAsItIs) {
  const std::string text = "It's \"quoted\" (so): 5 % - no, 3.5; e.g. a/b?";
  EXPECT_EQ(from_treebank_tokens(text), "It's \"quoted\" (so): 5%-no, 3.5; e.g. a/b?");
}

TEST(TrainingSetData, EveryRowOfTheSharedSetsHasItsGoldPassage) {
  const fs::path root = fs::path(QUARRY_SOURCE_DIR) / "../shared/data";
  if (!fs::exists(root / "squad11")) GTEST_SKIP() << root << " is not there";
  const TrainingSet set = read_training_set(
      {{root / "squad11/train.questions.03.jsonl", "squad"}, {root / "nq-gold/train.uda.jsonl"}},
      {});
  EXPECT_GT(set.rows.size(), 5000U);
  for (const TrainingRow& row : set.rows) ASSERT_GE(row.gold, 0) << row.where;
}

}  // namespace
}  // namespace quarry
