#include "indexer/chunker.h"

#include <gmock/gmock.h>

#include <chrono>
#include <random>

#include "data/text/utf8.h"
#include "indexer/sentences.h"
#include "tests/indexer/fake_embedder.h"

namespace quarry {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

TokenCounter word_counter() {
  return [](std::string_view text) { return FakeEmbedder().count_tokens(text); };
}

ParsedDocument plain(const std::string& text) {
  ParsedDocument parsed;
  parsed.document.uri = "/a";
  parsed.document.text = text;
  return parsed;
}

std::vector<std::string> texts_of(const std::vector<Passage>& passages) {
  std::vector<std::string> texts;
  for (const Passage& passage : passages) texts.push_back(passage.text);
  return texts;
}

ChunkOptions chunks_of(int64_t tokens, int64_t overlap = 0) {
  ChunkOptions options;
  options.max_tokens = tokens;
  options.overlap_tokens = overlap;
  return options;
}

std::vector<std::string> sentences_of(const std::string& text) {
  std::vector<std::string> sentences;
  for (const TextUnit& unit : split_sentences(text, 0, static_cast<int64_t>(text.size()))) {
    sentences.push_back(
        text.substr(static_cast<size_t>(unit.start), static_cast<size_t>(unit.end - unit.start)));
  }
  return sentences;
}

TEST(SplitSentences, EndsAtStopsNotAtAbbreviations) {
  EXPECT_THAT(sentences_of("Dr. Who met J. K. Rowling at 3.15 p.m. today. \"Yes!\" She said... "
                           "nothing (really?). It cost 4.50, i.e. much."),
              ElementsAre("Dr. Who met J. K. Rowling at 3.15 p.m. today.", "\"Yes!\"",
                          "She said... nothing (really?).", "It cost 4.50, i.e. much."));
}

TEST(SplitSentences, ParagraphsAndListsSeparate) {
  EXPECT_THAT(
      sentences_of("one line\nwraps here\n\n\n  new paragraph\n- item a\n- item b\n1. first"),
      ElementsAre("one line\nwraps here", "new paragraph", "- item a", "- item b", "1. first"));
  EXPECT_THAT(sentences_of("今日は。明日！x"), ElementsAre("今日は。", "明日！", "x"));
}

TEST(Chunker, AShortDocumentIsOnePassage) {
  ParsedDocument parsed = plain("  One. Two.\n\nThree.\n");
  parsed.document.title = "T";
  const std::vector<Passage> passages = chunk_document(parsed, word_counter(), chunks_of(50));
  ASSERT_THAT(passages, SizeIs(1));
  EXPECT_EQ(passages[0].text, "One. Two.\n\nThree.");
  EXPECT_EQ(passages[0].start, 2);
  EXPECT_EQ(passages[0].title, "T");
  EXPECT_EQ(passages[0].document_uri, "/a");
}

TEST(Chunker, CutsBetweenSentencesInEvenShares) {
  const std::vector<Passage> passages =
      chunk_document(plain("A b c d. E f g h. I j k l. M n o p."), word_counter(), chunks_of(13));
  EXPECT_THAT(texts_of(passages), ElementsAre("A b c d. E f g h.", "I j k l. M n o p."));
}

TEST(Chunker, PrefersTheEndOfAParagraph) {
  const std::vector<Passage> passages = chunk_document(
      plain("A b c. D e f.\n\nG h i. J k l. M n o. P q r."), word_counter(), chunks_of(14));
  EXPECT_THAT(texts_of(passages), ElementsAre("A b c. D e f.", "G h i. J k l. M n o. P q r."));
}

TEST(Chunker, NeverCrossesAHeadingAndCarriesItsPath) {
  ParsedDocument parsed = plain("intro\n# A\n## B\nbody b\n## C\nbody c\n# D\nbody d");
  parsed.headings = {{6, 9, 1, "A"}, {10, 14, 2, "B"}, {22, 26, 2, "C"}, {34, 37, 1, "D"}};
  const std::vector<Passage> passages = chunk_document(parsed, word_counter(), chunks_of(100));
  EXPECT_THAT(texts_of(passages),
              ElementsAre("intro", "# A\n## B\nbody b", "## C\nbody c", "# D\nbody d"));
  EXPECT_EQ(passages[0].heading, "");
  EXPECT_EQ(passages[1].heading, "A > B");
  EXPECT_EQ(passages[2].heading, "A > C");
  EXPECT_EQ(passages[3].heading, "D");
  parsed.document.title = "A";
  EXPECT_EQ(chunk_document(parsed, word_counter(), chunks_of(100))[1].heading, "B");
}

TEST(Chunker, TitleAndHeadingCountAgainstTheBudget) {
  ParsedDocument parsed = plain("A b c d. E f g h.");
  EXPECT_THAT(chunk_document(parsed, word_counter(), chunks_of(10)), SizeIs(1));
  parsed.document.title = "three more words";
  EXPECT_THAT(chunk_document(parsed, word_counter(), chunks_of(10)), SizeIs(2));
}

TEST(Chunker, OverlapRepeatsWholeSentences) {
  const std::vector<Passage> passages = chunk_document(
      plain("A b c. D e f. G h i. J k l. M n o. P q r."), word_counter(), chunks_of(9, 3));
  ASSERT_GE(passages.size(), 2U);
  for (size_t i = 1; i < passages.size(); ++i) {
    EXPECT_LT(passages[i].start, passages[i - 1].end);
    EXPECT_GT(passages[i].start, passages[i - 1].start);
  }
  EXPECT_EQ(passages.back().end, 41);
}

TEST(Chunker, ALongSentenceIsCutBetweenWordsAndALongWordBetweenCharacters) {
  std::string sentence;
  for (int i = 0; i < 40; ++i) sentence += "word" + std::to_string(i) + " ";
  for (const Passage& passage : chunk_document(plain(sentence), word_counter(), chunks_of(10))) {
    EXPECT_LE(word_counter()(passage.text), 10);
    EXPECT_EQ(passage.text.substr(0, 4), "word");
  }
  std::string word;
  for (int i = 0; i < 3000; ++i) word += "é";
  const TokenCounter bytes = [](std::string_view text) {
    return static_cast<int64_t>(text.size());
  };
  std::string together;
  for (const Passage& passage : chunk_document(plain(word), bytes, chunks_of(100))) {
    EXPECT_LE(passage.text.size(), 100U);
    EXPECT_TRUE(is_valid_utf8(passage.text));
    together += passage.text;
  }
  EXPECT_EQ(together, word);
}

TEST(Chunker, NothingButSpaceGivesNothing) {
  EXPECT_THAT(chunk_document(plain(""), word_counter(), chunks_of(10)), SizeIs(0));
  EXPECT_THAT(chunk_document(plain(" \n\t \n"), word_counter(), chunks_of(10)), SizeIs(0));
}

ParsedDocument random_document(std::mt19937& random) {
  const std::vector<std::string> parts = {"word", "Longer", ".",  "! ",     "? ",  "\n", "\n\n",
                                          " ",    "  ",     "é",  "東京。", "- a", "\t", "1. ",
                                          "\r\n", "e.g. ",  "\"", ")",      "x.y", "\f", "Über "};
  ParsedDocument parsed = plain("");
  std::string& text = parsed.document.text;
  const size_t count = random() % 400;
  for (size_t i = 0; i < count; ++i) {
    if (random() % 40 == 0) {
      const auto start = static_cast<int64_t>(text.size());
      text += "Head" + std::to_string(i);
      parsed.headings.push_back({start, static_cast<int64_t>(text.size()),
                                 1 + static_cast<int>(random() % 4), "Head" + std::to_string(i)});
      text += "\n";
    }
    text += parts[random() % parts.size()];
  }
  return parsed;
}

TEST(Chunker, PropertiesHoldOnRandomDocuments) {
  std::mt19937 random(3);
  for (int trial = 0; trial < 3000; ++trial) {
    SCOPED_TRACE(trial);
    const ParsedDocument parsed = random_document(random);
    const std::string& text = parsed.document.text;
    const int64_t budget = 2 + static_cast<int64_t>(random() % 40);
    const int64_t overlap = random() % 3 == 0 ? static_cast<int64_t>(random() % 10) : 0;
    std::vector<int> covered(text.size(), 0);
    int64_t before = -1;
    for (const Passage& passage :
         chunk_document(parsed, word_counter(), chunks_of(budget, overlap))) {
      ASSERT_EQ(text.substr(static_cast<size_t>(passage.start),
                            static_cast<size_t>(passage.end - passage.start)),
                passage.text);
      ASSERT_TRUE(is_valid_utf8(passage.text));
      ASSERT_GT(passage.start, before);
      before = passage.start;
      const int64_t context = word_counter()(passage.heading);
      ASSERT_LE(word_counter()(passage.text), std::max<int64_t>({budget - context, budget / 2, 1}));
      for (int64_t i = passage.start; i < passage.end; ++i) ++covered[static_cast<size_t>(i)];
      // Headings inside start the passage: only other headings and space are before them.
      for (const Heading& heading : parsed.headings) {
        if (heading.start <= passage.start || heading.start >= passage.end) continue;
        std::string above = text.substr(static_cast<size_t>(passage.start),
                                        static_cast<size_t>(heading.start - passage.start));
        for (const Heading& other : parsed.headings) {
          const size_t at = above.find(other.text + "\n");
          if (at != std::string::npos) above.erase(at, other.text.size());
        }
        ASSERT_EQ(above.find_first_not_of(" \t\r\n\f"), std::string::npos) << passage.text;
      }
    }
    for (size_t i = 0; i < text.size(); ++i) {
      if (std::string(" \t\r\n\f\v").find(text[i]) != std::string::npos) continue;
      ASSERT_GE(covered[i], 1) << "byte " << i << " is in no passage";
      if (overlap == 0) {
        ASSERT_EQ(covered[i], 1) << "byte " << i;
      }
    }
  }
}

TEST(Chunker, TimeIsLinearInTheText) {
  int64_t counted = 0;
  const TokenCounter counter = [&counted](std::string_view text) {
    counted += static_cast<int64_t>(text.size());
    return FakeEmbedder().count_tokens(text);
  };
  std::string text;
  for (int i = 0; i < 20000; ++i) text += "Some words of a sentence that is common. ";
  text += std::string(1000000, 'x') + " " + std::string(200000, '.') + "\n";
  for (int i = 0; i < 50000; ++i) text += "no stop anywhere here ";
  chunk_document(plain(text), counter, chunks_of(200));
  EXPECT_LT(counted, 4 * static_cast<int64_t>(text.size()));
}

}  // namespace
}  // namespace quarry
