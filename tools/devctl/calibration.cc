// model --calibration: published figures beside the timing model's. The emulator whose model it is prints them: it takes this process's place.
#include "tools/devctl/verbs.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace baton::devctl {

int calibration(const Output& out, const std::string& scheme) {
  std::string program = emulator_program(scheme), option = "--calibration", form = out.is_json() ? "json" : "text";
  if (program.empty()) return out.fail(kUnsupported, "baton-emu-" + scheme + " is not there", "install the package that holds it, or build the target baton-emu-" + scheme);
  char* argv[] = {program.data(), option.data(), form.data(), nullptr};
  execv(argv[0], argv);
  return out.fail(kUnsupported, "cannot run " + program + ": " + std::strerror(errno), "see whether it may be executed");
}

}  // namespace baton::devctl
