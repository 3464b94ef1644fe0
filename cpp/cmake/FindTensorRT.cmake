# Finds TensorRT's runtime; defines the target TensorRT::nvinfer.
#
# Where to look: TENSORRT_ROOT, an unpacked release of TensorRT with include/ and lib/ (also from the
# environment), then the system (JetPack, Debian packages).

set(_hints)
foreach(_root IN ITEMS "${TENSORRT_ROOT}" "$ENV{TENSORRT_ROOT}")
  if(_root)
    list(APPEND _hints "${_root}")
  endif()
endforeach()

find_path(TENSORRT_INCLUDE_DIR NvInferRuntime.h
  HINTS ${_hints}
  PATH_SUFFIXES include include/${CMAKE_LIBRARY_ARCHITECTURE}
  DOC "Folder of TensorRT's NvInferRuntime.h")
find_library(TENSORRT_LIBRARY nvinfer
  HINTS ${_hints}
  PATH_SUFFIXES lib lib64 lib/${CMAKE_LIBRARY_ARCHITECTURE}
  DOC "TensorRT's shared library")

set(TensorRT_VERSION)
if(TENSORRT_INCLUDE_DIR AND EXISTS "${TENSORRT_INCLUDE_DIR}/NvInferVersion.h")
  foreach(_part IN ITEMS MAJOR MINOR PATCH)
    # Plain numbers, or (since version 10) names of the numbers.
    file(STRINGS "${TENSORRT_INCLUDE_DIR}/NvInferVersion.h" _line
      REGEX "^#define (NV_TENSORRT|TRT)_${_part}(_ENTERPRISE)? +[0-9]+")
    if(_line MATCHES "[A-Z] +([0-9]+)")
      list(APPEND TensorRT_VERSION "${CMAKE_MATCH_1}")
    endif()
  endforeach()
  string(REPLACE ";" "." TensorRT_VERSION "${TensorRT_VERSION}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRT
  REQUIRED_VARS TENSORRT_LIBRARY TENSORRT_INCLUDE_DIR
  VERSION_VAR TensorRT_VERSION)

if(TensorRT_FOUND AND NOT TARGET TensorRT::nvinfer)
  add_library(TensorRT::nvinfer UNKNOWN IMPORTED)
  set_target_properties(TensorRT::nvinfer PROPERTIES
    IMPORTED_LOCATION "${TENSORRT_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${TENSORRT_INCLUDE_DIR}")
endif()

mark_as_advanced(TENSORRT_INCLUDE_DIR TENSORRT_LIBRARY)
unset(_hints)
unset(_line)
