# Writes IN as a C++ raw string to OUT, as NAMESPACE::NAME, and copies it to COPY.
file(READ ${IN} text)
file(WRITE ${OUT} "#pragma once\nnamespace ${NAMESPACE} {\ninline constexpr char ${NAME}[] = R\"json(${text})json\";\n}\n")
get_filename_component(dir ${COPY} DIRECTORY)
file(MAKE_DIRECTORY ${dir})
configure_file(${IN} ${COPY} COPYONLY)
