#!/bin/sh
# new-driver.sh SCHEME [TEMPLATE]: a driver for SCHEME://, made by copying the host driver, as a CMake project in ./SCHEME.
#
# It builds as it is and does all that host:// does. Then replace its insides: memory.* (the heap), queue.* (how ops run), launch.*
# (programs), options.* (the address). To begin without programs, delete launch.* and leave the slots load and unload NULL.
#
#     sh new-driver.sh mydev && cmake -S mydev -B build && cmake --build build
#     BATON_DRIVER_PATH=build ./hello mydev://
set -eu
scheme=${1:?usage: new-driver.sh SCHEME [TEMPLATE]}
template=${2:-$(dirname "$0")/host-driver}
mkdir "$scheme"
for f in "$template"/*.h "$template"/*.cc; do
  sed -e 's#"drivers/host/#"#' -e "s#host://#$scheme://#g" -e "s/\"host\"/\"$scheme\"/g" -e "s/\"host0\"/\"${scheme}0\"/g" \
      -e "s/host_driver/${scheme}_driver/g" "$f" > "$scheme/$(basename "$f")"
done
cat > "$scheme/CMakeLists.txt" <<END
cmake_minimum_required(VERSION 3.18)
project($scheme LANGUAGES CXX)
find_package(Baton 0.1 REQUIRED COMPONENTS baton engine)
file(GLOB sources CONFIGURE_DEPENDS *.cc)
add_library(baton-driver-$scheme MODULE \${sources})  # libbaton-driver-$scheme.so: the name that the registry looks for
target_link_libraries(baton-driver-$scheme PRIVATE Baton::baton Baton::engine)
set_target_properties(baton-driver-$scheme PROPERTIES CXX_VISIBILITY_PRESET hidden)  # baton_driver_v1 is the one symbol that it exports
END
