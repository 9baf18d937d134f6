# Finds sentencepiece and makes the target quarry_sentencepiece.
#
# The static build that scripts/setup.sh left in the cache folder, its symbols kept out of the
# program's dynamic table. The packaged shared library carries its own protobuf under protobuf's own
# names: loaded beside Debian's LibTorch (which loads the real one) it crashes before main().
find_library(SENTENCEPIECE_STATIC libsentencepiece.a
  PATHS ${QUARRY_CACHE_DIR}/sentencepiece-0.1.97/lib REQUIRED
  DOC "static sentencepiece (scripts/setup.sh builds it)")
get_filename_component(_quarry_sentencepiece_lib "${SENTENCEPIECE_STATIC}" DIRECTORY)
find_path(SENTENCEPIECE_INCLUDE_DIR sentencepiece_processor.h
  HINTS "${_quarry_sentencepiece_lib}/../include" REQUIRED)
add_library(quarry_sentencepiece INTERFACE)
target_include_directories(quarry_sentencepiece SYSTEM INTERFACE "${SENTENCEPIECE_INCLUDE_DIR}")
target_link_libraries(quarry_sentencepiece INTERFACE "${SENTENCEPIECE_STATIC}"
  -Wl,--exclude-libs,libsentencepiece.a Threads::Threads)
