#include "tests/support/count_calls.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/syscall.h>

namespace {
thread_local baton::test::Calls t_calls;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)

extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void*, size_t), void (*)(const volatile void*));

namespace {
[[maybe_unused]] const int g_installed =
    __sanitizer_install_malloc_and_free_hooks([](const volatile void*, size_t) { ++t_calls.allocations; }, [](const volatile void*) {});
}
bool baton::test::counts_locks() { return false; }

#else

extern "C" {

// glibc's own names for what is replaced here.
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

void* malloc(size_t n) {
  ++t_calls.allocations;
  return __libc_malloc(n);
}
void* calloc(size_t n, size_t m) {
  ++t_calls.allocations;
  return __libc_calloc(n, m);
}
void* realloc(void* p, size_t n) {
  ++t_calls.allocations;
  return __libc_realloc(p, n);
}
void* memalign(size_t alignment, size_t n) {
  ++t_calls.allocations;
  return __libc_memalign(alignment, n);
}
void* aligned_alloc(size_t alignment, size_t n) { return memalign(alignment, n); }
int posix_memalign(void** out, size_t alignment, size_t n) {
  *out = memalign(alignment, n);
  return *out ? 0 : ENOMEM;
}

#define BATON_COUNTED_LOCK(name, type)                                               \
  int name(type* lock) noexcept {                                                    \
    static const auto real = reinterpret_cast<int (*)(type*)>(dlsym(RTLD_NEXT, #name)); \
    ++t_calls.locks;                                                                 \
    return real(lock);                                                               \
  }
BATON_COUNTED_LOCK(pthread_mutex_lock, pthread_mutex_t)
BATON_COUNTED_LOCK(pthread_mutex_trylock, pthread_mutex_t)
BATON_COUNTED_LOCK(pthread_rwlock_rdlock, pthread_rwlock_t)
BATON_COUNTED_LOCK(pthread_rwlock_wrlock, pthread_rwlock_t)

int pthread_spin_lock(pthread_spinlock_t* lock) noexcept {
  static const auto real = reinterpret_cast<int (*)(pthread_spinlock_t*)>(dlsym(RTLD_NEXT, "pthread_spin_lock"));
  ++t_calls.locks;
  return real(lock);
}

long syscall(long number, ...) noexcept {
  static const auto real = reinterpret_cast<long (*)(long, ...)>(dlsym(RTLD_NEXT, "syscall"));
  va_list v;
  va_start(v, number);
  long a[6];
  for (long& x : a) x = va_arg(v, long);
  va_end(v);
  t_calls.futexes += number == SYS_futex;
  return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

}  // extern "C"

bool baton::test::counts_locks() { return true; }

#endif

baton::test::Calls baton::test::calls() { return t_calls; }
