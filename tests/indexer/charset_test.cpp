#include "indexer/readers/charset.h"

#include <gmock/gmock.h>

#include <random>

#include "data/text/utf8.h"
#include "indexer/readers/source_text.h"

namespace quarry {
namespace {

// Text and assumed charset; "binary" when there is none.
std::string cleaned(const std::string& bytes, const std::string& declared = "") {
  const std::optional<CleanText> clean = clean_text(bytes, declared);
  if (!clean) return "binary";
  const std::string replaced = clean->replaced > 0 ? " " + std::to_string(clean->replaced) : "";
  return clean->text + replaced + (clean->assumed.empty() ? "" : " as " + clean->assumed);
}

TEST(CleanText, MarksDecide) {
  EXPECT_EQ(cleaned("\xef\xbb\xbf# na\xc3\xafve"), "# naïve");
  EXPECT_EQ(cleaned(std::string("\xff\xfeh\0i\0\x3d\xd8\x00\xde", 10)), "hi\U0001F600");
  EXPECT_EQ(cleaned(std::string("\xfe\xff\0h\0i\xd8\x00", 8)), "hi\uFFFD 1");
  EXPECT_EQ(cleaned(std::string("\xff\xfeh\0i", 5)), "h\uFFFD 1") << "cut inside a character";
  EXPECT_EQ(cleaned(std::string("\xff\xfe\0\0h\0\0\0", 8)), "binary") << "UTF-32";
  EXPECT_EQ(cleaned("\xff\xfe"), "");
}

TEST(CleanText, WhatIsNotUtf8IsTakenForWindows1252WhereItLooksLikeIt) {
  EXPECT_EQ(cleaned("d\xe9j\xe0 vu"), "déjà vu as windows-1252");
  EXPECT_EQ(cleaned("\x93"
                    "50 \x80\x94 na\xefve"),
            "“50 €” naïve as windows-1252");
  EXPECT_EQ(cleaned("log \x1b[31mn\xe4he"), "log \x1b[31mnähe as windows-1252");
  EXPECT_EQ(cleaned(std::string("d\xe9j\xe0\0", 5)), "binary");
  EXPECT_EQ(cleaned("d\xe9j\xe0 \x01 vu"), "binary") << "a control character";
  EXPECT_EQ(cleaned("d\xe9j\xe0 \x81 vu"), "binary") << "a byte that it leaves undefined";
  EXPECT_EQ(cleaned("\xcf\xf0\xe8\xe2\xe5\xf2 \xec\xe8\xf0"), "binary") << "Cyrillic";
}

TEST(CleanText, Utf8WithAFewBrokenPlacesStaysThat) {
  EXPECT_EQ(cleaned("Gr\xc3\xbc\xc3\x9f"
                    "e an alle, die da sind\xe2\x82"),
            "Grüße an alle, die da sind\uFFFD 1");
  EXPECT_EQ(cleaned("\xef\xbb\xbfonly one broken place \xe9 in here"),
            "only one broken place \uFFFD in here 1")
      << "it says that it is UTF-8";
  EXPECT_EQ(cleaned("one \x01 control and one broken \xe9 place"),
            "one \x01 control and one broken \uFFFD place 1");
}

TEST(CleanText, ADeclaredCharsetIsBelievedUnlessItIsUtf8) {
  EXPECT_EQ(cleaned("\xcf\xf0\xe8\xe2\xe5\xf2", "windows-1251"), "Привет");
  EXPECT_EQ(cleaned("na\xc3\xafve", "windows-1251"), "naïve");
  EXPECT_EQ(cleaned("\x1b$B$3$s\x1b(B", "iso-2022-jp"), "こん");
  EXPECT_EQ(cleaned("d\xe9j\xe0 vu", "no-such-charset"), "déjà vu as windows-1252");
  EXPECT_EQ(cleaned("long enough for \x81 one place", "windows-1252"),
            "long enough for \uFFFD one place 1");
}

TEST(DeclaredHtmlCharset, IsReadFromMetaAndXml) {
  EXPECT_EQ(declared_html_charset("<html><META Charset = 'KOI8-R'>"), "koi8-r");
  EXPECT_EQ(declared_html_charset("<meta http-equiv=\"Content-Type\" "
                                  "content=\"text/html; charset=iso-8859-1\"/>"),
            "windows-1252");
  EXPECT_EQ(declared_html_charset("<?xml version=\"1.0\" encoding=\"ISO-8859-15\"?><html>"),
            "iso-8859-15");
  EXPECT_EQ(declared_html_charset("<meta charset=utf-8>"), "");
  EXPECT_EQ(declared_html_charset("<meta charset=utf-7>"), "");
  EXPECT_EQ(declared_html_charset("<!-- <meta charset=koi8-r> --><meta charset=big5>"), "big5");
  for (const char* page :
       {"", "<", "<meta", "<meta charset", "<meta charset=", "<!-- <meta charset=a",
        "<?xml encoding", "<meta charset='/../x'>", "charset=koi8-r"}) {
    EXPECT_EQ(declared_html_charset(page), "") << page;
  }
  EXPECT_EQ(declared_html_charset(std::string(2000, ' ') + "<meta charset=koi8-r>"), "");
}

TEST(Utf16, PiecesOfAnySizeGiveTheSameValidText) {
  std::mt19937 random(5);
  for (int trial = 0; trial < 200; ++trial) {
    std::string bytes(random() % 300, '\0');
    for (char& c : bytes) c = static_cast<char>(random() % 4 == 0 ? 0xD8 + random() % 8 : random());
    std::string whole;
    Utf16Decoder at_once(trial % 2 == 0);
    at_once.decode(bytes, whole);
    at_once.finish(whole);
    ASSERT_TRUE(is_valid_utf8(whole));
    std::string text;
    Utf16Decoder piecewise(trial % 2 == 0);
    for (size_t at = 0; at < bytes.size();) {
      const size_t size = 1 + random() % 5;
      piecewise.decode(std::string_view(bytes).substr(at, size), text);
      at += size;
    }
    piecewise.finish(text);
    ASSERT_EQ(text, whole);
    ASSERT_EQ(piecewise.replaced(), at_once.replaced());
  }
}

TEST(CleanText, SignsAreNoLettersOfAnotherCharset) {
  EXPECT_EQ(clean_text("7,12 \x80").value().text, "7,12 \xe2\x82\xac");
  EXPECT_FALSE(clean_text("\xcf\xf0\xe8\xe2\xe5\xf2"));  // Windows-1251
}

TEST(DeclaredHtmlCharset, WideUnitsCannotBeDeclaredAndSomeNamesMeanMore) {
  for (const char* label : {"unicode", "ucs-2", "UTF-8", "utf-16le", "10646-1:1993", "wchar_t"}) {
    EXPECT_EQ(declared_html_charset(std::string("<meta charset=") + label + ">"), "") << label;
  }
  EXPECT_EQ(declared_html_charset("<meta charset=gb2312>"), "gb18030");
  EXPECT_EQ(declared_html_charset("<meta charset=Shift_JIS>"), "cp932");
}

TEST(DecodeCharset, TheLastCharacterIsThere) {
  EXPECT_EQ(decode_charset("xin chao", "windows-1258").value().text, "xin chao");
}

TEST(DecodeCharset, AnyBytesGiveValidText) {
  std::mt19937 random(3);
  for (const char* charset :
       {"windows-1252", "shift_jis", "gb18030", "euc-jp", "iso-2022-jp", "big5", "koi8-r"}) {
    for (int trial = 0; trial < 200; ++trial) {
      std::string bytes(random() % 300, '\0');
      for (char& c : bytes) c = static_cast<char>(random());
      const std::optional<DecodedText> decoded = decode_charset(bytes, charset);
      if (!decoded) break;  // this machine has it not
      ASSERT_TRUE(is_valid_utf8(decoded->text)) << charset;
    }
  }
  const std::optional<DecodedText> long_text =
      decode_charset(std::string(100000, '\xe9'), kWindows1252);
  ASSERT_TRUE(long_text.has_value()) << "more than one buffer";
  EXPECT_EQ(long_text->text.size(), 200000U);
}

}  // namespace
}  // namespace quarry
