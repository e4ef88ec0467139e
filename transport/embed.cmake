# Writes IN as a C++ raw string to OUT and copies it to COPY.
file(READ ${IN} text)
file(WRITE ${OUT} "#pragma once\nnamespace baton::transport {\ninline constexpr char kLinksJson[] = R\"json(${text})json\";\n}\n")
get_filename_component(dir ${COPY} DIRECTORY)
file(MAKE_DIRECTORY ${dir})
configure_file(${IN} ${COPY} COPYONLY)
