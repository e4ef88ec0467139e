/* json.h: a portable program from JSON: for tools, and for languages that have no Builder (Python). C11.
 *
 * Values are named where program.hpp counts, everything has the names and defaults of baton::program::Program, Value, Op and KvView;
 * axes that a launch decides are "tokens" and "steps". A field that is not known is refused.
 *
 *     const char* json =
 *         "{\"name\": \"project\", \"max_tokens\": 8, \"args\": [\"tokens\"],"
 *         " \"values\": [{\"name\": \"x\", \"dtype\": \"f32\", \"storage\": \"input\", \"shape\": [\"tokens\", 64]},"
 *         "            {\"name\": \"w\", \"dtype\": \"bf16\", \"storage\": \"constant\", \"shape\": [32, 64]},"
 *         "            {\"name\": \"y\", \"dtype\": \"f32\", \"storage\": \"output\", \"shape\": [\"tokens\", 32]}],"
 *         " \"ops\": [{\"op\": \"matmul\", \"in\": [\"x\", \"w\"], \"out\": [\"y\"], \"act\": \"bf16\"}]}";
 *     baton_error err = {.struct_size = sizeof err};
 *     uint8_t program[4096];
 *     uint64_t bytes;
 *     if (baton_program_from_json(json, program, sizeof program, &bytes, &err)) return err.code;
 *
 * In libbaton-program.so, which needs nothing of libbaton.
 */
#ifndef BATON_PROGRAM_JSON_H
#define BATON_PROGRAM_JSON_H

#include "hal/baton.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Verifies the program and writes what baton_load takes: at most `out_bytes` of it to `out` (NULL: none), its length to `bytes`. Longer
 * than `out_bytes`: call again with as much.
 * Owner    the caller's memory.
 * Threads  any; no state.
 * Errors   CORRUPT: not JSON. INVALID_ARGUMENT: a field, a name or the program itself, which is named. */
BATON_API int32_t baton_program_from_json(const char* json, void* out, uint64_t out_bytes, uint64_t* bytes, baton_error*);

#ifdef __cplusplus
}
#endif
#endif
