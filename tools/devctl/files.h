// files.h: the small files of sysfs and proc: one line, one number, the names in a folder. What is missing reads as nothing.
//
// Owner    plain functions.   Threads  any.   Cost  some us each.   Errors  none.
//
//     for (auto& n : names_in("/sys/class/infiniband")) printf("%s\n", first_line("/sys/class/infiniband/" + n + "/fw_ver").c_str());
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace baton::devctl {

std::string first_line(const std::string& path);                 // without what spaces end it
std::optional<uint64_t> number_in(const std::string& path);
std::vector<std::string> names_in(const std::string& folder);    // sorted, numbers by their value
std::string link_name(const std::string& path);                  // the last part of what a symbolic link names
std::string whole_file(const std::string& path, size_t most = 1 << 20);

}  // namespace baton::devctl
