# manual.awk: a manual page from a page's prose and the program's own --help, so that the two cannot drift.
#
#     awk -v program=bin/devctl -f manual.awk devctl.1.in > devctl.1
#
# The prose is mdoc. Two lines of it are replaced: @options@ by the program's own options, @commands@ by a subsection for each subcommand,
# however deep, with its usage, arguments and options. What --help looks like is CLI11's: names, then from column 31 what they mean.
# An @ line that stands elsewhere, a program that fails or a layout that is not understood ends with exit code 1.

function fail(why) {
  printf "manual.awk: %s: %s\n", program, why > "/dev/stderr"
  broken = 1
  exit 1
}

# Text for roff: no escapes, no line that looks like a request.
function roff(s) {
  gsub(/\\/, "\\e", s)
  return s ~ /^[.']/ ? "\\&" s : s
}

# --help of `program` and the subcommand `path` ("bench copy", "" for none) into help[path, 1..lines[path]].
function read_help(path,    command, line, n) {
  command = program " " path " --help 2>&1"
  while ((command | getline line) > 0) help[path, ++n] = line
  if (close(command) != 0 || !n) fail(command " failed")
  lines[path] = n
}

# "UINT:INT in [1 - 64]=16 REQUIRED" -> what stands behind the name, and what is added to the meaning
function type_of(spec,    form, rest) {
  extra = ""
  form = spec
  if (sub(/ *REQUIRED/, "", form)) extra = extra "; required"
  sub(/ *\.\.\.$/, "", form)
  if (match(form, /in \[[^]]*\]/)) {
    rest = substr(form, RSTART + 4, RLENGTH - 5)
    sub(/ - /, " to ", rest)
    extra = extra "; " rest
  }
  if (match(form, /=[^={}\[\]()]*$/)) extra = extra "; default " substr(form, RSTART + 1)
  if (match(form, /\{[^}]*\}/)) {
    rest = substr(form, RSTART + 1, RLENGTH - 2)
    gsub(/,/, " | ", rest)
    return rest
  }
  return form ~ /^(UINT|INT|FLOAT)/ ? "number" : form == "" ? "" : "text"
}

function item(head, type, meaning,    i, n, name) {
  if (head ~ /^-/) {
    n = split(head, name, ",")
    head = ""
    for (i = 1; i <= n; ++i) head = head (i > 1 ? " , " : "") "Fl " substr(name[i], 2)
  } else {
    head = "Ar " head
  }
  print ".It " head (type != "" && head ~ /^Fl/ ? " Ar " type : "")
  print roff(meaning) (extra == "" ? "." : " (" substr(extra, 3) ").")
}

# The section "Options" or "Positionals" of a help as a list.
function list(path, section,    i, line, inside, head, type, open) {
  for (i = 1; i <= lines[path]; ++i) {
    line = help[path, i]
    if (line ~ /^[^ ].*:$/) {
      inside = line == section ":"
      continue
    }
    if (!inside || line !~ /^  /) {
      if (line == "") continue
      inside = 0
      continue
    }
    # The meaning begins at column 31, or below it where name and type reach so far.
    if (substr(help[path, i + 1], 1, 30) == blank) {
      head = substr(line, 3)
      line = substr(help[path, ++i], 31)
    } else {
      head = substr(line, 3, 28)
      line = substr(line, 31)
    }
    if (path != "" && head ~ /^-h,/) continue  # said once
    if (line == "") fail("no meaning of " head " in --help of '" path "'")
    sub(/ *$/, "", head)
    type = head ~ / / ? head : ""
    sub(/^[^ ]* */, "", type)
    sub(/ .*/, "", head)
    type = type_of(type)
    if (!open++) print ".Bl -tag -width Ds"
    item(head, type, line)
  }
  if (open) print ".El"
}

function command(path,    i, usage) {
  read_help(path)
  for (i = 1; i <= lines[path]; ++i) if (help[path, i] ~ /^Usage: /) usage = help[path, i]
  if (usage == "") fail("no usage in --help of '" path "'")
  print ".Ss " path
  print roff(help[path, 1]) "."
  sub(/^Usage: */, "", usage)
  print ".Pp"
  print ".Dl " usage
  list(path, "Positionals")
  list(path, "Options")
  children(path)
}

function children(path,    i, inside, name) {
  for (i = 1; i <= lines[path]; ++i) {
    if (help[path, i] ~ /^[^ ]/) inside = help[path, i] == "Subcommands:"
    if (inside && help[path, i] ~ /^  [a-z]/) {
      name = substr(help[path, i], 3)
      sub(/ .*/, "", name)
      command(path (path == "" ? "" : " ") name)
    }
  }
}

BEGIN { blank = sprintf("%30s", ""); read_help("") }
$0 == "@options@" { list("", "Positionals"); list("", "Options"); next }
$0 == "@commands@" { children(""); next }
/^@/ { fail("unknown line " $0) }
{ print }
END { if (broken) exit 1 }
