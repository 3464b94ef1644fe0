/// \file
/// Marks what a shared library shows; everything else is hidden.
#pragma once

#if defined(ANYDEPTH_STATIC)
#define ANYDEPTH_EXPORT
#elif defined(_WIN32) && defined(ANYDEPTH_BUILDING)
#define ANYDEPTH_EXPORT __declspec(dllexport)
#elif defined(_WIN32)
#define ANYDEPTH_EXPORT __declspec(dllimport)
#else
#define ANYDEPTH_EXPORT __attribute__((visibility("default")))
#endif
