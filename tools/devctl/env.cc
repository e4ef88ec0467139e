// env: each variable that some part of Baton reads, what it is now, and what it does. tests/unit/devctl_parts.cc holds the table against
// hal/HOST_SURFACE.md.
#include "tools/devctl/care.h"
#include "tools/devctl/environment.h"

#include <fmt/format.h>

namespace baton::devctl {
namespace {

constexpr Variable kVariables[] = {
    {"BATON_DRIVER_PATH", "libbaton", "folders of drivers and layers, with colons, before lib/baton"},
    {"BATON_EMULATOR_PATH", "libbaton", "folders of emulators, with colons, before lib/baton"},
    {"BATON_LAYERS", "libbaton", "layers over the drivers: validate, trace=FILE, record=FILE, fault=PLAN, delay=TIME"},
    {"BATON_RUN_DIR", "libbaton", "where statistics pages are, for devctl who, stats and top; empty: none"},
    {"XDG_RUNTIME_DIR", "libbaton", "the same where BATON_RUN_DIR is not set; also of named emulated Neuron machines"},
    {"BATON_SYSFS_ROOT", "neuron, devctl", "a tree to read in place of /sys"},
    {"NEURON_RT_VISIBLE_CORES", "neuron", "the cores that a process takes, as in 0-3"},
    {"NEURON_RT_NUM_CORES", "neuron", "how many cores a process takes, any that are free"},
    {"NEURON_LOGICAL_NC_CONFIG", "neuron", "physical cores of a logical one"},
    {"BATON_NEURON_ARTIFACTS", "neuron", "folder of compiled programs, FINGERPRINT.neff (devctl artifacts)"},
    {"NEURON_RT_EXEC_TIMEOUT", "emulated neuron", "seconds after which an execution that hangs fails"},
    {"NEURON_RT_VALIDATE_HASH", "emulated neuron", "1: a NEFF whose hash is wrong is refused"},
    {"NEURON_RT_ROOT_COMM_ID", "emulated neuron", "HOST:PORT where ranks of several processes meet"},
    {"NEURON_RT_LOG_LEVEL", "emulated neuron", "set: the emulator logs to stderr"},
    {"BATON_EMU_NEURON_MACHINE", "emulated neuron", "which machine, as in trn2.48xlarge"},
    {"BATON_EMU_NEURON_CHIPS", "emulated neuron", "how many of its chips"},
    {"BATON_EMU_NEURON_FOLDER", "emulated neuron", "a machine that processes share: a name or a folder"},
    {"BATON_EMU_NEURON_THREADS", "emulated neuron", "threads that compute"},
    {"BATON_EMU_NEURON_ISA", "emulated neuron", "instructions to compute with: auto, amx, avx512, plain"},
    {"BATON_EMU_NEURON_TIMING", "emulated neuron", "model of time: a name, a path, none"},
    {"BATON_EMU_NEURON_MODE", "emulated neuron", "full, or timing: modelled times without numbers"},
    {"BATON_EMU_NEURON_FAULTS", "emulated neuron", "its fault plan: JSON, or the path of a file"},
    {"BATON_EMU_NEURON_STRICT", "emulated neuron", "1: memory that nobody wrote may not be read"},
    {"BATON_EMU_NEURON_VISIBILITY", "emulated neuron", "a seed: remote writes are seen late, as without a fence"},
    {"BATON_EMU_NEURON_NEFF", "emulated neuron", "compiled: portable programs are refused, as on hardware"},
    {"BATON_COPY", "transport", "how large layers are copied, in place of a probe"},
    {"BATON_FABRIC_FAULTS", "transport", "what a sender does wrong, for tests"},
    {"FI_HMEM", "transport", "libfabric's; set before it starts, unless it is set"},
    {"FI_OFI_RXM_CM_PROGRESS_INTERVAL", "transport", "libfabric's; set before it starts, unless it is set"},
    {"FI_OFI_RXM_BUFFER_SIZE", "transport", "libfabric's; set before it starts, unless it is set"},
    {"FI_UNIVERSE_SIZE", "transport", "libfabric's; set before it starts, unless it is set"},
    {"OPENSSL_ia32cap", "transport", "OpenSSL's: which instructions it may use"},
    {"BATON_LIBRARY", "python", "path of libbaton.so.0 for the Python module"},
    {"BATON_MODEL", "baton", "folder of the model, where --model does not say"},
    {"NO_COLOR", "devctl", "set and not empty: no colour"},
};

}  // namespace

std::span<const Variable> variables() { return kVariables; }

bool is_secret(std::string_view name) {
  for (const char* word : {"KEY", "SECRET", "TOKEN", "PASSWORD", "PASSWD", "CREDENTIAL"})
    if (name.find(word) != std::string_view::npos) return true;
  return false;
}

Result<json> env_document(const Context&) {
  json all = json::array();
  for (const Variable& v : kVariables) {
    const auto value = variable(v.name);
    all.push_back({{"name", v.name}, {"set", value.has_value()}, {"value", !value ? json(nullptr) : is_secret(v.name) ? json("(removed)") : json(*value)}, {"read_by", v.reader}, {"meaning", v.meaning}});
  }
  return json{{"variables", all}};
}

int env(const Context& c) {
  return c.out.show("env", reading(c, "env", env_document), [](const json& doc) {
    Table t({"VARIABLE", "VALUE", "READ BY", "MEANING"});
    for (auto& v : doc.at("variables"))
      t.row({clean(v.at("name").get<std::string>()), v.at("set") ? v.at("value") == "" ? "\"\"" : clean(v.at("value").get<std::string>()) : "-", clean(v.at("read_by").get<std::string>()),
             clean(v.at("meaning").get<std::string>())});
    return t.text();
  });
}

}  // namespace baton::devctl
