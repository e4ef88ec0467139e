# doxygen_filter.awk: shows Doxygen the plain comments of a header as documentation, so that headers need no markup. Lines keep their numbers.
#
# A comment before a declaration (indented by at most 6) documents what follows, one behind a declaration documents that;
# "---- name ----" opens a group; the contract's words (Owner, Threads, Cost, Errors) at the start of a line become headings.

# The first line, "name.h: what", is the file's.
NR == 1 {
  file = $0
  sub(/^(\/\*|\/\/) /, "", file)
  sub(/:.*/, "", file)
  what = substr($0, index($0, ": ") + 2)
  printf "%s @file %s @brief %s\n", (/^\/\*/ ? "/**" : "///"), file, what
  next
}

/^(\/\*|\/\/) ---- .* ----/ {
  name = $0
  sub(/^(\/\*|\/\/) -+ /, "", name)
  sub(/ -+( \*\/)?$/, "", name)
  printf "%s/** @name %s */ /** @{ */\n", (open ? "/** @} */ " : ""), name
  open = 1
  next
}

/^}  \/\/ namespace/ && open { printf "/** @} */ "; open = 0 }

{
  # A comment that has its line to itself, not too deep; else one behind a declaration (in a function's body it is deeper).
  if (/^ ? ? ? ? ? ?\/\//) sub(/\/\//, "///")
  else if (/^ ? ? ? ? ? ?\/\* /) sub(/\/\*/, "/**")
  else if (/[^ ] *\/\* /) sub(/\/\*/, "/**<")
  else if (/^ ? ? ? ?[^ ].* \/\/ /) sub(/ \/\/ /, " ///< ")

  if (match($0, /^ *(\*|\/\/\/) (Owner|Threads|Cost|Errors)  +/)) {
    # Several may share a line, three spaces apart.
    gsub(/   +(Owner|Threads|Cost|Errors)  +/, " @&")
    sub(/(Owner|Threads|Cost|Errors)/, "@&")
    while (match($0, /@ *(Owner|Threads|Cost|Errors)  +/)) {
      word = substr($0, RSTART + 1, RLENGTH - 1)
      gsub(/ /, "", word)
      $0 = substr($0, 1, RSTART - 1) "\\contract{" word "} " substr($0, RSTART + RLENGTH)
    }
  } else if (/^ *(\*|\/\/\/)          [^ ]/) sub(/          /, " ")  # goes on with it: no code block
  print
}

END { if (open) print "/** @} */" }
