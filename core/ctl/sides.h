// SPDX-License-Identifier: GPL-2.0-or-later
// What pcachectl status shows of the other side of a cache: of a front's backend, or of a backend
// whose front is away.
#pragma once

#include "ctl/common.h"

namespace pcache::ctl {

bool is_backend(const Json& info);
// What the backend of that cache answers; nothing: none does.
std::optional<Json> backend_status(const std::string& cache);
// Below the status of a front. `backend`: nullptr: it does not answer.
void print_backend(const Json& front, const Json* backend);
// Where no front answers.
void print_backend_alone(const Json& info, const Json& status);

}  // namespace pcache::ctl
