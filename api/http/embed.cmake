# cmake -DSOURCE_DIR=<folder> -DOUTPUT=<file.cpp> -P embed.cmake
# Writes the files of the page as C++ byte arrays.
set(code "#include \"api/http/page_files.h\"\n\nnamespace quarry::http {\n")
foreach(suffix html css js)
  file(READ "${SOURCE_DIR}/page.${suffix}" hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "'\\\\x\\1'," bytes "${hex}")
  string(APPEND code "static const char k_${suffix}[] = {${bytes}'\\0'};\n"
                     "std::string_view page_${suffix}() { return {k_${suffix}, sizeof(k_${suffix}) - 1}; }\n")
endforeach()
string(APPEND code "}  // namespace quarry::http\n")
file(WRITE "${OUTPUT}" "${code}")
