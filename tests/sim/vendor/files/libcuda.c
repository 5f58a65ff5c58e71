/* A simulated libcuda.so.1: enough to ask whether CUDA could start on this host.
 *
 * cuInit answers as the driver does: 100 no device, 802 fabric not up on an NVSwitch host, 803 other
 * driver loaded, 999 no driver (CUDA driver API, CUresult). It runs no kernels and exports no more.
 * -DVERSION and -DCUDA as for nvml.c. */
#include "sim.h"

int cuDriverGetVersion(int *version) { *version = CUDA; return 0; }

int cuInit(unsigned int flags) {
  char value[64];
  int numbers[SIM_MAX_GPUS];
  (void)flags;
  if (!sim_loaded(value, sizeof value)) return sim_pci_count("0x030200") ? 999 : 100;
  if (strcmp(value, VERSION)) return 803;
  if (!sim_gpus(numbers)) return 100;
  if (sim_pci_count("0x068000"))
    if (!sim_read("/run/sim/nvml/0/fabric_state", value, sizeof value) || atoi(value) != 3) return 802;
  return 0;
}

int cuDeviceGetCount(int *count) {
  int numbers[SIM_MAX_GPUS], code = cuInit(0);
  *count = code ? 0 : sim_gpus(numbers);
  return code;
}
