// baton: the reference runtime on Baton's public API. Subcommands: generate, worker, keygen, version.
#include "tools/baton/commands.hpp"
#include "tools/baton/exit_code.hpp"

#include <exception>
#include <map>

using namespace baton::runtime;

namespace {

int run(int argc, char** argv) {
  CLI::App app("Prefill a prompt on one device, hand its KV-cache over, decode on another.", "baton");
  app.set_version_flag("--version", std::string("baton ") + baton_version());
  app.require_subcommand(1);
  std::map<std::string, Run> commands = {
      {"generate", add_generate(app)}, {"worker", add_worker(app)}, {"keygen", add_keygen(app)}, {"version", add_version(app)}};
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e); // --help, --version
    return report_error(baton::Error(BATON_INVALID_ARGUMENT, e.what(), "baton --help, or baton COMMAND --help"));
  }
  return commands.at(app.get_subcommands().front()->get_name())();
}

}  // namespace

int main(int argc, char** argv) {
  // Nothing below throws by design; what libraries throw after all (out of memory, say) still ends in one line.
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    return report_error(baton::Error(BATON_INTERNAL, e.what(), "report this with the command line"));
  }
}
