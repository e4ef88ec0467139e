// timing.hpp: modelled device time from a data file: engine::CostModel by name ("trn2", "cs3") or by path.
//
// A file names its form (which class computes with it) and gives every constant that the form needs as {value, unit, source};
// a missing or unknown constant, another unit or an absent source is an error. Models are pure: the same work costs the same.
//
// Owner    the caller owns the model.   Threads  const use from any.   Cost  a file read at load; op_ns is a few multiplications.
// Errors   NOT_FOUND naming where it was looked for; CORRUPT naming file and constant.
//
//     BATON_ASSIGN(auto cost, timing::load_cost_model("trn2"));
//     BATON_ASSIGN(auto exe, engine::Executable::load(bytes, constants, {.cost = cost.get()}));
#pragma once

#include "emulators/engine/engine.hpp"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace baton::timing {

// A name without '/' is looked for as timing/NAME.json beside the library or program that this is linked into (lib/baton/timing).
// lane_cores: how many physical cores one lane is, where the form has lanes of several (LNC 2); 0: as the file says.
Result<std::unique_ptr<engine::CostModel>> load_cost_model(std::string_view name_or_path, uint32_t lane_cores = 0);

struct Constant {
  std::string name;
  double value = 0;
  std::string unit, source; // source "guess: ..." where nothing is known
};

struct ModelFile {
  std::string name, version, form;
  std::vector<Constant> constants; // as in the file
};

// machines/NAME.json, or timing/NAME.json: a file of machines holds its model as the member "timing".
Result<std::string> find_model_file(std::string_view name);
// A folder of data files ("timing", "machines") beside the library or program that this is linked into; "" if there is none.
std::string data_folder(std::string_view kind);
// By name or path, as load_cost_model.
Result<ModelFile> load_model_file(std::string_view name_or_path);
// `where` is named in errors.
Result<ModelFile> parse_model_file(std::string_view json, std::string_view where);
Result<std::unique_ptr<engine::CostModel>> make_cost_model(const ModelFile&, std::string_view where, uint32_t lane_cores = 0);

}  // namespace baton::timing
