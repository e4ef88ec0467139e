#!/bin/sh
# surface_test.sh SOURCE: every place in the sources that touches the process or the machine is on hal/HOST_SURFACE.md.
set -eu
cd "$1"
page=${2:-hal/HOST_SURFACE.md}
calls='getenv|secure_getenv|setenv|unsetenv|putenv|pthread_create|std::j?thread|std::async|thrd_create|timer_create'
calls="$calls|::socket|socket|socketpair|accept4|memfd_create|shm_open|shm_unlink|sem_open|mkfifo|mkstemps?|mkdtemp|tmpfile"
calls="$calls|sigaction|::signal|std::signal|signalfd|sigprocmask|pthread_sigmask|kill|fork|vfork|clone|execv[pe]*|execl[pe]*|fexecve|posix_spawnp?|popen|system"
calls="$calls|eventfd|timerfd_create|epoll_create1?|inotify_init1?|io_uring_queue_init|pipe2?|userfaultfd|dlopen|prctl|setrlimit|umask|chdir|setlocale|flock"
bad=0
miss() { echo "$1"; bad=1; }
# The call itself: not a member function, a declaration or a comment.
sites=$(grep -rnE --include='*.cc' --include='*.c' --include='*.h' --include='*.hpp' "(^|[^A-Za-z0-9_.>:])(::)?($calls)( [a-z_]+)?[ ]?[({]" \
        hal drivers transport emulators tools | grep -vE '^[^:]*:[0-9]+: *(//|/?\*)|^transport/bench/|^[^:]*:[0-9]+:.*(Result<|Status |virtual |static |std::unique_ptr<)[^=]*(open|accept|fork|kill)\(') || true
sites="$sites
$(grep -rnE --include='*.cc' --include='*.h' --include='*.hpp' 'std::vector<std::thread>|std::thread [a-z_]+;|SYS_[a-z_]+|struct sigaction' hal drivers transport emulators tools | grep -vE 'SYS_futex|^transport/bench/')"
files=$(printf '%s\n' "$sites" | cut -d: -f1 | sort -u | grep -v '^$')
[ "$(printf '%s\n' "$files" | wc -l)" -ge 20 ] || miss "only these files were found, the scan is broken: $files"
for f in $files; do
  # A header's declaration is its source's business.
  grep -qF "\`$f\`" "$page" || grep -qF "\`${f%.*}.cc\`" "$page" || { miss "$f touches the host and is not on $page:"; printf '%s\n' "$sites" | grep "^$f:" | head -3; }
done
# Variables: every literal in capitals of a file that reads or sets the environment.
for f in $(grep -rlE --include='*.cc' --include='*.h' --include='*.hpp' '(get|set)env\(' hal drivers transport emulators tools | grep -v '^transport/bench/'); do
  grep -qF "\`$f\`" "$page" || miss "$f reads the environment and is not on $page"
  for v in $(grep -oE '"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+"' "$f" | tr -d '"' | sort -u); do
    grep -qF "\`$v\`" "$page" || miss "$f: $v is not on $page"
  done
done
# Names of shared-memory objects.
for n in $(grep -rhoE --include='*.cc' 'memfd_create\("[a-z0-9-]+' hal drivers transport emulators tools | cut -d'"' -f2 | sort -u); do
  grep -qF "\`$n\`" "$page" || miss "the memfd $n is not on $page"
done
# And nothing on the page is gone.
for f in $(grep -oE '`[a-z]+/[a-z0-9_/]+\.(cc|hpp|h)`' "$page" | tr -d '`' | sort -u); do
  [ -f "$f" ] || miss "$page names $f, which does not exist"
done
for v in $(grep -oE '`[A-Z][A-Z0-9]*(_[A-Z0-9]+)+`' "$page" | tr -d '`' | sort -u); do
  grep -rqF "\"$v\"" hal drivers transport emulators tools python || miss "$page names $v, which nothing reads"
done
exit $bad
