# How every target of ours is built. quarry_library(name SOURCES ... DEPS ... PRIVATE_DEPS ...)
#
# The suffix of a kernel file alone decides its instruction set:
#   *_avx2.cpp    AVX2, FMA, F16C        *_avx512.cpp   AVX-512 F BW DQ VL VNNI BF16
#   *_cuda.cu     CUDA, left out unless QUARRY_CUDA=ON
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

find_program(QUARRY_CCACHE ccache)
if(QUARRY_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${QUARRY_CCACHE}")
endif()

add_library(quarry_options INTERFACE)
target_include_directories(quarry_options INTERFACE "${PROJECT_SOURCE_DIR}")
target_compile_options(quarry_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Werror>)
if(QUARRY_SANITIZE STREQUAL "address")
  # g++ 12 finds what may be uninitialized in its own <regex> then.
  target_compile_options(quarry_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized>)
  target_compile_options(quarry_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined -O1>)
  target_link_options(quarry_options INTERFACE -fsanitize=address,undefined)
elseif(QUARRY_SANITIZE STREQUAL "thread")
  target_compile_options(quarry_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=thread>)
  target_link_options(quarry_options INTERFACE -fsanitize=thread)
elseif(NOT QUARRY_SANITIZE STREQUAL "")
  message(FATAL_ERROR "QUARRY_SANITIZE is '${QUARRY_SANITIZE}': use address, thread or nothing")
endif()
if(QUARRY_CUDA)
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
endif()

function(quarry_isa_flags)
  foreach(source IN LISTS ARGN)
    if(source MATCHES "_avx2\\.cpp$")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c")
    elseif(source MATCHES "_avx512\\.cpp$")
      # GCC 12's own AVX-512 header trips -Wmaybe-uninitialized.
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
        "-mavx2;-mfma;-mf16c;-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx512vnni;-mavx512bf16;-Wno-maybe-uninitialized;-Wno-uninitialized")
    endif()
  endforeach()
endfunction()

function(quarry_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  if(NOT QUARRY_CUDA)
    list(FILTER ARG_SOURCES EXCLUDE REGEX "_cuda\\.cu$")
  endif()
  quarry_isa_flags(${ARG_SOURCES})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC quarry_options ${ARG_DEPS} PRIVATE ${ARG_PRIVATE_DEPS})
endfunction()

# quarry_test(name SOURCES ... DEPS ... LABELS ... [TIMEOUT s]): a GoogleTest program, one ctest per
# TEST. Default label: unit.
function(quarry_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(QUARRY_SANITIZE)
    math(EXPR ARG_TIMEOUT "8 * ${ARG_TIMEOUT}")
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE quarry_options ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE QUARRY_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  add_test(NAME ${name} COMMAND ${name})
  # Tests run side by side: threads that spin while they wait would take the cores from the others.
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT} SKIP_REGULAR_EXPRESSION "every test in this program was skipped"
    ENVIRONMENT "OMP_WAIT_POLICY=passive")
endfunction()
