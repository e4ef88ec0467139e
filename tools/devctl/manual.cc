#include "tools/devctl/manual.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cctype>
#include <fstream>

namespace baton::devctl {
namespace {

constexpr char kDate[] = "November 27, 2026";

// Text for roff: no escapes, no quote that a request would take, no line that looks like a request.
std::string roff(const std::string& s) {
  std::string out;
  for (char c : s) out += c == '\\' ? std::string("\\e") : c == '"' ? std::string("\\(dq") : std::string(1, c);
  return out.starts_with('.') || out.starts_with('\'') ? "\\&" + out : out;
}

// A sentence's end, but where it has one.
std::string sentence(const std::string& s) { return roff(s) + (s.ends_with('.') || s.ends_with('?') ? "" : "."); }

// What stands behind an option's name: a choice, a number, text; "" for a flag.
std::string value_of(const CLI::Option& o) {
  if (o.get_items_expected_max() == 0) return "";
  const std::string type = o.get_type_name();
  const size_t from = type.find('{'), to = type.find('}', std::min(from, type.size()));
  if (from != std::string::npos && to != std::string::npos) {
    std::string choice = type.substr(from + 1, to - from - 1);
    for (size_t at = 0; (at = choice.find(',', at)) != std::string::npos; at += 3) choice.replace(at, 1, " | ");
    return choice;
  }
  return type.starts_with("UINT") || type.starts_with("INT") || type.starts_with("FLOAT") ? "number" : "text";
}

std::string range_of(const CLI::Option& o) {
  const std::string type = o.get_type_name();
  const size_t from = type.find(" in ["), to = type.find(']', std::min(from, type.size()));
  if (from == std::string::npos || to == std::string::npos) return "";
  std::string range = type.substr(from + 5, to - from - 5);
  if (const size_t dash = range.find(" - "); dash != std::string::npos) range.replace(dash, 3, " to ");
  return range;
}

void item(std::string& page, const CLI::Option& o) {
  std::string head;
  if (o.nonpositional()) {
    for (auto& n : o.get_snames()) head += fmt::format("{}Fl {}", head.empty() ? "" : " , ", n);
    for (auto& n : o.get_lnames()) head += fmt::format("{}Fl -{}", head.empty() ? "" : " , ", n);
    if (const std::string value = value_of(o); !value.empty()) head += " Ar " + roff(value);
  } else {
    head = "Ar " + o.get_name();
  }
  std::vector<std::string> more;
  if (o.get_required()) more.push_back("required");
  if (const std::string range = range_of(o); !range.empty()) more.push_back(range);
  if (!o.get_default_str().empty()) more.push_back("default " + o.get_default_str());
  page += fmt::format(".It {}\n{}\n", head, sentence(o.get_description() + (more.empty() ? "" : fmt::format(" ({})", fmt::join(more, "; ")))));
}

void list(std::string& page, const char* heading, const CLI::App& app, bool positional) {
  bool open = false;
  for (const CLI::Option* o : app.get_options()) {
    if (o->nonpositional() == positional || o->get_description().empty()) continue;
    if (!open) page += fmt::format(".Sh {}\n.Bl -tag -width Ds\n", heading);
    open = true;
    item(page, *o);
  }
  if (open) page += ".El\n";
}

std::string file_name(const std::string& root, const std::vector<std::string>& path) { return fmt::format("{}-{}", root, fmt::join(path, "-")); }

void walk(const CLI::App& app, std::vector<std::string>& path, std::vector<std::vector<std::string>>& all) {
  for (const CLI::App* sub : app.get_subcommands({})) {
    path.push_back(sub->get_name());
    all.push_back(path);
    walk(*sub, path, all);
    path.pop_back();
  }
}

}  // namespace

std::string manual(const CLI::App& app, const std::vector<std::string>& path) {
  const CLI::App* verb = &app;
  for (auto& name : path) verb = verb->get_subcommand(name);
  const std::string name = file_name(app.get_name(), path);
  std::string title = name, page;
  for (char& c : title) c = char(std::toupper(static_cast<unsigned char>(c)));
  // The first clause says what it is; all of it is the description.
  const std::string what = verb->get_description();
  std::string brief = what.substr(0, what.find_first_of(":;,"));
  if (!brief.empty()) brief[0] = char(std::tolower(static_cast<unsigned char>(brief[0])));
  page += fmt::format(".Dd {}\n.Dt {} 1\n.Os\n.Sh NAME\n.Nm {}\n.Nd {}\n.Sh SYNOPSIS\n.Nm {} {}\n", kDate, title, name, roff(brief), app.get_name(), fmt::join(path, " "));
  page += ".Op Ar options\n";
  for (const CLI::Option* o : verb->get_options()) {
    if (o->nonpositional()) continue;
    const std::string dots = o->get_items_expected_max() > 1 ? " ..." : "";
    page += fmt::format("{} {}{}\n", o->get_required() ? ".Ar" : ".Op Ar", o->get_name(), dots);
  }
  if (!verb->get_subcommands({}).empty()) page += ".Ar command\n";
  page += fmt::format(".Sh DESCRIPTION\n{}\n", sentence(what));
  list(page, "ARGUMENTS", *verb, true);
  list(page, "OPTIONS", *verb, false);
  if (!verb->get_subcommands({}).empty()) {
    page += ".Sh COMMANDS\n.Bl -tag -width Ds\n";
    for (const CLI::App* sub : verb->get_subcommands({})) page += fmt::format(".It Cm {}\n{}\n", sub->get_name(), sentence(sub->get_description()));
    page += ".El\n";
  }
  page += ".Sh EXIT STATUS\nAs of\n.Xr devctl 1 .\n.Sh SEE ALSO\n.Xr devctl 1";
  for (const CLI::App* sub : verb->get_subcommands({})) page += fmt::format(" ,\n.Xr {}-{} 1", name, sub->get_name());
  return page + "\n";
}

Result<std::vector<std::string>> write_manuals(const CLI::App& app, const std::string& folder) {
  std::vector<std::string> path, written;
  std::vector<std::vector<std::string>> all;
  walk(app, path, all);
  for (auto& p : all) {
    const std::string file = fmt::format("{}/{}.1", folder, file_name(app.get_name(), p));
    std::ofstream out(file, std::ios::trunc);
    out << manual(app, p);
    if (!out.flush()) return Error(BATON_IO, fmt::format("{}: cannot be written", file), "name a folder that is there");
    written.push_back(file);
  }
  return written;
}

}  // namespace baton::devctl
