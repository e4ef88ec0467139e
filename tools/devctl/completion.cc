#include "tools/devctl/completion.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <functional>
#include <vector>

namespace baton::devctl {
namespace {

std::string single_quoted(const std::string& s) {  // within single quotes
  std::string out;
  for (char c : s) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return "'" + out + "'";
}

struct Word {
  std::string text, meaning;
  bool takes_value = false;
  std::vector<std::string> values;  // of an option or argument with a fixed choice
};

// "{text,json}" in the type name that CLI::IsMember makes
std::vector<std::string> members(const CLI::Option* o) {
  const std::string type = o->get_type_name();
  const size_t from = type.find('{'), to = type.find('}', from);
  std::vector<std::string> all;
  if (from == std::string::npos || to == std::string::npos) return all;
  for (size_t at = from + 1; at < to;) {
    const size_t end = std::min(type.find(',', at), to);
    all.push_back(type.substr(at, end - at));
    at = end + 1;
  }
  return all;
}

struct Verb {
  std::string path;  // "bench copy", "" for devctl itself
  std::vector<Word> verbs, options;
  std::vector<std::string> arguments;  // values of its positional arguments
  bool devices = false;                // it takes a DEV
};

void add_options(const CLI::App& app, Verb& v) {
  for (const CLI::Option* o : app.get_options()) {
    if (o->nonpositional()) {
      for (auto& name : o->get_lnames()) v.options.push_back({"--" + name, o->get_description(), o->get_items_expected_max() > 0, members(o)});
      for (auto& name : o->get_snames()) v.options.push_back({"-" + name, o->get_description(), o->get_items_expected_max() > 0, members(o)});
    } else {
      for (auto& value : members(o)) v.arguments.push_back(value);
      v.devices |= o->get_name() == "DEV" || o->get_name() == "from" || o->get_name() == "to" || o->get_name() == "SUBJECT";
    }
  }
}

void walk(const CLI::App& app, const std::string& path, std::vector<Verb>& all) {
  Verb v;
  v.path = path;
  add_options(app, v);
  for (const CLI::App* sub : app.get_subcommands({})) v.verbs.push_back({sub->get_name(), sub->get_description(), false, {}});
  all.push_back(std::move(v));
  for (const CLI::App* sub : app.get_subcommands({})) walk(*sub, path.empty() ? sub->get_name() : path + " " + sub->get_name(), all);
}

std::string bash(const std::string& name, const std::vector<Verb>& all) {
  std::string out = fmt::format(R"(# bash completion of {0}, made by '{0} completion bash'
_{0}() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} path= word i words=
  for ((i = 1; i < COMP_CWORD; ++i)); do
    word=${{COMP_WORDS[i]}}
    case "$path $word" in
)", name);
  for (auto& v : all)
    if (!v.path.empty()) out += fmt::format("      {}) path={} ;;\n", single_quoted(" " + v.path), single_quoted(" " + v.path));
  out += "    esac\n  done\n  case \"$path:$prev\" in\n";
  for (auto& v : all)
    for (auto& o : v.options)
      if (!o.values.empty()) out += fmt::format("    {}) COMPREPLY=($(compgen -W {} -- \"$cur\")); return ;;\n", v.path.empty() ? "*:" + o.text : single_quoted(" " + v.path + ":" + o.text), single_quoted(fmt::format("{}", fmt::join(o.values, " "))));
      else if (o.takes_value) out += fmt::format("    {}) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n", v.path.empty() ? "*:" + o.text : single_quoted(" " + v.path + ":" + o.text));
  out += "  esac\n  case \"$path\" in\n";
  std::vector<std::string> common;
  for (auto& o : all[0].options) common.push_back(o.text);
  for (auto& v : all) {
    std::vector<std::string> words = v.arguments;
    for (auto& s : v.verbs) words.push_back(s.text);
    for (auto& o : v.options) words.push_back(o.text);
    if (!v.path.empty()) words.insert(words.end(), common.begin(), common.end());
    out += fmt::format("    {}) words={} ;;\n", v.path.empty() ? "''" : single_quoted(" " + v.path), single_quoted(fmt::format("{}", fmt::join(words, " "))) + (v.devices ? fmt::format("\" $({} list -o json 2>/dev/null | sed -n 's/^      \"name\": \"\\(.*\\)\",$/\\1/p')\"", name) : ""));
  }
  out += fmt::format("  esac\n  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n  [ ${{#COMPREPLY[@]}} -gt 0 ] || COMPREPLY=($(compgen -f -- \"$cur\"))\n}}\ncomplete -F _{0} {0}\n", name);
  return out;
}

std::string zsh(const std::string& name, const std::vector<Verb>& all) {
  auto item = [](const std::string& text, const std::string& meaning) {
    std::string m = meaning;
    for (size_t at = 0; (at = m.find(':', at)) != std::string::npos; at += 2) m.insert(at, "\\");
    return single_quoted(text + ":" + m);
  };
  std::string out = fmt::format("#compdef {0}\n# zsh completion of {0}, made by '{0} completion zsh'\n_{0}() {{\n  local at= i\n  local -a choices\n  for ((i = 2; i < CURRENT; ++i)); do\n    case \"$at ${{words[i]}}\" in\n", name);
  for (auto& v : all)
    if (!v.path.empty()) out += fmt::format("      {}) at={} ;;\n", single_quoted(" " + v.path), single_quoted(" " + v.path));
  out += "    esac\n  done\n  case \"$at\" in\n";
  for (auto& v : all) {
    std::vector<std::string> items;
    for (auto& s : v.verbs) items.push_back(item(s.text, s.meaning));
    for (auto& a : v.arguments) items.push_back(item(a, "value"));
    for (auto& o : v.options) items.push_back(item(o.text, o.meaning));
    out += fmt::format("    {}) choices=({}) ;;\n", v.path.empty() ? "''" : single_quoted(" " + v.path), fmt::join(items, " "));
  }
  out += fmt::format("  esac\n  _describe -t commands {0} choices || _files\n}}\ncompdef _{0} {0}\n", name);
  return out;
}

std::string fish(const std::string& name, const std::vector<Verb>& all) {
  std::string out = fmt::format("# fish completion of {0}, made by '{0} completion fish'\n", name);
  for (auto& v : all) {
    // Within "bench copy": both were said. At the top: no verb was.
    std::string when;
    if (v.path.empty()) {
      when = "__fish_use_subcommand";
    } else {
      for (size_t at = 0; at < v.path.size();) {
        const size_t end = std::min(v.path.find(' ', at), v.path.size());
        when += fmt::format("{}__fish_seen_subcommand_from {}", when.empty() ? "" : "; and ", v.path.substr(at, end - at));
        at = end + 1;
      }
    }
    for (auto& s : v.verbs) out += fmt::format("complete -c {} -n {} -a {} -d {}\n", name, single_quoted(when), single_quoted(s.text), single_quoted(s.meaning));
    for (auto& a : v.arguments) out += fmt::format("complete -c {} -n {} -a {}\n", name, single_quoted(when), single_quoted(a));
    for (auto& o : v.options) {
      const bool single = o.text[1] != '-';
      out += fmt::format("complete -c {}{} -{} {}{}{} -d {}\n", name, v.path.empty() ? "" : " -n " + single_quoted(when), single ? "s" : "l", o.text.substr(single ? 1 : 2), o.takes_value ? " -r" : "",
                         o.values.empty() ? "" : " -f -a " + single_quoted(fmt::format("{}", fmt::join(o.values, " "))), single_quoted(o.meaning));
    }
  }
  return out;
}

}  // namespace

std::string completion(const CLI::App& app, const std::string& shell) {
  std::vector<Verb> all;
  walk(app, "", all);
  return shell == "bash" ? bash(app.get_name(), all) : shell == "zsh" ? zsh(app.get_name(), all) : fish(app.get_name(), all);
}

}  // namespace baton::devctl
