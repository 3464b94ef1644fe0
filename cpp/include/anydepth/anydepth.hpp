/// \file
/// Any-depth object detectors: one trained network, its depth chosen at run time.
///
///     auto bundle = anydepth::Bundle::open("engines/r50");
///     auto session = bundle.session();
///     auto found = session.run(images, "FTFT-T-5");  // or "base", "level:2", a row
#pragma once

#include "anydepth/budget.hpp"
#include "anydepth/bundle.hpp"
#include "anydepth/depth.hpp"
#include "anydepth/detections.hpp"
#include "anydepth/errors.hpp"
#include "anydepth/image.hpp"
#include "anydepth/log.hpp"
#include "anydepth/manifest.hpp"
#include "anydepth/pilot.hpp"
#include "anydepth/session.hpp"
#include "anydepth/tensor.hpp"
#include "anydepth/version.hpp"
