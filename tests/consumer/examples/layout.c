/* layout.c: can a KV-cache of one layout be moved into a pool of another? By baton_kv.h, the transport's C ABI.
 *
 *     layout "kv/1 layers=2 kv_heads=2 head_dim=64 blocks=9" "kv/1 layers=2 kv_heads=2 head_dim=64 blocks=3 block_tokens=64 order=head_major"
 */
#include "transport/baton_kv.h"

#include <stdio.h>

int main(int argc, char** argv) {
  baton_error e = {.struct_size = sizeof e};
  baton_kv_layout from = {.struct_size = sizeof from}, to = {.struct_size = sizeof to};
  char text[2][512];
  uint64_t bytes = 0;
  if (argc != 3) {
    fprintf(stderr, "usage: layout SOURCE TARGET, each a line of text or a JSON object\n");
    return 2;
  }
  /* Read both, then say them again in the one stable form: what was left out is filled in. */
  if (baton_kv_layout_parse(argv[1], 0, &from, &e) || baton_kv_layout_text(&from, text[0], sizeof text[0], NULL, &e) || baton_kv_layout_facts(&from, NULL, &bytes, &e) ||
      baton_kv_layout_parse(argv[2], 0, &to, &e) || baton_kv_layout_text(&to, text[1], sizeof text[1], NULL, &e)) {
    fprintf(stderr, "%s: %s\nnext: %s\n", baton_code_name(e.code), e.what, e.next);
    return 1;
  }
  if (baton_kv_layout_compare(&from, &to, &e)) {
    printf("%s\ncannot go to\n%s:\n%s\n", text[0], text[1], e.what);
    return 1;
  }
  printf("%s (%llu bytes)\nmoves into\n%s\n", text[0], (unsigned long long)bytes, text[1]);
  return 0;
}
