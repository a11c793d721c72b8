// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/counter.h"
#include "parts/parts.h"

namespace pcache {

using BackgroundParts = Parts;

}  // namespace pcache
