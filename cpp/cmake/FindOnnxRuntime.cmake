# Finds ONNX Runtime's C++ API; defines the target OnnxRuntime::onnxruntime.
#
# Where to look, first to last:
#   ANYDEPTH_ONNXRUNTIME_LIBRARY, ANYDEPTH_ONNXRUNTIME_INCLUDE_DIR
#                     the library and the folder of onnxruntime_cxx_api.h, such as the library of an
#                     installed Python package (cpp/dependencies.py prints both)
#   ONNXRUNTIME_ROOT  an unpacked release of ONNX Runtime: include/ and lib/ (also from the environment)
#   the system
#
# Written without the configuration files of ONNX Runtime's own packages: not all have them, and those
# of some versions name folders that are not there.

set(_hints)
foreach(_root IN ITEMS "${ONNXRUNTIME_ROOT}" "$ENV{ONNXRUNTIME_ROOT}")
  if(_root)
    list(APPEND _hints "${_root}")
  endif()
endforeach()

find_path(ANYDEPTH_ONNXRUNTIME_INCLUDE_DIR onnxruntime_cxx_api.h
  HINTS ${_hints}
  PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session onnxruntime
                onnxruntime/core/session
  DOC "Folder of ONNX Runtime's onnxruntime_cxx_api.h")
find_library(ANYDEPTH_ONNXRUNTIME_LIBRARY onnxruntime
  HINTS ${_hints}
  PATH_SUFFIXES lib lib64
  DOC "ONNX Runtime's shared library")

set(OnnxRuntime_API)
if(ANYDEPTH_ONNXRUNTIME_INCLUDE_DIR AND
   EXISTS "${ANYDEPTH_ONNXRUNTIME_INCLUDE_DIR}/onnxruntime_c_api.h")
  file(STRINGS "${ANYDEPTH_ONNXRUNTIME_INCLUDE_DIR}/onnxruntime_c_api.h" _line
    REGEX "^#define ORT_API_VERSION [0-9]+")
  string(REGEX MATCH "[0-9]+" OnnxRuntime_API "${_line}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OnnxRuntime
  REQUIRED_VARS ANYDEPTH_ONNXRUNTIME_LIBRARY ANYDEPTH_ONNXRUNTIME_INCLUDE_DIR)

if(OnnxRuntime_FOUND AND NOT TARGET OnnxRuntime::onnxruntime)
  add_library(OnnxRuntime::onnxruntime UNKNOWN IMPORTED)
  set_target_properties(OnnxRuntime::onnxruntime PROPERTIES
    IMPORTED_LOCATION "${ANYDEPTH_ONNXRUNTIME_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${ANYDEPTH_ONNXRUNTIME_INCLUDE_DIR}")
endif()

mark_as_advanced(ANYDEPTH_ONNXRUNTIME_INCLUDE_DIR ANYDEPTH_ONNXRUNTIME_LIBRARY)
unset(_hints)
unset(_line)
