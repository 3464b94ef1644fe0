# Finds nlohmann's JSON (3.10 or later), headers only; defines the target anydepth_json.

add_library(anydepth_json INTERFACE)
find_package(nlohmann_json 3.10 CONFIG QUIET)
if(NOT ANYDEPTH_JSON_INCLUDE_DIR AND nlohmann_json_FOUND)
  target_link_libraries(anydepth_json INTERFACE nlohmann_json::nlohmann_json)
else()
  find_path(ANYDEPTH_JSON_INCLUDE_DIR nlohmann/json.hpp DOC "Folder of nlohmann/json.hpp")
  if(NOT ANYDEPTH_JSON_INCLUDE_DIR)
    message(FATAL_ERROR
      "nlohmann's JSON was not found (nlohmann/json.hpp). Install it (nlohmann-json3-dev), or give "
      "-DANYDEPTH_JSON_INCLUDE_DIR=<folder that has nlohmann/json.hpp>.")
  endif()
  target_include_directories(anydepth_json SYSTEM INTERFACE ${ANYDEPTH_JSON_INCLUDE_DIR})
endif()
