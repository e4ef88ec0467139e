// subject_file.h: a subject from what stands on the command line: a JSON file or an address; or a driver's file. For the runner alone.
//
// Owner    value.   Threads  one.   Cost  a file; find_device: an enumeration by every driver.
// Errors   NOT_FOUND, CORRUPT, INVALID_ARGUMENT with the file, the key and what is allowed.
//
//     {"schema": "baton.cts.subject/1", "name": "neuron", "uri": "emu+neuron://0",
//      "unsupported": [{"tests": "memory.Import*", "reason": "..."}], "expected_failures": []}
#pragma once

#include "hal/baton.hpp"
#include "tests/cts/subject.h"

namespace baton::cts {

Result<Subject> subject_of(const std::string& file_or_uri);

struct DriverFile {  // PATH/libbaton-driver-SCHEME.so
  std::string folder, scheme;
};
Result<DriverFile> driver_file(const std::string& path);
// The first device that the driver finds.
Result<Subject> find_device(const DriverFile&);

}  // namespace baton::cts
