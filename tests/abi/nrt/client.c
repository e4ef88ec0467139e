/* A program on the Neuron runtime, by the calls of its public documentation alone: loads a NEFF with an input "x" and an output "y" of 16 floats,
 * runs it on core 0 and prints y.      cc client.c -lnrt && ./a.out double.neff */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct nrt_model nrt_model_t;
typedef struct nrt_tensor nrt_tensor_t;
int nrt_init(int framework, const char* framework_version, const char* fal_version);
void nrt_close(void);
int nrt_load(const void* neff, size_t size, int32_t vnc, int32_t vnc_count, nrt_model_t** model);
int nrt_unload(nrt_model_t* model);
int nrt_allocate_tensor_set(void** set);
int nrt_add_tensor_to_tensor_set(void* set, const char* name, nrt_tensor_t* tensor);
int nrt_tensor_allocate(int placement, int vnc, size_t size, const char* name, nrt_tensor_t** tensor);
int nrt_tensor_write(nrt_tensor_t* tensor, const void* buffer, size_t offset, size_t size);
int nrt_tensor_read(const nrt_tensor_t* tensor, void* buffer, size_t offset, size_t size);
int nrt_execute(nrt_model_t* model, const void* inputs, void* outputs);

static void check(int status, const char* call) {
  if (!status) return;
  fprintf(stderr, "%s: status %d\n", call, status);
  exit(1);
}

int main(int argc, char** argv) {
  static char neff[1 << 20];
  FILE* file = argc > 1 ? fopen(argv[1], "rb") : NULL;
  size_t size = file ? fread(neff, 1, sizeof neff, file) : 0;
  float x[16], y[16];
  nrt_model_t* model;
  nrt_tensor_t *in, *out;
  void *inputs, *outputs;
  if (file) fclose(file);
  for (int i = 0; i < 16; ++i) x[i] = (float)i;
  check(nrt_init(1 /* no framework */, "", ""), "nrt_init");
  check(nrt_load(neff, size, 0, -1, &model), "nrt_load");
  check(nrt_tensor_allocate(0 /* device */, 0, sizeof x, "x", &in), "nrt_tensor_allocate");
  check(nrt_tensor_allocate(0, 0, sizeof y, "y", &out), "nrt_tensor_allocate");
  check(nrt_allocate_tensor_set(&inputs), "nrt_allocate_tensor_set");
  check(nrt_allocate_tensor_set(&outputs), "nrt_allocate_tensor_set");
  check(nrt_add_tensor_to_tensor_set(inputs, "x", in), "nrt_add_tensor_to_tensor_set");
  check(nrt_add_tensor_to_tensor_set(outputs, "y", out), "nrt_add_tensor_to_tensor_set");
  check(nrt_tensor_write(in, x, 0, sizeof x), "nrt_tensor_write");
  check(nrt_execute(model, inputs, outputs), "nrt_execute");
  check(nrt_tensor_read(out, y, 0, sizeof y), "nrt_tensor_read");
  for (int i = 0; i < 16; ++i) printf("%g%c", (double)y[i], i < 15 ? ' ' : '\n');
  check(nrt_unload(model), "nrt_unload");
  nrt_close();
  return 0;
}
