/* How every simulated program reads the simulated host: one value per file.
 *
 * $SIM_ROOT is put before each path, so that the programs can be tried without a node:
 *   /run/sim/nvml/<index>/<name>     what a GPU reports     /sys/module/nvidia/version   loaded driver
 *   /sys/bus/pci/devices/<slot>/     PCI functions          /dev/nvidia*                 device files */
#ifndef SIM_H
#define SIM_H
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static inline const char *sim_path(char *out, size_t size, const char *path) {
  const char *root = getenv("SIM_ROOT");
  snprintf(out, size, "%s%s", root ? root : "", path);
  return out;
}

/* First line of a file, without its end; 0 when there is no such file. */
static inline int sim_read(const char *path, char *out, size_t size) {
  char full[512];
  FILE *file = fopen(sim_path(full, sizeof full, path), "r");
  if (!file) return 0;
  if (!fgets(out, (int)size, file)) out[0] = 0;
  fclose(file);
  out[strcspn(out, "\r\n")] = 0;
  return 1;
}

static inline int sim_write(const char *path, const char *value) {
  char full[512];
  FILE *file = fopen(sim_path(full, sizeof full, path), "w");
  if (!file) return 0;
  fprintf(file, "%s\n", value);
  return fclose(file) == 0;
}

/* 1 and the version when the nvidia module is loaded. */
static inline int sim_loaded(char *out, size_t size) {
  return sim_read("/sys/module/nvidia/version", out, size) && out[0];
}

#define SIM_MAX_GPUS 16

/* 1 unless the PCI tree shows this function bound to another driver than nvidia, or to none. */
static inline int sim_bound(const char *slot) {
  char full[512], path[128], link[256];
  FILE *known;
  snprintf(path, sizeof path, "/sys/bus/pci/devices/%.32s/vendor", slot);
  if (!(known = fopen(sim_path(full, sizeof full, path), "r"))) /* gone, or no PCI tree at all */
    return access(sim_path(full, sizeof full, "/sys/bus/pci/devices"), F_OK) != 0;
  fclose(known);
  snprintf(path, sizeof path, "/sys/bus/pci/devices/%.32s/driver", slot);
  ssize_t length = readlink(sim_path(full, sizeof full, path), link, sizeof link - 1);
  if (length < 0) return 0;
  link[length] = 0;
  const char *name = strrchr(link, '/');
  return !strcmp(name ? name + 1 : link, "nvidia");
}

/* The GPUs that the nvidia driver has, by their number in the tree, which is their minor number. */
static inline int sim_gpus(int numbers[SIM_MAX_GPUS]) {
  char path[64], slot[64];
  int count = 0;
  for (int i = 0; i < SIM_MAX_GPUS; i++) {
    snprintf(path, sizeof path, "/run/sim/nvml/%d/pci_bus_id", i);
    if (!sim_read(path, slot, sizeof slot)) break;
    if (sim_bound(slot)) numbers[count++] = i;
  }
  return count;
}

/* PCI functions of one NVIDIA class, e.g. 0x068000 for an NVSwitch. */
static inline int sim_pci_count(const char *wanted) {
  char full[512], path[400], value[32];
  int count = 0;
  DIR *bus = opendir(sim_path(full, sizeof full, "/sys/bus/pci/devices"));
  if (!bus) return 0;
  for (struct dirent *entry; (entry = readdir(bus));) {
    snprintf(path, sizeof path, "/sys/bus/pci/devices/%.60s/vendor", entry->d_name);
    if (!sim_read(path, value, sizeof value) || strcmp(value, "0x10de")) continue;
    snprintf(path, sizeof path, "/sys/bus/pci/devices/%.60s/class", entry->d_name);
    if (sim_read(path, value, sizeof value) && !strcmp(value, wanted)) count++;
  }
  closedir(bus);
  return count;
}
#endif
