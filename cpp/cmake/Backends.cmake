# Which runtimes the library is built with: one option each, AUTO, ON or OFF.
#
#   AUTO  built where it is found; the summary says what was skipped, and why
#   ON    refuses to configure where it is not found
#   OFF   not looked for

set(ANYDEPTH_BACKENDS)          # targets to link with
set(ANYDEPTH_BACKEND_SUMMARY)   # a line for each

# anydepth_backend(<name> <option> TARGETS <targets> ADVICE <text> FIND <code>...)
# Looks for a backend with <code>; found are those whose TARGETS exist then. Sets
# ANYDEPTH_WITH_<NAME>.
function(anydepth_backend name option)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "ADVICE" "TARGETS;PACKAGES")
  set(${option} AUTO CACHE STRING "Build the backend ${name}: AUTO (where it is found), ON or OFF")
  set_property(CACHE ${option} PROPERTY STRINGS AUTO ON OFF)
  string(TOUPPER "${${option}}" wanted)
  set(with 0)
  if(wanted STREQUAL "AUTO" OR wanted)
    foreach(package IN LISTS arg_PACKAGES)
      find_package(${package} QUIET)
    endforeach()
    set(missing)
    foreach(target IN LISTS arg_TARGETS)
      if(NOT TARGET ${target})
        list(APPEND missing ${target})
      endif()
    endforeach()
    if(NOT missing)
      set(with 1)
      set(state "built")
    elseif(wanted STREQUAL "AUTO")
      list(JOIN arg_PACKAGES ", " packages)
      set(state "left out: not found (${packages}). ${arg_ADVICE}")
    else()
      list(JOIN missing ", " missing)
      message(FATAL_ERROR
        "${option}=${${option}}, but ${name} was not found (no ${missing}). ${arg_ADVICE}, or "
        "leave it out with -D${option}=OFF.")
    endif()
  else()
    set(state "left out: ${option} is OFF")
  endif()
  if(with)
    set(ANYDEPTH_BACKENDS ${ANYDEPTH_BACKENDS} ${arg_TARGETS} PARENT_SCOPE)
  endif()
  set(ANYDEPTH_BACKEND_SUMMARY ${ANYDEPTH_BACKEND_SUMMARY} "${name}: ${state}" PARENT_SCOPE)
  string(TOUPPER ${name} upper)
  set(ANYDEPTH_WITH_${upper} ${with} PARENT_SCOPE)
endfunction()

# anydepth_loaded_file(<target> <variable>)
# The name under which a program that is linked with an imported library looks for it.
function(anydepth_loaded_file target variable)
  foreach(suffix IN ITEMS "" _RELEASE _RELWITHDEBINFO _DEBUG _NOCONFIG)
    get_target_property(name ${target} IMPORTED_SONAME${suffix})
    get_target_property(location ${target} IMPORTED_LOCATION${suffix})
    if(location OR name)
      break()
    endif()
  endforeach()
  if(NOT name AND location)
    get_filename_component(location "${location}" REALPATH)
    get_filename_component(name "${location}" NAME)
    if(CMAKE_READELF)
      execute_process(COMMAND ${CMAKE_READELF} -d ${location}
        OUTPUT_VARIABLE sections ERROR_QUIET)
      if(sections MATCHES "SONAME[^[]*\\[([^]]+)\\]")
        set(name "${CMAKE_MATCH_1}")
      endif()
    endif()
  endif()
  get_filename_component(name "${name}" NAME)
  set(${variable} "${name}" PARENT_SCOPE)
endfunction()

anydepth_backend(onnxruntime ANYDEPTH_ONNXRUNTIME
  PACKAGES OnnxRuntime
  TARGETS OnnxRuntime::onnxruntime
  ADVICE "Unpack a release of ONNX Runtime and give -DONNXRUNTIME_ROOT=<folder>, or give \
-DANYDEPTH_ONNXRUNTIME_INCLUDE_DIR=<folder of onnxruntime_cxx_api.h> and \
-DANYDEPTH_ONNXRUNTIME_LIBRARY=<libonnxruntime.so>")
anydepth_backend(openvino ANYDEPTH_OPENVINO
  PACKAGES OpenVINO
  TARGETS openvino::runtime
  ADVICE "Give -DOpenVINO_DIR=<folder of OpenVINOConfig.cmake>; the Python package has one: \
python -c 'import openvino.utils as u; print(u.get_cmake_path())'")
anydepth_backend(tensorrt ANYDEPTH_TENSORRT
  PACKAGES TensorRT CUDAToolkit
  TARGETS TensorRT::nvinfer CUDA::cudart
  ADVICE "Unpack a release of TensorRT and give -DTENSORRT_ROOT=<folder>, and \
-DCUDAToolkit_ROOT=<folder> for the CUDA toolkit")
