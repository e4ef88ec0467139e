// model_fixture.hpp: small helpers of the model_*.cc tests: a folder that is removed again, files in it, the demo model.
#pragma once

#include "tools/model/json_file.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace baton::model {

inline std::string demo_dir() { return std::string(BATON_SOURCE_DIR) + "/models/baton-tiny"; }

class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "baton-model-XXXXXX").string();
    path_ = ::mkdtemp(name.data()) ? name : "";
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string file(const std::string& name, const std::string& bytes) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << bytes;
    return path_ + "/" + name;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline nlohmann::json demo_json(const std::string& name) {
  auto doc = read_json(demo_dir() + "/" + name);
  EXPECT_TRUE(doc.ok());
  return doc.ok() ? *doc : nlohmann::json();
}

}  // namespace baton::model
