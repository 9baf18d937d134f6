#pragma once

#include "indexer/readers/reader.h"

namespace quarry {

// One object of each kind, for the registry and for tests.
const Reader& text_reader();      // any text; of UTF-8 spans are the file's bytes behind its mark
const Reader& markdown_reader();  // CommonMark headings; spans as above
const Reader& restructured_text_reader();  // section titles; spans as above
const Reader& html_reader();               // text of the page without navigation, scripts, styles
const Reader& jsonl_reader();              // one document a line
const Reader& csv_reader();                // RFC 4180, header row, one document a row
const Reader& tsv_reader();                // the same with tabs
const Reader& pdf_reader();                // through `pdftotext`; one heading a page

}  // namespace quarry
