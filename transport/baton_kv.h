/* baton_kv.h: the C ABI of the transport (C11): move a KV-cache between two processes, whatever runtimes and layouts they have.
 *
 * An endpoint has sessions with its peers and pools of KV blocks: memory that the caller has, and its layout. The decode side grants blocks of a pool
 * for a request, and the ticket goes to whoever prefills, by a pull or by any road of the caller's. The prefill side pushes its own blocks into that
 * ticket, whole or layer by layer; block size, order, and shards may differ. Or it holds them, under a lease, until they are pulled; or, on one host,
 * lends them, and nothing is copied. What happens comes out of baton_kv_poll as events.
 *
 * Unless a declaration says otherwise, for every function here:
 *
 * Owner    Whoever made a handle gives it back once, before its endpoint is closed: closing the endpoint ends what is left, and every handle of it
 *          is dangling from then on. Giving NULL back does nothing. What a call is given (texts, block lists, bytes) need live for the call only.
 * Threads  One at a time for an endpoint and everything that belongs to it. The library starts no thread and touches no signal.
 * Cost     Nothing blocks but what says so. Pushing a layer and polling allocate nothing, from a request's second layer on.
 * Errors   A baton_code is returned and, if `error` is not NULL, the caller's struct says what happened and what to do next, as in baton.h. No
 *          result is made on failure. INVALID_ARGUMENT: a NULL handle or result. CAPACITY: no host memory. INTERNAL: a bug in Baton.
 *
 *     baton_kv_endpoint_options o = {.struct_size = sizeof o, .listen = "0.0.0.0:7000", .key_file = "baton.key"};
 *     if (baton_kv_endpoint_open(&o, &endpoint, &err)) return err.code;
 *     baton_kv_grant_options g = {.struct_size = sizeof g, .session = session, .blocks = blocks, .block_count = 4, .tokens = 60};
 *     if (baton_kv_grant_blocks(pool, &g, &grant, &err) || baton_kv_pull(grant, session, "request 7", 9, &err)) return err.code;
 *     while (events[0].kind != BATON_KV_EVENT_COMPLETE && events[0].kind != BATON_KV_EVENT_FAILED) baton_kv_wait(endpoint, events, 1, BATON_NO_DEADLINE);
 */
#ifndef BATON_KV_H
#define BATON_KV_H

#include "hal/baton.h"

#ifdef __cplusplus
extern "C" {
#endif

#define BATON_KV_NOTE_BYTES 1048576u  /* the most that a notification, a pull or a seal carries */

/* ---- handles --------------------------------------------------------------------------------------------------- */

typedef struct baton_kv_endpoint baton_kv_endpoint; /* what listens, connects and is polled */
typedef struct baton_kv_session baton_kv_session;   /* one authenticated peer, and its liveness */
typedef struct baton_kv_pool baton_kv_pool;         /* registered memory with a KV layout */
typedef struct baton_kv_grant baton_kv_grant;       /* decode side: blocks that one push may fill */
typedef struct baton_kv_push baton_kv_push;         /* prefill side: one request on its way */
typedef struct baton_kv_hold baton_kv_hold;         /* prefill side: one request kept until it is pulled */
typedef struct baton_kv_lender baton_kv_lender;     /* prefill side: a pool that one session may read in place */
typedef struct baton_kv_borrower baton_kv_borrower; /* decode side: the pool of a lender */

/* ---- describe: layouts ------------------------------------------------------------------------------------------- */

/* What an element is. The numbers are those of the portable program. */
typedef enum baton_kv_dtype {
  BATON_KV_F32 = 1,    /* 4 bytes */
  BATON_KV_BF16 = 2,   /* 2 bytes */
  BATON_KV_F16 = 3,    /* 2 bytes */
  BATON_KV_I32 = 4,    /* 4 bytes */
  BATON_KV_F8E4M3 = 5, /* 1 byte */
  BATON_KV_F8E5M2 = 6, /* 1 byte */
} baton_kv_dtype;

/* How a block lies. */
typedef enum baton_kv_order {
  BATON_KV_TOKEN_MAJOR = 1, /* [layer][k|v][block][token][head][d] (NHD) */
  BATON_KV_HEAD_MAJOR = 2,  /* [layer][k|v][block][head][token][d] (HND) */
  BATON_KV_BLOCK_MAJOR = 3, /* [block][layer][k|v][token][head][d] */
} baton_kv_order;

/* Where V lies beside K: the bracket [k|v] of the orders moves. */
typedef enum baton_kv_pairing {
  BATON_KV_APART = 1,     /* as the orders say */
  BATON_KV_BY_BLOCK = 2,  /* [layer][block][k|v]...; not of block-major, which has it so when apart */
  BATON_KV_BY_TOKEN = 3,  /* K and V of a token are neighbours */
  BATON_KV_LATENT = 4,    /* MLA: one row [c | rope] of head_dim a token, no V; kv_heads is 1 */
} baton_kv_pairing;

/* Where the scales of FP8 numbers are. */
typedef enum baton_kv_scales {
  BATON_KV_NO_SCALES = 0,         /* none */
  BATON_KV_BLOCK_HEAD_SCALES = 1, /* f32 [layer][k|v][block][head], behind the numbers from the first multiple of 64 bytes */
} baton_kv_scales;

/* How one pool keeps a KV-cache. Zero is the default where one is named. A plain struct: no call keeps it. */
typedef struct baton_kv_layout {
  uint32_t struct_size;  /* sizeof(baton_kv_layout), set by the caller; 0: this version's */
  uint32_t layers;       /* of the model */
  uint32_t kv_heads;     /* of the model */
  uint32_t head_dim;     /* elements */
  uint32_t dtype;        /* baton_kv_dtype; 0: BF16 */
  uint32_t order;        /* baton_kv_order; 0: token-major */
  uint32_t pairing;      /* baton_kv_pairing; 0: apart */
  uint32_t block_tokens; /* tokens a block; 0: 16 */
  uint32_t blocks;       /* in the pool */
  uint32_t head_begin;   /* the shard of heads that the pool holds */
  uint32_t head_count;   /* 0: all from head_begin on */
  uint32_t layer_begin;  /* the shard of layers that the pool holds */
  uint32_t layer_count;  /* 0: all */
  uint32_t rope_dim;     /* latent: the last elements of a row that carry the position */
  uint32_t scales;       /* baton_kv_scales */
  uint32_t reserved;     /* 0 */
} baton_kv_layout;

/* Reads a layout from text: the line that baton_kv_layout_text writes ("kv/1 layers=2 kv_heads=2 ..."), or a JSON object with the same names
 * ({"layers": 2, "kv_heads": 2, "head_dim": 64, "dtype": "bf16", "blocks": 128, "heads": [0, 2]}). `bytes` 0: up to its NUL.
 * Threads  any; no state.
 * Errors   CORRUPT: neither of the two, or a field that is unknown or of another kind, which is named. INVALID_ARGUMENT: it contradicts itself. */
BATON_API int32_t baton_kv_layout_parse(const char* text, uint64_t bytes, baton_kv_layout* out, baton_error*);
/* Writes the layout as one stable line of text, cut to `text_bytes` with its NUL; `needed` (may be NULL) is how many bytes the whole needs.
 * Threads  any; no state.
 * Errors   INVALID_ARGUMENT: it contradicts itself. */
BATON_API int32_t baton_kv_layout_text(const baton_kv_layout*, char* text, uint64_t text_bytes, uint64_t* needed, baton_error*);
/* A hash of that line, and the bytes that a pool of the layout has; each may be NULL.
 * Threads  any; no state.
 * Errors   INVALID_ARGUMENT: it contradicts itself. */
BATON_API int32_t baton_kv_layout_facts(const baton_kv_layout*, uint64_t* hash, uint64_t* pool_bytes, baton_error*);
/* Can KV be moved from a pool of the one into a pool of the other? Some heads and layers must be in both.
 * Threads  any; no state.
 * Errors   MISMATCH: no; the text names the first difference. INVALID_ARGUMENT: one of them contradicts itself. */
BATON_API int32_t baton_kv_layout_compare(const baton_kv_layout* source, const baton_kv_layout* target, baton_error*);

/* ---- who one is ---------------------------------------------------------------------------------------------------- */

/* An identity's public half. */
typedef struct baton_kv_identity {
  uint32_t struct_size;  /* sizeof(baton_kv_identity), set by the caller; 0: this version's */
  uint32_t reserved;     /* 0 */
  char public_key[72];   /* 64 hex digits: as a known-peers file has it, "NAME KEY roles=decode" a line */
  char fingerprint[40];  /* of it, to compare by eye */
} baton_kv_identity;

/* Makes a key file (64 hex digits) that both sides are to hold, mode 0600.
 * Threads  any; no state.
 * Errors   BUSY: the file exists, and is never overwritten. IO. */
BATON_API int32_t baton_kv_key_new(const char* path, baton_error*);
/* Makes an X25519 identity, mode 0600, and fills `out` (may be NULL).
 * Threads  any; no state.
 * Errors   BUSY: the file exists, and is never overwritten. IO. */
BATON_API int32_t baton_kv_identity_new(const char* path, baton_kv_identity* out, baton_error*);
/* Fills `out` from an identity file.
 * Threads  any; no state.
 * Errors   NOT_FOUND. PERMISSION: others may read it. CORRUPT. */
BATON_API int32_t baton_kv_identity_read(const char* path, baton_kv_identity* out, baton_error*);

/* ---- endpoint and sessions --------------------------------------------------------------------------------------- */

/* How an endpoint is reached and whom it believes. Zero is the default for each; without a key and without an identity it is refused. */
typedef struct baton_kv_endpoint_options {
  uint32_t struct_size;      /* sizeof(baton_kv_endpoint_options); 0: this version's */
  uint32_t reserved;         /* 0 */
  baton_instance* instance;  /* polled with its other queues; must outlive the endpoint. NULL: the endpoint makes its own */
  const char* listen;        /* "HOST:PORT", port 0: any. NULL: only connects */
  const char* name;          /* shown to peers and in errors */
  const char* key_file;      /* 64 hex digits, mode 0600: the key that both sides hold. NULL: `key` */
  const uint8_t* key;        /* the 32 bytes of it; NULL: none */
  const char* identity;      /* file of an X25519 identity; NULL: none */
  const char* known_peers;   /* file that lists who is believed, with `identity` */
  uint64_t lease_ns;         /* a peer that is silent for so long is lost; 0: 1.5 s */
  const char* accept_roles;  /* with `identity`: who connects must have one of these, with commas, if its line names roles. NULL: any */
  uint64_t recheck_peers_ns; /* how often the known peers are read again and sessions of those that are gone end; 0: never by itself */
  uint64_t hold_beat_ns;     /* how often holds that are tracked are kept; 0: 5 s, a sixth of the usual lease */
  uint32_t seal_bulk;        /* 1: KV that leaves this host or comes to it is encrypted and authenticated; either side's wish is enough */
  uint32_t reserved2;        /* 0 */
  const char* rails;         /* NICs to move KV over, "eth0,eth1" (names, addresses or RDMA devices) or "all" that are near; if the peer has rails too. NULL: the session's */
} baton_kv_endpoint_options;

/* Opens an endpoint. NULL options are refused: there is no key.
 * Cost     a few descriptors (hal/HOST_SURFACE.md).
 * Errors   INVALID_ARGUMENT: no key, an address. PERMISSION: others may read the key file or the identity. BUSY: the port. IO. */
BATON_API int32_t baton_kv_endpoint_open(const baton_kv_endpoint_options*, baton_kv_endpoint** out, baton_error*);
/* Ends everything that belongs to it: peers see their side fail with PEER_LOST or CANCELLED.
 * Cost     may block: 1 s a push whose writes are in flight. */
BATON_API void baton_kv_endpoint_close(baton_kv_endpoint*);
/* Where it listens, "127.0.0.1:41873"; "" if it does not. The endpoint's, as long as it is open. */
BATON_API const char* baton_kv_endpoint_address(const baton_kv_endpoint*);
/* The instance that it is polled with: for timelines to wait for. Borrowed. */
BATON_API baton_instance* baton_kv_endpoint_instance(const baton_kv_endpoint*);
/* A descriptor that is readable when baton_kv_poll may find something: for an event loop. It may be readable for nothing.
 * Owner    the endpoint: watch it, never close or read it. -1 for NULL. */
BATON_API int baton_kv_endpoint_fd(const baton_kv_endpoint*);

/* Reads the known peers again and ends, with PERMISSION on both sides, the sessions of those that are gone from it. Returns how many. A file that
 * cannot be read knows nobody. */
BATON_API uint32_t baton_kv_endpoint_drop_unknown_peers(baton_kv_endpoint*);

/* Connects and authenticates. Blocks by polling until that is done, or CLOCK_MONOTONIC passes deadline_ns.
 * Owner    the caller: baton_kv_session_close.
 * Errors   PERMISSION: not the same key, an unknown peer. DEADLINE. IO: nobody listens. VERSION. */
BATON_API int32_t baton_kv_connect(baton_kv_endpoint*, const char* address, uint64_t deadline_ns, baton_kv_session** out, baton_error*);
/* What a peer must be, beside known. */
typedef struct baton_kv_connect_options {
  uint32_t struct_size; /* sizeof(baton_kv_connect_options); 0: this version's */
  uint32_t reserved;    /* 0 */
  const char* peer;     /* its name in the known-peers file; NULL: any */
  const char* role;     /* one of its roles, if its line names any; NULL: any */
} baton_kv_connect_options;

/* As baton_kv_connect, to that peer alone. NULL options: any.
 * Owner    the caller: baton_kv_session_close.
 * Errors   PERMISSION: another peer than that. INVALID_ARGUMENT: an endpoint without identities cannot tell. As baton_kv_connect. */
BATON_API int32_t baton_kv_connect_to(baton_kv_endpoint*, const char* address, const baton_kv_connect_options*, uint64_t deadline_ns, baton_kv_session** out,
                                      baton_error*);
/* The next peer that connected and is authenticated. Blocks by polling until there is one, or deadline_ns; 0 looks once.
 * Owner    the caller: baton_kv_session_close.
 * Errors   DEADLINE: nobody came; if a peer was refused meanwhile, the text says why. */
BATON_API int32_t baton_kv_accept(baton_kv_endpoint*, uint64_t deadline_ns, baton_kv_session** out, baton_error*);
/* Ends the session. Pushes over it fail, and so do grants bound to it that are not complete; their handles stay good.
 * Cost     may block: 1 s a push whose writes are in flight. */
BATON_API void baton_kv_session_close(baton_kv_session*);

/* Who a session's peer is. */
typedef struct baton_kv_session_info {
  uint32_t struct_size; /* sizeof(baton_kv_session_info), set by the caller; 0: this version's */
  uint32_t same_host;   /* 1: memory can be shared with it */
  char name[64];        /* as the peer told, authenticated */
  char address[64];     /* of its end */
  char epoch[40];       /* 32 hex digits: another once the peer was restarted */
  char peer[72];        /* its name in the known-peers file; "" without identities, as the next two */
  char fingerprint[40]; /* of its public key */
  char roles[128];      /* of its line, with commas */
  uint32_t bulk_sealed; /* 1: KV that goes to another host by this session is encrypted */
  uint32_t reserved;    /* 0 */
} baton_kv_session_info;

/* Fills `out`.
 * Errors   the first cause, once the session is lost; `out` is filled all the same. */
BATON_API int32_t baton_kv_session_read(const baton_kv_session*, baton_kv_session_info* out, baton_error*);
/* Sends a notification: a short type ("done", any text but one that begins with "baton.") and some bytes. The peer's baton_kv_poll shows it, in order
 * with others of the session and authenticated. It is not ordered against the bytes of a push: for that there is baton_kv_push_seal.
 * Cost     microseconds; queued if the socket is full.
 * Errors   INVALID_ARGUMENT: a reserved type, or more than BATON_KV_NOTE_BYTES. PEER_LOST. CAPACITY: 256 MiB are queued. */
BATON_API int32_t baton_kv_notify(baton_kv_session*, const char* type, const void* bytes, uint64_t count, baton_error*);

/* ---- register: pools --------------------------------------------------------------------------------------------- */

/* Where a pool's memory is. */
typedef enum baton_kv_memory_kind {
  BATON_KV_MEMORY_HOST = 1,   /* `base`, `bytes`: any memory of this process */
  BATON_KV_MEMORY_FD = 2,     /* `fd`, `fd_offset`, `bytes`: a memfd, or a dma-buf that can be mapped; `base`: where the caller has mapped it, NULL: not yet */
  BATON_KV_MEMORY_BUFFER = 3, /* `buffer`: of a heap that is mappable */
} baton_kv_memory_kind;

/* What a pool is made of. The fabric "mapped" (one copy between two processes of a host) fills pools that are a memfd or an exportable buffer;
 * others are filled by "tcp" or "shm". */
typedef struct baton_kv_pool_options {
  uint32_t struct_size;          /* sizeof(baton_kv_pool_options); 0: this version's */
  uint32_t memory;               /* baton_kv_memory_kind */
  void* base;                    /* the first byte */
  uint64_t bytes;                /* at least the layout's; not of a buffer */
  baton_buffer* buffer;          /* kept by the caller until the pool is unregistered */
  uint64_t fd_offset;            /* of the first byte in `fd` */
  int32_t fd;                    /* not consumed */
  uint32_t reserved;             /* 0 */
  const baton_kv_layout* layout; /* how the blocks lie */
  const char* model;             /* hash of config and weights: a push of another is refused. NULL: "" */
} baton_kv_pool_options;

/* Registers memory: blocks of it can be granted and pushed. Nothing of it is disclosed to a peer before a push of a granted ticket was agreed on.
 * Owner    the caller keeps the memory until baton_kv_unregister.
 * Cost     a mapping, if it is a descriptor that is not mapped. The fabrics register it at the first push, once.
 * Errors   INVALID_ARGUMENT: too few bytes for the layout, a layout that contradicts itself. UNSUPPORTED: memory that cannot be mapped. IO. */
BATON_API int32_t baton_kv_register(baton_kv_endpoint*, const baton_kv_pool_options*, baton_kv_pool** out, baton_error*);
/* Gives the pool up. Grants of it and pushes from it fail with CANCELLED; their handles stay good. The memory is the caller's again on return;
 * but a peer on this host may finish the piece that it is copying into a grant: cancel, and wait for QUIET before.
 * Cost     may block: 1 s a push whose writes are in flight. */
BATON_API void baton_kv_unregister(baton_kv_pool*);
/* Says that these blocks belong to another request from now on. Call it before anything is written into them: pushes and holds that were begun with one
 * of them fail with CORRUPT instead of sending what is not theirs, and grants that have one are no longer intact. Granting does it by itself.
 * Cost     nanoseconds a block.
 * Errors   INVALID_ARGUMENT: a block that is not of the pool. */
BATON_API int32_t baton_kv_renew(baton_kv_pool*, const int32_t* blocks, uint64_t block_count, baton_error*);
/* The pool's first byte in this process. NULL for NULL. */
BATON_API void* baton_kv_pool_base(const baton_kv_pool*);

/* ---- grant: the decode side ---------------------------------------------------------------------------------------- */

/* What is granted. */
typedef struct baton_kv_grant_options {
  uint32_t struct_size;      /* sizeof(baton_kv_grant_options); 0: this version's */
  uint32_t reserved;         /* 0 */
  baton_kv_session* session; /* the grant fails if this is lost before the push began; NULL: whoever has the ticket, until the deadline */
  const int32_t* blocks;     /* of the pool, in the order of their tokens */
  uint64_t block_count;      /* enough for `tokens` */
  uint64_t tokens;           /* of the request, from its first on */
  uint64_t held_tokens;      /* of them, those that the blocks have already (a prefix hit, an earlier chunk): they do not come */
  uint64_t deadline_ns;      /* CLOCK_MONOTONIC: fails with DEADLINE at the first poll after it, if it is not complete; 0: never */
  uint64_t user;             /* the caller's, in its events */
} baton_kv_grant_options;

/* Grants blocks to one push. Its events: LANDED as layers come, then COMPLETE; or FAILED, then QUIET.
 * Owner    the caller: baton_kv_grant_release. The blocks must not be used from here until COMPLETE or QUIET; tokens that are
 *          held stay as they are.
 * Errors   INVALID_ARGUMENT: a block that is not of the pool or given twice, too few for the tokens. BUSY: a block of a failed grant that is not quiet. */
BATON_API int32_t baton_kv_grant_blocks(baton_kv_pool*, const baton_kv_grant_options*, baton_kv_grant** out, baton_error*);
/* The ticket: 32 hex digits, good for one push. Who has it and a session may fill these blocks and no others. The grant's. "" for NULL. */
BATON_API const char* baton_kv_grant_ticket(const baton_kv_grant*);
/* A timeline at the number of layers that are there, of those that the pool holds; poisoned if the grant fails. For ops of this instance that wait.
 * Owner    the grant. NULL for NULL. */
BATON_API baton_timeline* baton_kv_grant_landed(const baton_kv_grant*);
/* Asks for a hold of that peer's to be pushed into the grant: the holding side's library answers, no event is seen there. The hold must be tracked.
 * The grant is bound to the session from here on. Of one request several grants may be pulled, one after another or at once.
 * Errors   NOT_FOUND: it is not tracked. BUSY: the grant was asked for already. PEER_LOST. */
BATON_API int32_t baton_kv_pull_hold(baton_kv_grant*, const char* hold, baton_error*);
/* Asks the peer to push into the grant: its poll shows a PULL with these bytes, which say what is wanted in the caller's own words, and the ticket.
 * The grant is bound to the session from here on.
 * Errors   BUSY: it was asked for already. PEER_LOST. INVALID_ARGUMENT: more than BATON_KV_NOTE_BYTES. */
BATON_API int32_t baton_kv_pull(baton_kv_grant*, baton_kv_session*, const void* bytes, uint64_t count, baton_error*);
/* Answers a PULL with no: the grant over there fails with this cause. `id`: the event's.
 * Errors   PEER_LOST. */
BATON_API int32_t baton_kv_refuse(baton_kv_session*, uint64_t id, const baton_error* why, baton_error*);
/* Fails the grant, here and on the pushing side. NULL `why`: CANCELLED. A complete grant stays complete. */
BATON_API void baton_kv_grant_cancel(baton_kv_grant*, const baton_error* why);
/* 1 once nobody can write into the blocks any more: after COMPLETE, and after FAILED when the peer has stopped or its process is gone. */
BATON_API uint32_t baton_kv_grant_quiet(baton_kv_grant*);
/* Are the blocks still this request's? Ask before what has landed is decoded, and after it was read.
 * Errors   CORRUPT: one was granted again, or renewed; it is named. */
BATON_API int32_t baton_kv_grant_intact(baton_kv_grant*, baton_error*);
/* Gives the handle up; what is not complete is cancelled. Its blocks are refused to the next grant until they are quiet. */
BATON_API void baton_kv_grant_release(baton_kv_grant*);

/* ---- push: the prefill side ---------------------------------------------------------------------------------------- */

/* The blocks of one rank. */
typedef struct baton_kv_source {
  baton_kv_pool* pool;   /* all sources of a push have one model */
  const int32_t* blocks; /* of the pool, in the order of their tokens */
  uint64_t block_count;  /* enough for the tokens */
} baton_kv_source;

/* Whether the layers of a source go out together, and land and are sent together, once the last of them was pushed: less to wait for than by layers, where
 * prefill is quick. No layer may then wait for another one's. */
typedef enum baton_kv_bulk {
  BATON_KV_BULK_NEVER = 0,  /* by layers */
  BATON_KV_BULK_MODEL = 1,  /* if the model of the link says that all of it moves in less than the time from a push to its being seen */
  BATON_KV_BULK_ALWAYS = 2, /* together */
} baton_kv_bulk;

/* What is pushed. */
typedef struct baton_kv_push_options {
  uint32_t struct_size;           /* sizeof(baton_kv_push_options); 0: this version's */
  uint32_t source_count;          /* 1 to 64: of ranks that hold the same head, the first sends it */
  const baton_kv_source* sources; /* source_count of them */
  const char* ticket;             /* of the decode side */
  const char* fabric;             /* "mapped", "shm", "tcp", "auto"; NULL: auto */
  uint64_t tokens;                /* as the ticket is for: also those that are held over there */
  uint64_t deadline_ns;           /* CLOCK_MONOTONIC, of the agreement; 0: 5 s from now */
  uint64_t user;                  /* the caller's, in its events */
  uint32_t checksum;              /* 1: each layer lands only if the sums of both sides are equal, else CORRUPT: a pass over the bytes on both */
  uint32_t reserved;              /* 0 */
  uint32_t bulk;                  /* baton_kv_bulk */
  uint32_t reserved2;             /* 0 */
} baton_kv_push_options;

/* Begins to agree with the decode side on layouts, plan and fabric, and returns at once. Its events: READY with its `layers` once that is done, SENT, then
 * COMPLETE after a seal; or FAILED. Layers may be pushed before READY, and the push sealed: they go out from then on. FAILED says what baton_kv_push_open
 * returns, and INVALID_ARGUMENT if a layer was pushed that the decode side turns out not to have.
 * Owner    the caller: baton_kv_push_release. The pools' blocks must stay as they are until they are sent; points that layers wait for, until READY.
 * Errors   what is wrong on this side: INVALID_ARGUMENT, MISMATCH of the sources' models, UNSUPPORTED: the fabric. PEER_LOST. */
BATON_API int32_t baton_kv_push_begin(baton_kv_session*, const baton_kv_push_options*, baton_kv_push** out, baton_error*);
/* The same, and blocks by polling until it is done: one round trip, in which the peer must poll; the first of a session connects the fabric. No READY is told.
 * Owner    the caller: baton_kv_push_release. The pools' blocks must stay as they are until they are sent.
 * Errors   MISMATCH: layout, model or tokens, the first difference named. PERMISSION: an unknown or used ticket. PEER_LOST. UNSUPPORTED: the fabric,
 *          with the reason. DEADLINE. */
BATON_API int32_t baton_kv_push_open(baton_kv_session*, const baton_kv_push_options*, baton_kv_push** out, baton_error*);
/* How many layers each source has to push: those that the decode side's pool holds. 0 for NULL, and before READY. */
BATON_API uint32_t baton_kv_push_layers(const baton_kv_push*);
/* Sends one layer of one source, once: layer 0 is the first that the decode side holds. `wait` (may be NULL): a point of this instance's after which the
 * layer is there to be read. The bytes move in baton_kv_poll.
 * Cost     no allocation from the second layer on; a source that sends nothing of the layer is done at once.
 * Errors   INVALID_ARGUMENT: no such source or layer, or pushed already. What the push failed with. */
BATON_API int32_t baton_kv_push_layer(baton_kv_push*, uint32_t source, uint32_t layer, const baton_point* wait, baton_error*);
/* Sends every layer of every source that was not pushed yet. */
BATON_API int32_t baton_kv_push_all(baton_kv_push*, baton_error*);
/* Ends the push once all its layers are sent, with some bytes for the decode side (the first token, say): its grant is complete then. Returns at once.
 * Errors   BUSY: sealed already. INVALID_ARGUMENT: more than BATON_KV_NOTE_BYTES. What the push failed with. */
BATON_API int32_t baton_kv_push_seal(baton_kv_push*, const void* bytes, uint64_t count, baton_error*);
/* Fails the push, here and on the granting side. NULL `why`: CANCELLED. One that is complete stays complete. */
BATON_API void baton_kv_push_cancel(baton_kv_push*, const baton_error* why);
/* Gives the handle up; what is not complete is cancelled.
 * Cost     may block: 1 s for writes in flight. */
BATON_API void baton_kv_push_release(baton_kv_push*);

/* What moving so many bytes in so many runs costs by the model of a link (NULL: "efa-trn2"; transport/links.json has each constant and its source), in ns.
 * Threads  any; no state.
 * Errors   NOT_FOUND: no such link; the text names those that there are. */
BATON_API int32_t baton_kv_link_cost(const char* link, uint64_t bytes, uint64_t segments, uint64_t* ns, baton_error*);

/* What a grant or a push has moved. */
typedef struct baton_kv_stats {
  uint32_t struct_size; /* sizeof(baton_kv_stats), set by the caller; 0: this version's */
  uint32_t reserved;    /* 0 */
  uint64_t bytes;       /* of the cache */
  uint64_t segments;    /* runs of bytes, by the plan */
  uint64_t layers;      /* landed; of a push: sent, summed over its sources */
  char fabric[16];      /* "mapped"; "" before a push was agreed on */
  uint32_t bulk;        /* of a push, 1: layers go together */
  uint32_t reserved2;   /* 0 */
  uint32_t rails;       /* of a push: NICs that have carried some of it, where both sides have rails; else 0 */
  uint32_t reserved3;   /* 0 */
} baton_kv_stats;

/* Fills `out` with what came into the grant. */
BATON_API int32_t baton_kv_grant_stats(const baton_kv_grant*, baton_kv_stats* out, baton_error*);
/* Fills `out` with what the push sent. */
BATON_API int32_t baton_kv_push_stats(const baton_kv_push*, baton_kv_stats* out, baton_error*);

/* ---- hold: blocks that are kept until they are pulled ---------------------------------------------------------------- */

/* What is held. */
typedef struct baton_kv_hold_options {
  uint32_t struct_size;           /* sizeof(baton_kv_hold_options); 0: this version's */
  uint32_t source_count;          /* as of a push */
  const baton_kv_source* sources; /* source_count of them */
  const char* fabric;             /* as of a push */
  uint64_t tokens;                /* that the blocks have */
  uint64_t lease_ns;              /* it ends when nobody has kept it for so long; 0: 30 s */
  uint64_t extend_ns;             /* a beat keeps it for so long from then on; 0: 2/3 of the lease */
  uint64_t user;                  /* the caller's, in its events */
} baton_kv_hold_options;

/* Prefill side: keeps a request's blocks for whoever is told its id. Pulls are answered in baton_kv_poll. Its events: COMPLETE, pulled and confirmed; or
 * FAILED: DEADLINE, nobody kept it, or CANCELLED. After either the blocks are the caller's again, and not before.
 * Owner    the caller: baton_kv_hold_release. The blocks must stay as they are until its event.
 * Errors   INVALID_ARGUMENT: no sources or tokens, a block that is not of its pool, a lease under 1 ms. MISMATCH: the sources' models. */
BATON_API int32_t baton_kv_hold_blocks(baton_kv_endpoint*, const baton_kv_hold_options*, baton_kv_hold** out, baton_error*);
/* Its id: 32 hex digits, not to be guessed; for the decode side. The hold's. "" for NULL. */
BATON_API const char* baton_kv_hold_id(const baton_kv_hold*);
/* It is not wanted any more: FAILED with CANCELLED once nothing of it is under way. */
BATON_API void baton_kv_hold_cancel(baton_kv_hold*);
/* Gives the handle up, and the blocks back at once; what is not over is cancelled.
 * Cost     may block: 1 s a pull whose writes are in flight. */
BATON_API void baton_kv_hold_release(baton_kv_hold*);
/* Decode side: keeps a hold of that peer's alive by heartbeats, until it is confirmed or untracked or the session is lost. The first goes at once. If the
 * peer does not hold it, or no longer, there is an UNHELD.
 * Errors   PEER_LOST. INVALID_ARGUMENT: an id that is none. */
BATON_API int32_t baton_kv_track(baton_kv_session*, const char* hold, baton_error*);
/* Decode side: everything is here, after COMPLETE of what was pulled of it; the holding side may free it. Not of one that is tracked: nothing. */
BATON_API void baton_kv_confirm(baton_kv_endpoint*, const char* hold);
/* Decode side: it is not wanted any more; its lease runs out. */
BATON_API void baton_kv_untrack(baton_kv_endpoint*, const char* hold);

/* ---- lend: blocks that are read where they are -------------------------------------------------------------------------- */

/* Prefill side: lets the peer's borrower of that name (NULL: "kv") read the pool in place, on one host, and returns at once. Its events: READY; RETURNED for
 * each loan; FAILED if the borrower did not come or is gone: all its blocks are the caller's then, and check says so to who still reads.
 * The pool's memory is a memfd or an exportable buffer. `deadline_ns`: for READY; 0: 5 s from now.
 * Owner    the caller: baton_kv_lender_close.
 * Errors   UNSUPPORTED: another host, memory that cannot be shared. PEER_LOST. */
BATON_API int32_t baton_kv_lender_open(baton_kv_session*, baton_kv_pool*, const char* name, uint64_t deadline_ns, baton_kv_lender** out, baton_error*);
/* Lends blocks that have so many tokens; `user` goes with them. `loan` is set to its id.
 * Cost     2 ns a block; no system call unless the borrower sleeps.
 * Errors   BUSY: not READY, or 1024 loans are out. INVALID_ARGUMENT. What the lender failed with. */
BATON_API int32_t baton_kv_lend(baton_kv_lender*, const int32_t* blocks, uint64_t block_count, uint64_t tokens, uint64_t user, uint64_t* loan, baton_error*);
/* Takes a loan back: its blocks are the caller's at once, and no RETURNED is told. */
BATON_API void baton_kv_recall(baton_kv_lender*, uint64_t loan);
/* Recalls what is out, and gives the handle up. */
BATON_API void baton_kv_lender_close(baton_kv_lender*);

/* Decode side: what is lent to this session under that name (NULL: "kv") is read in place. `layout` is what this side can read; its `blocks` may be 0: any.
 * `model` as a pool's. Its events: READY, then LOAN for each. A lender whose process ends leaves its memory: loans stay good until they are recalled.
 * Owner    the caller: baton_kv_borrower_close; what it read from is unmapped then.
 * Errors   PEER_LOST. INVALID_ARGUMENT: the layout. */
BATON_API int32_t baton_kv_borrower_open(baton_kv_session*, const baton_kv_layout* layout, const char* model, const char* name, baton_kv_borrower** out,
                                         baton_error*);
/* Where the lender's pool is, to be read only, and its layout, blocks and all; each may be NULL.
 * Errors   BUSY: not READY. */
BATON_API int32_t baton_kv_borrower_memory(const baton_kv_borrower*, const void** base, baton_kv_layout* layout, baton_error*);
/* After reading a loan's blocks and before using what was read: 0 if nothing can have changed meanwhile.
 * Errors   CANCELLED: it was recalled. NOT_FOUND: no such loan. */
BATON_API int32_t baton_kv_loan_check(const baton_kv_borrower*, uint64_t loan, baton_error*);
/* Gives a loan back: its blocks are the lender's. */
BATON_API void baton_kv_loan_return(baton_kv_borrower*, uint64_t loan);
/* Gives the handle up, and the loans. */
BATON_API void baton_kv_borrower_close(baton_kv_borrower*);

/* ---- poll --------------------------------------------------------------------------------------------------------- */

/* What happened. New kinds are added at the end: skip what is not known. */
typedef enum baton_kv_event_kind {
  BATON_KV_EVENT_LANDED = 1,    /* grant: its first `layers` layers are there, from all sources. One event may stand for several layers */
  BATON_KV_EVENT_COMPLETE = 2,  /* grant: all is there, `bytes` is what the push was sealed with. push: all is sent and the seal is on its way. hold: confirmed */
  BATON_KV_EVENT_FAILED = 3,    /* grant, push, hold or lender: `error` is why */
  BATON_KV_EVENT_QUIET = 4,     /* grant, after FAILED: nobody can write into the blocks any more */
  BATON_KV_EVENT_SENT = 5,      /* push: `layers` layers, summed over its sources, are sent and visible; their blocks may be used again */
  BATON_KV_EVENT_PULL = 6,      /* session: the peer asks for the first `tokens` tokens of a request but for `held_tokens`, into the ticket `text`; `bytes` say of what */
  BATON_KV_EVENT_NOTE = 7,      /* session: a notification of type `text` with `bytes` */
  BATON_KV_EVENT_PEER_LOST = 8, /* session: `error` is why; it takes nothing any more and is to be closed */
  BATON_KV_EVENT_READY = 9,     /* push, after baton_kv_push_begin: agreed, `layers` as baton_kv_push_layers. lender, borrower: the pool is mapped over there, here */
  BATON_KV_EVENT_UNHELD = 10,   /* session: the peer does not hold, or no longer, the hold `text` that was tracked; `error` is why */
  BATON_KV_EVENT_LOAN = 11,     /* borrower: the loan `id` of `tokens` tokens in `blocks`, with the lender's `user` */
  BATON_KV_EVENT_RETURNED = 12, /* lender: the loan `id` came back */
} baton_kv_event_kind;

/* One event. What it points to is the endpoint's, good until the next poll, wait or close. Fields that the kind does not name are 0.
 * In an array the first one's struct_size is the stride. */
typedef struct baton_kv_event {
  uint32_t struct_size;      /* sizeof(baton_kv_event), set by the caller on the first; 0: this version's */
  uint32_t kind;             /* baton_kv_event_kind */
  baton_kv_session* session; /* whose it is; NULL of the others */
  baton_kv_grant* grant;     /* whose it is */
  baton_kv_push* push;       /* whose it is */
  uint64_t user;             /* of the grant, push, hold or loan */
  uint64_t id;               /* PULL: for baton_kv_refuse. LOAN, RETURNED: the loan */
  uint64_t layers;           /* LANDED, SENT, READY of a push */
  uint64_t tokens;           /* PULL, LOAN */
  uint64_t held_tokens;      /* PULL */
  const char* text;          /* PULL: ticket. NOTE: type. UNHELD: the hold's id */
  const void* bytes;         /* PULL, NOTE, COMPLETE of a grant; may be NULL */
  uint64_t byte_count;       /* of `bytes` */
  const baton_error* error;  /* FAILED, PEER_LOST, UNHELD */
  baton_kv_hold* hold;       /* whose it is */
  baton_kv_lender* lender;   /* whose it is */
  baton_kv_borrower* borrower; /* whose it is */
  const int32_t* blocks;     /* LOAN: of the lender's pool, good until baton_kv_loan_return */
  uint64_t block_count;      /* of `blocks` */
} baton_kv_event;

/* Makes progress on everything of the instance, then fills at most `count` events and returns how many. What did not fit comes with the next call.
 * Cost     never sleeps; a look at each session, grant and push. Allocates for PULL, NOTE and COMPLETE alone. */
BATON_API uint32_t baton_kv_poll(baton_kv_endpoint*, baton_kv_event* events, uint32_t count);
/* Polls, spinning briefly and then asleep on the descriptor, until there is an event or CLOCK_MONOTONIC passes deadline_ns. Returns how many. */
BATON_API uint32_t baton_kv_wait(baton_kv_endpoint*, baton_kv_event* events, uint32_t count, uint64_t deadline_ns);

#ifdef __cplusplus
}
#endif
#endif
