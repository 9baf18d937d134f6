#include "indexer/readers/reader.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <cstdlib>

#include "data/text/utf8.h"
#include "indexer/readers/readers.h"
#include "indexer/readers/source_text.h"
#include "tests/data/store/store_fixture.h"

namespace quarry {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// All that a reader told about one file.
struct Reading {
  std::vector<ParsedDocument> documents;
  std::vector<std::string> skips;  // "uri: reason"
  std::vector<std::string> warnings;
};

Reading read_with(const Reader& reader, const std::filesystem::path& path,
                  const ReaderOptions& options = ReaderOptions()) {
  Reading reading;
  ReadSink sink;
  sink.is_known = [](const std::string&, const std::string&) { return false; };
  sink.on_document = [&](ParsedDocument&& parsed) {
    reading.documents.push_back(std::move(parsed));
    return true;
  };
  sink.on_skip = [&](Skip&& skip) {
    reading.skips.push_back(skip.uri + ": " + skip.reason);
    return true;
  };
  sink.on_warning = [&](const std::string& uri, const std::string& message) {
    reading.warnings.push_back(uri + ": " + message);
  };
  sink.on_bytes = [](int64_t) { return true; };
  reader.read(path, options, sink);
  return reading;
}

std::filesystem::path sample(const std::string& name) {
  return std::filesystem::path(QUARRY_SOURCE_DIR) / "data" / "samples" / name;
}

// "level text" of each heading.
std::vector<std::string> outline(const ParsedDocument& parsed) {
  std::vector<std::string> lines;
  int64_t before = 0;
  for (const Heading& heading : parsed.headings) {
    EXPECT_LE(before, heading.start);
    EXPECT_LE(heading.start, heading.end);
    EXPECT_LE(heading.end, static_cast<int64_t>(parsed.document.text.size()));
    before = heading.end;
    lines.push_back(std::to_string(heading.level) + " " + heading.text);
  }
  return lines;
}

TEST(MarkdownReader, FindsHeadingsOutsideCode) {
  const Reading reading = read_with(markdown_reader(), sample("harbour.md"));
  ASSERT_THAT(reading.documents, SizeIs(1));
  const ParsedDocument& parsed = reading.documents[0];
  EXPECT_EQ(parsed.document.title, "Harbour handbook");
  EXPECT_EQ(parsed.document.text, read_bytes(sample("harbour.md"))) << "spans point into the file";
  EXPECT_EQ(parsed.document.content_hash.size(), 64U);
  EXPECT_THAT(outline(parsed),
              ElementsAre("1 Harbour handbook", "2 Mooring", "3 Fees", "2 Storms"));
  EXPECT_EQ(parsed.document.text.substr(static_cast<size_t>(parsed.headings[3].start), 13),
            "Storms\n------");
}

TEST(MarkdownReader, OddHeadings) {
  TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.md";
  write_bytes(path,
              "#hash tag\n# One #\n####### seven\n    # code\n- item\n---\nTwo\nlines\n===\n#\n"
              "~~~\n# in code\n```\n# still\n~~~\n## Three\\#\r\n");
  const Reading reading = read_with(markdown_reader(), path);
  EXPECT_THAT(outline(reading.documents.at(0)), ElementsAre("1 One", "1 Two lines", "2 Three\\#"));
}

TEST(HtmlReader, KeepsTextAndHeadingsOfTheMainPart) {
  const Reading reading = read_with(html_reader(), sample("lighthouse.html"));
  ASSERT_THAT(reading.documents, SizeIs(1));
  const ParsedDocument& parsed = reading.documents[0];
  EXPECT_EQ(parsed.document.title, "The lighthouse of Port Elden");
  EXPECT_EQ(parsed.document.text,
            "The lighthouse\n\n"
            "Built in 1871, it is 42\u00a0m high & still manned.\n\n"
            "The lamp\n\n"
            "- It turns once in ten seconds.\n- It is seen 30 km away.\n\n"
            "on\n  off\n\n"
            "year\tkeeper\n1871\tAda Storm");
  EXPECT_THAT(outline(parsed), ElementsAre("1 The lighthouse", "2 The lamp"));
}

TEST(HtmlReader, DeepNestingIsRefusedAndBrokenPagesAreRead) {
  TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.html";
  std::string deep;
  for (int i = 0; i < 300000; ++i) deep += i % 2 == 0 ? "<div>" : "<b>";
  write_bytes(path, deep + "text");
  EXPECT_THAT(read_with(html_reader(), path).skips,
              ElementsAre(HasSubstr("elements nested more than 2000 deep")));
  write_bytes(path, "<p>one<p>two<td></b></i><h2>three<h3>four &#0; &#xD800; &bogus; <");
  EXPECT_THAT(read_with(html_reader(), path).documents, SizeIs(1));
  write_bytes(path, "<html><script>only()</script></html>");
  EXPECT_THAT(read_with(html_reader(), path).skips, ElementsAre(HasSubstr("no text on this page")));
}

TEST(RestructuredTextReader, LevelsFollowTheOrderOfStyles) {
  const Reading reading = read_with(restructured_text_reader(), sample("ferry.rst"));
  ASSERT_THAT(reading.documents, SizeIs(1));
  EXPECT_EQ(reading.documents[0].document.title, "Ferry");
  EXPECT_THAT(outline(reading.documents[0]),
              ElementsAre("1 Ferry", "2 Timetable", "3 Winter", "2 Tickets"));
  EXPECT_EQ(reading.documents[0].headings[0].start, 0) << "the overline belongs to the heading";
}

TEST(JsonlReader, ReadsRecordsAndReportsBadOnes) {
  const Reading reading = read_with(jsonl_reader(), sample("ships.jsonl"));
  ASSERT_THAT(reading.documents, SizeIs(2));
  const Document& gull = reading.documents[0].document;
  EXPECT_EQ(gull.uri, sample("ships.jsonl").string() + "#s1");
  EXPECT_EQ(gull.title, "Gull");
  EXPECT_EQ(gull.text, "The Gull is a trawler of 1952.");
  EXPECT_THAT(gull.metadata, (Metadata{{"flag", "Elden"}, {"crew", "7"}}));
  EXPECT_THAT(reading.skips, ElementsAre(HasSubstr("ships.jsonl#4: record"),
                                         HasSubstr("ships.jsonl#5: no text: none of the fields"),
                                         HasSubstr("ships.jsonl#6: id 's2' appeared before")));
}

TEST(JsonlReader, NamedFieldsAndNumbersAsIds) {
  TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.jsonl";
  write_bytes(path,
              "\xef\xbb\xbf{\"n\": 17, \"q\": \"What?\", \"text\": \"not this\"}\r\n[1]\n"
              "{\"q\": 5}\n" +
                  std::string(5000, '[') + "\n");
  ReaderOptions options;
  options.text_field = "q";
  options.id_field = "n";
  const Reading reading = read_with(jsonl_reader(), path, options);
  ASSERT_THAT(reading.documents, SizeIs(2));
  EXPECT_EQ(reading.documents[0].document.text, "What?");
  EXPECT_EQ(reading.documents[0].document.uri, path.string() + "#17");
  EXPECT_EQ(reading.documents[1].document.uri, path.string() + "#3");
  EXPECT_THAT(reading.skips, ElementsAre(HasSubstr("#2: not a JSON object"), HasSubstr("#4: ")));
}

TEST(JsonlReader, AnOverlongLineIsReportedAndTheRestIsRead) {
  TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.jsonl";
  write_bytes(path, "{\"id\":1,\"text\":\"" + std::string(5000000, 'x') +
                        "\"}\n{\"id\":2,\"text\":\"short\"}\n");
  ReaderOptions options;
  options.max_document_bytes = 1000;
  const Reading reading = read_with(jsonl_reader(), path, options);
  ASSERT_THAT(reading.documents, SizeIs(1));
  EXPECT_EQ(reading.documents[0].document.text, "short");
  EXPECT_THAT(reading.skips,
              ElementsAre(HasSubstr("#1: a line of 5000019 bytes: the limit is 1000")));
}

TEST(CsvReader, QuotesLineBreaksAndShortRows) {
  const Reading reading = read_with(csv_reader(), sample("buildings.csv"));
  ASSERT_THAT(reading.documents, SizeIs(2));
  const Document& pier = reading.documents[0].document;
  EXPECT_EQ(pier.title, "The \"old\" pier");
  EXPECT_EQ(pier.text, "It burned,\nthen was rebuilt.");
  EXPECT_EQ(pier.metadata.at("year"), "1901");
  EXPECT_EQ(pier.uri, sample("buildings.csv").string() + "#1");
  EXPECT_THAT(reading.skips, ElementsAre(HasSubstr("#3: a row of 2 fields: the header has 4")));
}

TEST(CsvReader, RowsWithoutATextColumnAreJoined) {
  const Reading reading = read_with(tsv_reader(), sample("buoys.tsv"));
  ASSERT_THAT(reading.documents, SizeIs(1));
  EXPECT_EQ(reading.documents[0].document.text, "name: Buoy 7\nplace: north of the bar");
  EXPECT_EQ(reading.documents[0].document.title, "Buoy 7");
}

TEST(CsvReader, AnUnclosedQuoteDoesNotHoldTheFile) {
  TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.csv";
  write_bytes(path, "id,text\n1,\"never closed\n" + std::string(100000, 'y'));
  ReaderOptions options;
  options.max_document_bytes = 5000;
  EXPECT_THAT(read_with(csv_reader(), path, options).skips,
              ElementsAre(HasSubstr("#1: a row of 100016 bytes: the limit is 5000")));
  options.max_document_bytes = 1000000;
  EXPECT_THAT(read_with(csv_reader(), path, options).skips,
              ElementsAre(HasSubstr("#1: a quote is never closed")));
}

// The smallest file with one page and one line that PDF programs take.
std::string tiny_pdf(const std::string& line) {
  const std::string stream = "BT /F1 24 Tf 72 700 Td (" + line + ") Tj ET";
  const std::vector<std::string> objects = {
      "<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Kids[3 0 R]/Count 1>>",
      "<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 "
      "R>>>>>>",
      "<</Length " + std::to_string(stream.size()) + ">>stream\n" + stream + "\nendstream",
      "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"};
  std::string pdf = "%PDF-1.4\n";
  std::string table = "xref\n0 6\n0000000000 65535 f \n";
  for (size_t i = 0; i < objects.size(); ++i) {
    char entry[32];
    std::snprintf(entry, sizeof(entry), "%010zu 00000 n \n", pdf.size());
    table += entry;
    pdf += std::to_string(i + 1) + " 0 obj" + objects[i] + "endobj\n";
  }
  const size_t start = pdf.size();
  return pdf + table + "trailer<</Size 6/Root 1 0 R>>\nstartxref\n" + std::to_string(start) +
         "\n%%EOF";
}

TEST(PdfReader, ReadsPagesAndReportsBrokenFiles) {
  if (std::system("command -v pdftotext >/dev/null 2>&1") != 0) {
    GTEST_SKIP() << "pdftotext (poppler-utils) is not installed";
  }
  TemporaryFolder folder;
  const std::filesystem::path path = folder / "-odd $(name).pdf";
  write_bytes(path, tiny_pdf("The pilot boards at dawn."));
  const Reading reading = read_with(pdf_reader(), path);
  ASSERT_THAT(reading.documents, SizeIs(1));
  EXPECT_THAT(reading.documents[0].document.text, HasSubstr("The pilot boards at dawn."));
  EXPECT_THAT(outline(reading.documents[0]), ElementsAre("1 Page 1"));
  write_bytes(path, "%PDF-1.4 and nothing else");
  EXPECT_THAT(read_with(pdf_reader(), path).skips, ElementsAre(HasSubstr("not a readable PDF")));
}

TEST(PdfReader, AMissingProgramIsNamed) {
  TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.pdf";
  write_bytes(path, tiny_pdf("x"));
  const std::string before = std::getenv("PATH");
  ::setenv("PATH", folder.path().c_str(), 1);
  const Reading reading = read_with(pdf_reader(), path);
  ::setenv("PATH", before.c_str(), 1);
  EXPECT_THAT(reading.skips, ElementsAre(HasSubstr("needs the program pdftotext")));
}

TEST(TextReader, OtherCharsetsAreReadWithAWarning) {
  TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.txt";
  write_bytes(path, "na\xefve text");
  const Reading latin = read_with(text_reader(), path);
  ASSERT_THAT(latin.documents, SizeIs(1));
  EXPECT_EQ(latin.documents[0].document.text, "na\u00EFve text");
  EXPECT_EQ(latin.documents[0].document.metadata.at("assumed_charset"), "windows-1252");
  EXPECT_THAT(latin.warnings,
              ElementsAre(HasSubstr("a.txt: is not UTF-8 and does not say what it is: read as "
                                    "windows-1252")));
  write_bytes(path, "na\xc3\xafve text, fine but for one place: \xef");
  const Reading broken = read_with(text_reader(), path);
  ASSERT_THAT(broken.documents, SizeIs(1));
  EXPECT_THAT(broken.warnings, ElementsAre(HasSubstr("1 places that are not UTF-8")));
}

TEST(HtmlReader, ADeclaredCharsetIsRead) {
  TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.html";
  write_bytes(path,
              "<html><head><meta charset=\"windows-1251\"></head><body><h1>\xcf\xf0\xe8"
              "\xe2\xe5\xf2</h1></body></html>");
  const Reading reading = read_with(html_reader(), path);
  ASSERT_THAT(reading.documents, SizeIs(1));
  EXPECT_EQ(reading.documents[0].document.text, "\u041F\u0440\u0438\u0432\u0435\u0442");
  EXPECT_THAT(outline(reading.documents[0]), SizeIs(1));
  EXPECT_THAT(reading.warnings, IsEmpty()) << "the page says it";
}

TEST(MarkdownReader, AByteOrderMarkHidesNoHeading) {
  TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.md";
  write_bytes(path, "\xef\xbb\xbf# Title\n\nText.\n");
  const Reading reading = read_with(markdown_reader(), path);
  ASSERT_THAT(reading.documents, SizeIs(1));
  EXPECT_THAT(outline(reading.documents[0]), ElementsAre("1 Title"));
}

TEST(CsvReader, RowsThatAreNotUtf8) {
  TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.csv";
  write_bytes(path,
              "id,text,stra\xdf"
              "e\n1,caf\xe9,Weg\n2,plain,Weg\n3,\xe9\xe8\xe0,-\n");
  const Reading reading = read_with(csv_reader(), path);
  ASSERT_THAT(reading.documents, SizeIs(3));
  EXPECT_EQ(reading.documents[2].document.text, "\u00E9\u00E8\u00E0") << "as the rows before it";
  EXPECT_EQ(reading.documents[0].document.text, "caf\u00E9");
  EXPECT_EQ(reading.documents[0].document.metadata.at("stra\u00DFe"), "Weg");
  EXPECT_EQ(reading.documents[0].document.metadata.at("assumed_charset"), "windows-1252");
  EXPECT_EQ(reading.documents[1].document.metadata.count("assumed_charset"), 0U) << "is ASCII";
  EXPECT_THAT(reading.warnings, ElementsAre(HasSubstr("a.csv: is not UTF-8")));
}

// With its byte order mark, and a lone surrogate for each U+FFFD.
std::string utf16(const std::u16string& text, bool big_endian) {
  std::string bytes;
  for (char16_t unit : u"\uFEFF" + text) {
    if (unit == 0xFFFD) unit = 0xD800;
    const char high = static_cast<char>(unit >> 8);
    const char low = static_cast<char>(unit & 0xFF);
    bytes += big_endian ? high : low;
    bytes += big_endian ? low : high;
  }
  return bytes;
}

TEST(RecordReaders, MarkedUtf16IsRead) {
  TemporaryFolder folder;
  const std::filesystem::path csv = folder / "a.csv";
  const std::filesystem::path jsonl = folder / "a.jsonl";
  for (const bool big_endian : {false, true}) {
    write_bytes(csv, utf16(u"\"id\",text\r\nb,\"na\u00EFve, \U0001F600\"\r\n", big_endian));
    const Reading rows = read_with(csv_reader(), csv);
    ASSERT_THAT(rows.documents, SizeIs(1));
    EXPECT_EQ(rows.documents[0].document.uri, csv.string() + "#b");
    EXPECT_EQ(rows.documents[0].document.text, "na\u00EFve, \U0001F600");
    EXPECT_THAT(rows.warnings, IsEmpty());
    write_bytes(jsonl, utf16(u"{\"id\": 1, \"text\": \"\u6771\u4EAC \uFFFD.\"}\n", big_endian));
    const Reading records = read_with(jsonl_reader(), jsonl);
    ASSERT_THAT(records.documents, SizeIs(1));
    EXPECT_EQ(records.documents[0].document.text, "\u6771\u4EAC \uFFFD.");
    EXPECT_THAT(records.warnings,
                ElementsAre(HasSubstr("a.jsonl: 1 places that are not UTF-16 were replaced")));
  }
}

TEST(RecordReaders, LongUtf16IsReadInPieces) {
  TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.jsonl";
  std::u16string text;
  for (int i = 0; i < 30000; ++i) text += u"{\"text\": \"some words \u6771\U0001F600\"}\n";
  write_bytes(path, utf16(text, false));
  const Reading reading = read_with(jsonl_reader(), path);
  EXPECT_THAT(reading.skips, IsEmpty());
  ASSERT_THAT(reading.documents, SizeIs(30000));
  EXPECT_EQ(reading.documents.back().document.text, "some words \u6771\U0001F600");
  write_bytes(path, utf16(u"{\"text\": \"x\"}\uFFFD", false));
  EXPECT_THAT(read_with(jsonl_reader(), path).skips, SizeIs(1)) << "half a character at the end";
}

TEST(RecordReaders, OtherWideCharactersAreSkipped) {
  TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.csv";
  for (const std::string& bytes : {std::string("\xff\xfe\0\0i\0\0\0d\0\0\0", 12),  // UTF-32
                                   std::string("i\0d\0\n\0\x31\0", 8)}) {          // no mark
    write_bytes(path, bytes);
    for (const Reader* reader : {&csv_reader(), &jsonl_reader()}) {
      EXPECT_THAT(read_with(*reader, path).skips,
                  ElementsAre(HasSubstr("a.csv: binary, or text in an unknown charset")));
    }
  }
}

TEST(RecordReaders, AUtf8MarkIsNoPartOfAName) {
  TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.csv";
  write_bytes(path, "\xef\xbb\xbf\"id\",text\nb,words\n");
  const Reading reading = read_with(csv_reader(), path);
  ASSERT_THAT(reading.documents, SizeIs(1));
  EXPECT_EQ(reading.documents[0].document.uri, path.string() + "#b");
}

TEST(TextReader, BinaryEmptyLargeAndMissingFilesAreReported) {
  TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.txt";
  const auto skips = [&] {
    ReaderOptions options;
    options.max_document_bytes = 100;
    return read_with(text_reader(), path, options).skips;
  };
  EXPECT_THAT(skips(), ElementsAre(HasSubstr("a.txt: No such file")));
  write_bytes(path, "");
  EXPECT_THAT(skips(), ElementsAre(HasSubstr("a.txt: empty")));
  write_bytes(path, std::string("abc\0def", 7));
  EXPECT_THAT(skips(), ElementsAre(HasSubstr("a.txt: binary, or text in an unknown charset")));
  write_bytes(path, "\x80\x81\x82 abc");
  EXPECT_THAT(skips(), ElementsAre(HasSubstr("a.txt: binary, or text in an unknown charset")));
  write_bytes(path, std::string(101, 'a'));
  EXPECT_THAT(skips(), ElementsAre(HasSubstr("one document of 101 bytes: the limit is 100")));
  std::filesystem::remove(path);
  ::mkfifo(path.c_str(), 0600);
  EXPECT_THAT(skips(), ElementsAre(HasSubstr("not a regular file")));
}

TEST(FindReader, ByExtensionElseByContent) {
  EXPECT_STREQ(find_reader("/a/b.MD", "x")->name(), "markdown");
  EXPECT_STREQ(find_reader("/a/README", "plain text")->name(), "text");
  EXPECT_STREQ(find_reader("/a/page", "  <!DOCTYPE HTML><p>")->name(), "html");
  EXPECT_STREQ(find_reader("/a/paper", "%PDF-1.7\n\0")->name(), "pdf");
  EXPECT_STREQ(find_reader("/a/cut", "caf\xc3")->name(), "text") << "cut inside a character";
  EXPECT_EQ(find_reader("/a/photo.jpg", std::string("\xff\xd8\xff\0", 4)), nullptr);
  EXPECT_EQ(find_reader("/a/data", "\x80\x80\x80\x80"), nullptr);
}

TEST(AllReaders, EachExtensionBelongsToOneReader) {
  std::vector<std::string> extensions;
  for (const Reader* reader : all_readers()) {
    for (const std::string& extension : reader->extensions()) {
      EXPECT_STREQ(find_reader("/x" + extension, "")->name(), reader->name());
      extensions.push_back(extension);
    }
  }
  EXPECT_GE(extensions.size(), 14U);
}

// Whatever the bytes are: no crash, valid UTF-8, headings in order.
TEST(AllReaders, RandomBytesNeverBreakThem) {
  TemporaryFolder folder;
  const std::vector<std::string> parts = {
      "<div>", "</p>", "<h1>", "#",    "# a\n", "===\n", "---\n", "\"",   ",",   "\t",
      "\n",    "{",    "}",    "[",    "\\u00", "text",  ":",     "\r\n", "&#x", ";",
      "<!--",  "\xc3", "\xa9", "\xff", "```\n", " ",     "a.",    "\f"};
  std::mt19937 random(5);
  for (const Reader* reader : all_readers()) {
    if (std::string(reader->name()) == "pdf") continue;  // another program's input
    const std::filesystem::path path = folder / "x";
    for (int trial = 0; trial < 60; ++trial) {
      std::string bytes;
      const size_t count = random() % 200;
      for (size_t i = 0; i < count; ++i) bytes += parts[random() % parts.size()];
      write_bytes(path, bytes);
      for (const ParsedDocument& parsed : read_with(*reader, path).documents) {
        ASSERT_TRUE(is_valid_utf8(parsed.document.text));
        ASSERT_TRUE(is_valid_utf8(parsed.document.title));
        outline(parsed);
      }
    }
  }
}

}  // namespace
}  // namespace quarry
