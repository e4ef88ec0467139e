/* stats.h: the statistics page: what a process does with its devices, for other processes to see (C11).
 *
 * Each instance keeps a file in the run folder (baton_stats_folder), PID.N, mapped: devices that are open, queues, named values. Its owner
 * counts there with plain stores; whoever may read the file sees them live, and sees the last of them after a kill -9. An instance that is
 * destroyed removes its file; the files of the dead are swept by later instances, but for the last few. `devctl who`, `stats` and `top`
 * read them; so may you.
 *
 * Owner    the instance writes, everybody else maps it read-only.   Threads  one word is never half written; two words may be of two moments.
 * Cost     writing: a few plain stores an op. Reading: nothing to the writer.
 * Errors   none: an instance that cannot have a file keeps its page to itself. Check magic, row_bytes and the file's size before a look.
 *
 *     const baton_stats_page* p = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
 *     if (p->magic == BATON_STATS_MAGIC) printf("%u: %s\n", p->pid, p->command);
 */
#ifndef BATON_STATS_H
#define BATON_STATS_H

#include <stdint.h>

#define BATON_STATS_MAGIC 0x31737461744e5442ull /* "BTNtats1": the layout below */
#define BATON_STATS_ROWS 448u                   /* rows of a page; what finds none is counted in the last one */

/* What a row is about. */
typedef enum baton_stats_kind {
  BATON_STATS_FREE = 0,
  BATON_STATS_DEVICE = 1, /* an open device; name: its address without options */
  BATON_STATS_LANE = 2,   /* a queue on a lane */
  BATON_STATS_LINK = 3,   /* a link between two devices of the process */
  BATON_STATS_TABLE = 4,  /* a queue whose far end is elsewhere: a session's */
  BATON_STATS_VALUE = 5,  /* baton_stats_value */
} baton_stats_kind;

/* A device, a queue, or a value. Numbers that its kind does not have are 0. */
typedef struct baton_stats_row {
  uint32_t turn;         /* odd while the row is being given away; another one than before: it is another thing now */
  uint32_t kind;         /* baton_stats_kind */
  char name[120];        /* ends in a NUL */
  uint64_t device;       /* queue: 1 + the row of its device, 0: none */
  uint64_t opened_ns;    /* CLOCK_REALTIME */
  uint64_t submitted;    /* queue: ops, ever */
  uint64_t done;         /* queue: of them, those that have ended. Device: of the queues that were closed */
  uint64_t failed;       /* of `done`, those that ended with an error */
  uint64_t bytes;        /* of the COPYs and FILLs that ended well */
  uint64_t changed_ns;   /* queue: CLOCK_MONOTONIC to some ms, when an op last ended, or was submitted to an idle queue */
  uint64_t modelled_ns;  /* queue: modelled end of the latest op; 0: not modelled */
  uint64_t memory_bytes; /* device: allocated by this process */
  uint64_t buffers;      /* device: how many */
  uint64_t epoch;        /* device */
  uint64_t lost;         /* device: 1 between a loss and the reset that cures it */
  uint64_t value;        /* value */
  uint64_t reserved[3];  /* 0 */
} baton_stats_row;

/* The file. */
typedef struct baton_stats_page {
  uint64_t magic;       /* BATON_STATS_MAGIC, written last */
  uint32_t row_bytes;   /* sizeof(baton_stats_row) */
  uint32_t rows;        /* BATON_STATS_ROWS */
  uint32_t pid;         /* of the process */
  uint32_t reserved0;   /* 0 */
  uint64_t started;     /* field 22 of its /proc/PID/stat: with the pid, which process it was */
  uint64_t opened_ns;   /* CLOCK_REALTIME */
  char command[208];    /* its command line, words with spaces between */
  uint64_t reserved[2]; /* 0 */
  baton_stats_row row[BATON_STATS_ROWS];
} baton_stats_page;

#endif
