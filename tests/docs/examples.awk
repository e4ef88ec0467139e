# examples.awk: the code of a document, so that a test compiles it.
#
# Of a header: each example in a comment (indented by five, after an empty line) as EXAMPLE(n) { ... DONE }.
# Of Markdown (-v fence=cpp): the lines of its ```cpp blocks, one after the other.
fence != "" {
  if ($0 == "```" fence) inside = 1
  else if (/^```/) inside = 0
  else if (inside) print
  next
}
/^ *(\*|\/\/)     +[^ ]/ && (inside || after_empty) {
  if (!inside) printf "EXAMPLE(%d) {{\n", ++n
  inside = 1
  sub(/^ *(\*|\/\/)     /, "")
  print
  next
}
inside { print "}\nDONE\n}"; inside = 0 }
{ after_empty = /^ *(\*|\/\/)$/ }
