/* A simulated NVML: libnvidia-ml.so.1 for hosts whose GPUs are files (see sim.h).
 *
 * Compiled once per driver version with -DVERSION="\"580.178.04\"" -DCUDA=13000. What is not listed
 * here is not exported, so that a caller sees FUNCTION_NOT_FOUND and never an invented answer.
 * Layouts and codes: NVIDIA's NVML API as nvidia-ml-py 13.615 declares it (research: verification 6).
 *
 * A GPU that the PCI tree shows bound to another driver, or to none, is not there for NVML.
 * Files of a GPU that must exist: name uuid serial pci_bus_id memory_mib cc_major cc_minor.
 * Optional, with the default of a healthy idle GPU: everything else that is read below. */
#include "sim.h"
#include <stdint.h>

enum {
  OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4,
  NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, LIB_RM_VERSION_MISMATCH = 18,
  GPU_IS_LOST = 15, IN_USE = 19, ARGUMENT_VERSION_MISMATCH = 25
};
#define MIB (1024ull * 1024ull)
typedef struct device { int index, number; } *device_t; /* in NVML's order, in the tree */
typedef unsigned int u32;
typedef unsigned long long u64;
static struct device devices[SIM_MAX_GPUS];
static int gpu_count = -1; /* -1: not initialised */

/* ---- reading one value of one GPU ---------------------------------------------------------- */

static int text(device_t d, const char *name, char *out, size_t size) {
  char path[96];
  snprintf(path, sizeof path, "/run/sim/nvml/%d/%s", d->number, name);
  return sim_read(path, out, size);
}
static u64 number(device_t d, const char *name, u64 otherwise) {
  char value[64];
  return text(d, name, value, sizeof value) && value[0] ? strtoull(value, 0, 0) : otherwise;
}
static int valid(device_t d) {
  if (gpu_count < 0) return UNINITIALIZED;
  if (d < devices || d >= devices + gpu_count) return INVALID_ARGUMENT;
  return number(d, "lost", 0) ? GPU_IS_LOST : OK;
}
#define REQUIRE(d) do { int code = valid(d); if (code) return code; } while (0)
static int cc(device_t d) { return (int)(10 * number(d, "cc_major", 0) + number(d, "cc_minor", 0)); }
static int copy(const char *value, char *out, u32 size) {
  if (strlen(value) + 1 > size) return INSUFFICIENT_SIZE;
  strcpy(out, value);
  return OK;
}
static int copy_file(device_t d, const char *name, const char *otherwise, char *out, u32 size) {
  char value[128];
  REQUIRE(d);
  if (!text(d, name, value, sizeof value) || !value[0]) {
    if (!otherwise) return NOT_SUPPORTED;
    snprintf(value, sizeof value, "%s", otherwise);
  }
  return copy(value, out, size);
}

/* ---- library and system -------------------------------------------------------------------- */

int nvmlInitWithFlags(u32 flags) {
  char value[64];
  (void)flags;
  if (sim_read("/run/sim/nvml/hang_s", value, sizeof value) && atof(value) > 0)
    usleep((useconds_t)(atof(value) * 1e6));
  if (!sim_loaded(value, sizeof value)) return DRIVER_NOT_LOADED;
  if (strcmp(value, VERSION)) return LIB_RM_VERSION_MISMATCH;
  int numbers[SIM_MAX_GPUS];
  gpu_count = sim_gpus(numbers);
  for (int i = 0; i < gpu_count; i++) devices[i] = (struct device){i, numbers[i]};
  return OK;
}
int nvmlInit(void) { return nvmlInitWithFlags(0); }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) {
  if (gpu_count < 0) return UNINITIALIZED;
  gpu_count = -1;
  return OK;
}
const char *nvmlErrorString(int code) {
  switch (code) {
    case OK: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NO_PERMISSION: return "Insufficient Permissions";
    case NOT_FOUND: return "Not Found";
    case INSUFFICIENT_SIZE: return "Insufficient Size";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
    case GPU_IS_LOST: return "GPU is lost";
    case IN_USE: return "In use by another client";
    case ARGUMENT_VERSION_MISMATCH: return "Argument version mismatch";
    default: return "Unknown Error";
  }
}
int nvmlSystemGetDriverVersion(char *out, u32 size) {
  return gpu_count < 0 ? UNINITIALIZED : copy(VERSION, out, size);
}
int nvmlSystemGetNVMLVersion(char *out, u32 size) { return copy(CUDA_MAJOR "." VERSION, out, size); }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { *out = CUDA; return OK; }
int nvmlSystemGetCudaDriverVersion(int *out) { *out = CUDA; return OK; }
int nvmlSystemGetProcessName(u32 pid, char *out, u32 size) {
  char path[32], value[256] = "";
  snprintf(path, sizeof path, "/proc/%u/comm", pid);
  FILE *file = fopen(path, "r");
  if (!file) return NOT_FOUND;
  if (!fgets(value, sizeof value, file)) value[0] = 0;
  fclose(file);
  value[strcspn(value, "\n")] = 0;
  return copy(value, out, size);
}

/* ---- finding a device ---------------------------------------------------------------------- */

int nvmlDeviceGetCount_v2(u32 *out) {
  if (gpu_count < 0) return UNINITIALIZED;
  *out = (u32)gpu_count;
  return OK;
}
int nvmlDeviceGetCount(u32 *out) { return nvmlDeviceGetCount_v2(out); }
int nvmlDeviceGetHandleByIndex_v2(u32 index, device_t *out) {
  if (gpu_count < 0) return UNINITIALIZED;
  if (index >= (u32)gpu_count) return INVALID_ARGUMENT;
  *out = &devices[index];
  return valid(*out);
}
int nvmlDeviceGetHandleByIndex(u32 index, device_t *out) {
  return nvmlDeviceGetHandleByIndex_v2(index, out);
}
static int find(const char *name, const char *wanted, device_t *out) {
  char value[128];
  if (gpu_count < 0) return UNINITIALIZED;
  for (int i = 0; i < gpu_count; i++)
    if (text(&devices[i], name, value, sizeof value)) {
      size_t a = strlen(value), b = strlen(wanted); /* bus ids: 0000:19:00.0 = 00000000:19:00.0 */
      const char *tail = a <= b ? wanted + b - a : wanted;
      if (!strcasecmp(value, a <= b ? tail : wanted) ||
          (b < a && !strcasecmp(value + a - b, wanted))) {
        *out = &devices[i];
        return valid(*out);
      }
    }
  return NOT_FOUND;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, device_t *out) { return find("uuid", uuid, out); }
int nvmlDeviceGetHandleBySerial(const char *s, device_t *out) { return find("serial", s, out); }
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, device_t *out) {
  return find("pci_bus_id", id, out);
}

/* ---- identity ------------------------------------------------------------------------------ */

int nvmlDeviceGetName(device_t d, char *out, u32 size) { return copy_file(d, "name", 0, out, size); }
int nvmlDeviceGetUUID(device_t d, char *out, u32 size) { return copy_file(d, "uuid", 0, out, size); }
int nvmlDeviceGetSerial(device_t d, char *out, u32 size) {
  return copy_file(d, "serial", 0, out, size);
}
int nvmlDeviceGetVbiosVersion(device_t d, char *out, u32 size) {
  return copy_file(d, "vbios", "96.00.A5.00.01", out, size);
}
int nvmlDeviceGetGspFirmwareVersion(device_t d, char *out) {
  REQUIRE(d);
  return cc(d) < 75 ? NOT_SUPPORTED : copy_file(d, "gsp_firmware", VERSION, out, 64);
}
int nvmlDeviceGetInforomImageVersion(device_t d, char *out, u32 size) {
  return copy_file(d, "inforom_image", "G520.0200.00.05", out, size);
}
int nvmlDeviceGetInforomVersion(device_t d, u32 object, char *out, u32 size) {
  static const char *names[] = {"inforom_oem", "inforom_ecc", "inforom_power"};
  static const char *healthy[] = {"2.1", "7.16", 0}; /* a power object is what few boards have */
  if (object > 2) return INVALID_ARGUMENT;
  return copy_file(d, names[object], healthy[object], out, size);
}
int nvmlDeviceGetBoardPartNumber(device_t d, char *out, u32 size) {
  return copy_file(d, "board_part", "692-2G520-0200-000", out, size);
}
int nvmlDeviceGetBoardId(device_t d, u32 *out) {
  REQUIRE(d);
  *out = (u32)number(d, "board_id", 0x1a00 + 0x1000 * (u32)d->number);
  return OK;
}
int nvmlDeviceGetNumGpuCores(device_t d, u32 *out) {
  REQUIRE(d);
  *out = (u32)number(d, "cores", cc(d) >= 100 ? 18944 : cc(d) == 90 ? 16896 : cc(d) == 89 ? 18176 : 5120);
  return OK;
}
/* Where a board sits in its chassis: rack-scale boards (Blackwell and newer) alone tell it. */
struct platform {
  u32 version;
  char guid[16], chassis[16];
  unsigned char slot, tray, host, peer, module;
};
int nvmlDeviceGetPlatformInfo(device_t d, struct platform *out) {
  if (out->version != 0x200002c) return ARGUMENT_VERSION_MISMATCH;
  REQUIRE(d);
  if (cc(d) < 100) return NOT_SUPPORTED;
  u32 version = out->version;
  memset(out, 0, sizeof *out);
  out->version = version;
  strcpy(out->chassis, "1820000000000");
  out->slot = 1, out->tray = 2, out->module = (unsigned char)(d->number + 1);
  return OK;
}
int nvmlDeviceGetIndex(device_t d, u32 *out) {
  REQUIRE(d);
  *out = (u32)d->index;
  return OK;
}
int nvmlDeviceGetMinorNumber(device_t d, u32 *out) {
  REQUIRE(d);
  *out = (u32)d->number;
  return OK;
}
int nvmlDeviceGetCudaComputeCapability(device_t d, int *major, int *minor) {
  REQUIRE(d);
  *major = cc(d) / 10;
  *minor = cc(d) % 10;
  return OK;
}
int nvmlDeviceGetArchitecture(device_t d, u32 *out) {
  REQUIRE(d);
  int c = cc(d);
  *out = c >= 100 ? 10 : c >= 90 ? 9 : c == 89 ? 8 : c >= 80 ? 7 : c >= 75 ? 6 : c >= 70 ? 5 : 4;
  return OK;
}
struct pci { char legacy[16]; u32 domain, bus, device, id, subsystem; char bus_id[32]; };
int nvmlDeviceGetPciInfo_v3(device_t d, struct pci *out) {
  char id[32], path[96], value[32];
  REQUIRE(d);
  if (!text(d, "pci_bus_id", id, sizeof id)) return NOT_SUPPORTED;
  memset(out, 0, sizeof *out);
  u32 function;
  if (sscanf(id, "%x:%x:%x.%x", &out->domain, &out->bus, &out->device, &function) != 4)
    return NOT_SUPPORTED;
  snprintf(out->legacy, sizeof out->legacy, "%04X:%02X:%02X.0", out->domain & 0xffff, out->bus & 0xff,
           out->device & 0x1f);
  snprintf(out->bus_id, sizeof out->bus_id, "%08X:%02X:%02X.0", out->domain, out->bus, out->device);
  snprintf(path, sizeof path, "/sys/bus/pci/devices/%04x:%02x:%02x.0/device", out->domain, out->bus,
           out->device);
  u32 model = sim_read(path, value, sizeof value) ? (u32)strtoul(value, 0, 16) : 0;
  out->id = model << 16 | 0x10de;
  return OK;
}

/* ---- memory, processes, modes -------------------------------------------------------------- */

struct memory { u64 total, free, used; };
struct memory_v2 { u32 version; u64 total, reserved, free, used; };
int nvmlDeviceGetMemoryInfo(device_t d, struct memory *out) {
  REQUIRE(d);
  out->total = number(d, "memory_mib", 0) * MIB;
  /* what the driver keeps for itself counts as used here, and has a name of its own in version 2 */
  out->used = (number(d, "memory_used_mib", 4) + number(d, "memory_reserved_mib", 560)) * MIB;
  out->free = out->total - out->used;
  return OK;
}
int nvmlDeviceGetMemoryInfo_v2(device_t d, struct memory_v2 *out) {
  struct memory plain;
  if (out->version != 0x2000028) return ARGUMENT_VERSION_MISMATCH;
  int code = nvmlDeviceGetMemoryInfo(d, &plain);
  if (code) return code;
  out->total = plain.total, out->free = plain.free;
  out->reserved = number(d, "memory_reserved_mib", 560) * MIB;
  out->used = plain.used - out->reserved;
  return OK;
}
int nvmlDeviceGetBAR1MemoryInfo(device_t d, struct memory *out) {
  return nvmlDeviceGetMemoryInfo(d, out);
}
struct process { u32 pid; u64 memory; u32 gpu_instance, compute_instance; };
/* Optional file `processes`: one line, pairs PID:MIB separated by blanks. */
int nvmlDeviceGetComputeRunningProcesses_v3(device_t d, u32 *count, struct process *out) {
  char line[1024] = "";
  u32 room = *count, found = 0;
  REQUIRE(d);
  text(d, "processes", line, sizeof line);
  for (char *rest = line, *word; (word = strtok_r(rest, " ", &rest));) {
    u32 pid, mib;
    if (sscanf(word, "%u:%u", &pid, &mib) != 2) continue;
    if (found < room) out[found] = (struct process){pid, mib * MIB, ~0u, ~0u};
    found++;
  }
  *count = found;
  return found > room ? INSUFFICIENT_SIZE : OK;
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(device_t d, u32 *count, struct process *out) {
  (void)out;
  REQUIRE(d);
  *count = 0;
  return OK;
}
int nvmlDeviceGetPersistenceMode(device_t d, u32 *out) {
  REQUIRE(d);
  *out = (u32)number(d, "persistence", 0);
  return OK;
}
int nvmlDeviceSetPersistenceMode(device_t d, u32 mode) {
  char path[96];
  REQUIRE(d);
  if (geteuid()) return NO_PERMISSION;
  snprintf(path, sizeof path, "/run/sim/nvml/%d/persistence", d->number);
  return sim_write(path, mode ? "1" : "0") ? OK : NO_PERMISSION;
}
int nvmlDeviceGetComputeMode(device_t d, u32 *out) {
  REQUIRE(d);
  *out = (u32)number(d, "compute_mode", 0);
  return OK;
}
int nvmlDeviceGetMigMode(device_t d, u32 *current, u32 *pending) {
  REQUIRE(d);
  if (cc(d) != 80 && cc(d) != 90 && cc(d) < 100) return NOT_SUPPORTED;
  *current = (u32)number(d, "mig_mode", 0);
  *pending = (u32)number(d, "mig_pending", *current);
  return OK;
}
/* One value that lasts as long as the driver is loaded. */
static int put(device_t d, const char *name, u32 value) {
  char path[96], line[16];
  if (geteuid() && !getenv("SIM_ROOT")) return NO_PERMISSION;
  snprintf(path, sizeof path, "/run/sim/nvml/%d/%s", d->number, name);
  snprintf(line, sizeof line, "%u", value);
  return sim_write(path, line) ? OK : NO_PERMISSION;
}
/* Another program that has the GPU's device file open; the driver's own daemon does not count. */
static int in_use(device_t d) {
  char wanted[64], path[300], link[256], name[32];
  snprintf(wanted, sizeof wanted, "/dev/nvidia%d", d->number);
  DIR *processes = opendir("/proc");
  int used = 0;
  for (struct dirent *one; processes && (one = readdir(processes));) {
    snprintf(path, sizeof path, "/proc/%.20s/comm", one->d_name);
    if (!atoi(one->d_name) || !sim_read(path, name, sizeof name)) continue;
    if (!strncmp(name, "nvidia-persiste", 15) || !strncmp(name, "nv-fabricmanage", 15)) continue;
    snprintf(path, sizeof path, "/proc/%.20s/fd", one->d_name);
    DIR *files = opendir(path);
    for (struct dirent *file; files && (file = readdir(files));) {
      snprintf(path, sizeof path, "/proc/%.20s/fd/%.20s", one->d_name, file->d_name);
      ssize_t length = readlink(path, link, sizeof link - 1);
      if (length > 0) link[length] = 0, used |= !strcmp(link, wanted);
    }
    if (files) closedir(files);
  }
  if (processes) closedir(processes);
  return used;
}
int nvmlDeviceSetMigMode(device_t d, u32 mode, u32 *activation) {
  u32 current, pending;
  int code = nvmlDeviceGetMigMode(d, &current, &pending);
  if (code) return code;
  *activation = current != mode && in_use(d) ? IN_USE : OK;
  code = put(d, "mig_pending", mode);
  return code || *activation ? code : put(d, "mig_mode", mode);
}
int nvmlDeviceGetMemoryBusWidth(device_t d, u32 *out) {
  REQUIRE(d);
  *out = (u32)number(d, "memory_bus_width", cc(d) == 89 ? 384 : cc(d) == 70 ? 4096 : cc(d) >= 100 ? 8192 : 5120);
  return OK;
}

/* ---- errors and repair --------------------------------------------------------------------- */

int nvmlDeviceGetEccMode(device_t d, u32 *current, u32 *pending) {
  REQUIRE(d);
  *current = (u32)number(d, "ecc_mode", 1);
  *pending = (u32)number(d, "ecc_pending", *current);
  return OK;
}
/* Kept by the board over boots, of which the next one makes it the mode (guest: hardware.py). */
int nvmlDeviceSetEccMode(device_t d, u32 mode) {
  char path[96];
  REQUIRE(d);
  int code = put(d, "ecc_pending", mode);
  snprintf(path, sizeof path, "/var/lib/sim/inforom/%d-ecc", d->number);
  return code ? code : sim_write(path, mode ? "1" : "0") ? OK : NO_PERMISSION;
}
static u64 ecc_errors(device_t d, u32 kind) {
  return number(d, kind ? "ecc_uncorrected" : "ecc_corrected", 0);
}
int nvmlDeviceGetTotalEccErrors(device_t d, u32 kind, u32 period, u64 *out) {
  (void)period;
  REQUIRE(d);
  *out = ecc_errors(d, kind);
  return OK;
}
int nvmlDeviceGetMemoryErrorCounter(device_t d, u32 kind, u32 period, u32 location, u64 *out) {
  REQUIRE(d);
  if (location != 2) return NOT_SUPPORTED; /* device memory only: that is where the count is put */
  return nvmlDeviceGetTotalEccErrors(d, kind, period, out);
}
/* counts: aggregate parity, SEC-DED, corrected; the same three volatile; five buckets of parity */
struct sram { u32 version; u64 counts[11]; u32 threshold_exceeded; };
int nvmlDeviceGetSramEccErrorStatus(device_t d, struct sram *out) {
  if (out->version != 0x1000068) return ARGUMENT_VERSION_MISMATCH;
  REQUIRE(d);
  if (cc(d) < 80) return NOT_SUPPORTED;
  memset(out->counts, 0, sizeof out->counts);
  out->counts[0] = number(d, "sram_parity", 0);
  out->counts[1] = number(d, "sram_secded", 0);
  out->threshold_exceeded = (u32)number(d, "sram_threshold_exceeded", 0);
  return OK;
}
int nvmlDeviceGetRemappedRows(device_t d, u32 *corrected, u32 *uncorrected, u32 *pending, u32 *failed) {
  REQUIRE(d);
  if (cc(d) < 80) return NOT_SUPPORTED; /* Volta and Turing retire pages instead */
  *corrected = (u32)number(d, "remap_corrected", 0);
  *uncorrected = (u32)number(d, "remap_uncorrected", 0);
  *pending = (u32)number(d, "remap_pending", 0);
  *failed = (u32)number(d, "remap_failed", 0);
  return OK;
}
struct histogram { u32 max, high, partial, low, none; };
int nvmlDeviceGetRowRemapperHistogram(device_t d, struct histogram *out) {
  REQUIRE(d);
  if (cc(d) < 80) return NOT_SUPPORTED;
  u32 banks = 640, bad = (u32)number(d, "remap_failed", 0);
  *out = (struct histogram){banks - bad, 0, 0, 0, bad};
  return OK;
}
int nvmlDeviceGetRetiredPages(device_t d, u32 cause, u32 *count, u64 *addresses) {
  (void)addresses;
  REQUIRE(d);
  if (cc(d) >= 80) return NOT_SUPPORTED;
  u32 found = (u32)number(d, cause ? "retired_double_bit" : "retired_single_bit", 0), room = *count;
  *count = found;
  if (found > room) return INSUFFICIENT_SIZE;
  for (u32 i = 0; i < found; i++) addresses[i] = 0x1000ull * (i + 1);
  return OK;
}
int nvmlDeviceGetRetiredPagesPendingStatus(device_t d, u32 *out) {
  REQUIRE(d);
  if (cc(d) >= 80) return NOT_SUPPORTED;
  *out = (u32)number(d, "retired_pending", 0);
  return OK;
}
struct repair { u32 version, channel_pending, tpc_pending; };
int nvmlDeviceGetRepairStatus(device_t d, struct repair *out) {
  REQUIRE(d);
  if (cc(d) < 90) return NOT_SUPPORTED;
  out->channel_pending = (u32)number(d, "channel_repair_pending", 0);
  out->tpc_pending = (u32)number(d, "tpc_repair_pending", 0);
  return OK;
}
static u32 nvlinks(device_t d) { /* SXM parts: V100 6, A100 12, H100 and B200 18 links */
  char name[96] = "";
  text(d, "name", name, sizeof name);
  int sxm = strstr(name, "SXM") || strstr(name, "HBM3") || strstr(name, "B200");
  int c = cc(d);
  return (u32)number(d, "nvlinks", !sxm ? 0 : c >= 90 ? 18 : c >= 80 ? 12 : 6);
}
struct field { u32 id, scope; int64_t timestamp, latency; u32 type, code; u64 value; };
int nvmlDeviceGetFieldValues(device_t d, int count, struct field *fields) {
  REQUIRE(d);
  for (int i = 0; i < count; i++) {
    fields[i].type = 1, fields[i].code = NOT_SUPPORTED, fields[i].value = 0;
    if (fields[i].id == 230 && CUDA >= 12080) { /* recovery action: driver 570 and newer */
      fields[i].code = OK;
      fields[i].value = number(d, "recovery_action", 0);
    }
    if (fields[i].id == 82 && cc(d) != 89) { /* memory temperature: HBM has a sensor */
      fields[i].code = OK;
      fields[i].value = number(d, "memory_temperature", 38);
    }
    if (fields[i].id == 90 && nvlinks(d)) { /* raw speed of every active link, MB/s */
      fields[i].code = OK;
      fields[i].value = number(d, "nvlink_mbps", cc(d) >= 100 ? 53125 : cc(d) >= 90 ? 26562 : cc(d) >= 80 ? 25000 : 25781);
    }
  }
  return OK;
}

/* ---- clocks, power, heat ------------------------------------------------------------------- */

int nvmlDeviceGetCurrentClocksEventReasons(device_t d, u64 *out) {
  REQUIRE(d);
  *out = number(d, "clocks_event_reasons", 1); /* 1: idle */
  return OK;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(device_t d, u64 *out) {
  return nvmlDeviceGetCurrentClocksEventReasons(d, out);
}
int nvmlDeviceGetSupportedClocksEventReasons(device_t d, u64 *out) {
  REQUIRE(d);
  *out = number(d, "clocks_supported_reasons", 0x1ff);
  return OK;
}
int nvmlDeviceGetSupportedClocksThrottleReasons(device_t d, u64 *out) {
  return nvmlDeviceGetSupportedClocksEventReasons(d, out);
}
static u32 memory_clock(device_t d) {
  return cc(d) >= 100 ? 3996 : cc(d) == 90 ? 2619 : cc(d) == 89 ? 9001 : 877;
}
static u32 sm_clock(device_t d) {
  return cc(d) >= 100 ? 1965 : cc(d) == 90 ? 1980 : cc(d) == 89 ? 2520 : 1530;
}
int nvmlDeviceGetClockInfo(device_t d, u32 kind, u32 *out) {
  REQUIRE(d);
  *out = (u32)(kind == 2 ? number(d, "clock_mem", memory_clock(d)) : number(d, "clock_sm", 345));
  return OK;
}
int nvmlDeviceGetMaxClockInfo(device_t d, u32 kind, u32 *out) {
  REQUIRE(d);
  *out = (u32)(kind == 2 ? number(d, "clock_mem_max", memory_clock(d))
                         : number(d, "clock_sm_max", sm_clock(d)));
  return OK;
}
int nvmlDeviceGetTemperature(device_t d, u32 sensor, u32 *out) {
  REQUIRE(d);
  if (sensor) return INVALID_ARGUMENT;
  *out = (u32)number(d, "temperature", 32);
  return OK;
}
struct temperature { u32 version, sensor; int value; };
int nvmlDeviceGetTemperatureV(device_t d, struct temperature *out) {
  if (out->version != 0x100000c) return ARGUMENT_VERSION_MISMATCH;
  return nvmlDeviceGetTemperature(d, out->sensor, (u32 *)&out->value);
}
int nvmlDeviceGetTemperatureThreshold(device_t d, u32 kind, u32 *out) {
  REQUIRE(d);
  if (kind > 3 || (kind == 2 && cc(d) == 89)) return NOT_SUPPORTED; /* HBM has a sensor */
  static const u32 healthy[] = {92, 87, 95, 85}; /* shutdown, slowdown, most of memory and of GPU */
  *out = kind == 1 ? (u32)number(d, "temperature_slowdown", healthy[1]) : healthy[kind];
  return OK;
}
int nvmlDeviceGetPowerUsage(device_t d, u32 *out) {
  REQUIRE(d);
  *out = (u32)number(d, "power_mw", 70000);
  return OK;
}
struct margin { u32 version; int left; }; /* Ada and newer tell what is left until they slow down */
int nvmlDeviceGetMarginTemperature(device_t d, struct margin *out) {
  if (out->version != 0x1000008) return ARGUMENT_VERSION_MISMATCH;
  REQUIRE(d);
  if (cc(d) < 89) return NOT_SUPPORTED;
  out->left = (int)number(d, "temperature_slowdown", 87) - (int)number(d, "temperature", 32);
  return OK;
}
static u32 power_limit(device_t d) {
  return cc(d) >= 100 ? 1000000 : cc(d) == 90 ? 700000 : cc(d) == 89 ? 350000 : 300000;
}
int nvmlDeviceGetPowerManagementDefaultLimit(device_t d, u32 *out) {
  REQUIRE(d);
  *out = (u32)number(d, "power_limit_default_mw", power_limit(d));
  return OK;
}
int nvmlDeviceGetEnforcedPowerLimit(device_t d, u32 *out) {
  REQUIRE(d);
  *out = (u32)number(d, "power_limit_mw", power_limit(d));
  return OK;
}
int nvmlDeviceGetPowerManagementLimit(device_t d, u32 *out) {
  return nvmlDeviceGetEnforcedPowerLimit(d, out);
}
int nvmlDeviceGetPowerManagementLimitConstraints(device_t d, u32 *low, u32 *high) {
  REQUIRE(d);
  *high = power_limit(d);
  *low = cc(d) == 90 ? 200000 : 100000;
  return OK;
}
int nvmlDeviceSetPowerManagementLimit(device_t d, u32 limit) {
  REQUIRE(d);
  return put(d, "power_limit_mw", limit);
}
struct utilization { u32 gpu, memory; };
int nvmlDeviceGetUtilizationRates(device_t d, struct utilization *out) {
  REQUIRE(d);
  *out = (struct utilization){(u32)number(d, "utilization", 0), 0};
  return OK;
}
struct violation { u64 reference_us, violation_us; };
int nvmlDeviceGetViolationStatus(device_t d, u32 kind, struct violation *out) {
  REQUIRE(d);
  if (kind > 1) return NOT_SUPPORTED;
  *out = (struct violation){1000000, number(d, kind ? "violation_thermal_ns" : "violation_power_ns", 0)};
  return OK;
}

/* ---- links --------------------------------------------------------------------------------- */

#define PCIE(name, file, otherwise)                  \
  int name(device_t d, u32 *out) {                   \
    REQUIRE(d);                                      \
    *out = (u32)number(d, file, otherwise);          \
    return OK;                                       \
  }
PCIE(nvmlDeviceGetCurrPcieLinkGeneration, "pcie_gen", 5)
PCIE(nvmlDeviceGetMaxPcieLinkGeneration, "pcie_gen_max", 5)
/* what the GPU is made for, whatever its slot can do */
PCIE(nvmlDeviceGetGpuMaxPcieLinkGeneration, "pcie_gen_gpu", number(d, "pcie_gen_max", 5))
PCIE(nvmlDeviceGetCurrPcieLinkWidth, "pcie_width", 16)
PCIE(nvmlDeviceGetMaxPcieLinkWidth, "pcie_width_max", 16)
PCIE(nvmlDeviceGetPcieReplayCounter, "pcie_replay", 0)

int nvmlDeviceGetNvLinkState(device_t d, u32 link, u32 *out) {
  REQUIRE(d);
  if (link >= 18) return INVALID_ARGUMENT;
  if (link >= nvlinks(d)) return NOT_SUPPORTED;
  *out = link < nvlinks(d) - (u32)number(d, "nvlinks_down", 0);
  return OK;
}
int nvmlDeviceGetNvLinkVersion(device_t d, u32 link, u32 *out) {
  REQUIRE(d);
  if (link >= nvlinks(d)) return NOT_SUPPORTED;
  *out = cc(d) >= 90 ? 4 : cc(d) >= 80 ? 3 : 2;
  return OK;
}
int nvmlDeviceGetNvLinkErrorCounter(device_t d, u32 link, u32 counter, u64 *out) {
  static const char *names[] = {"nvlink_replay", "nvlink_recovery", "nvlink_crc_flit", "nvlink_crc_data"};
  REQUIRE(d);
  if (link >= nvlinks(d) || counter > 3) return NOT_SUPPORTED;
  *out = link == 0 ? number(d, names[counter], 0) : 0; /* a bad cable is bad on one link */
  return OK;
}
int nvmlDeviceGetNvLinkCapability(device_t d, u32 link, u32 capability, u32 *out) {
  REQUIRE(d);
  if (link >= nvlinks(d)) return NOT_SUPPORTED;
  if (capability > 5) return INVALID_ARGUMENT;
  *out = capability != 4; /* all but SLI bridges */
  return OK;
}
int nvmlDeviceGetNvLinkRemoteDeviceType(device_t d, u32 link, u32 *out) {
  REQUIRE(d);
  if (link >= nvlinks(d)) return NOT_SUPPORTED;
  *out = sim_pci_count("0x068000") ? 2 : 0; /* a switch, or another GPU */
  return OK;
}
int nvmlDeviceGetP2PStatus(device_t a, device_t b, u32 index, u32 *out) {
  (void)index;
  REQUIRE(a);
  REQUIRE(b);
  *out = nvlinks(a) && nvlinks(b) ? 0 : 1; /* ok, or chipset not supported */
  return OK;
}
int nvmlDeviceGetTopologyCommonAncestor(device_t a, device_t b, u32 *out) {
  REQUIRE(a);
  REQUIRE(b);
  *out = a == b ? 0 : (a->index < gpu_count / 2) == (b->index < gpu_count / 2) ? 40 : 50;
  return OK;
}
/* state: 0 not supported, 1 not started, 2 in progress (what a GPU says until a fabric manager has
 * configured the switches), 3 completed; the tree says 0 or 3 */
static int fabric(device_t d, u32 *status, u32 *state) {
  REQUIRE(d);
  if (cc(d) < 90 || !nvlinks(d)) return NOT_SUPPORTED;
  *state = (u32)number(d, "fabric_state", 0);
  if (*state == 0) *state = 2;
  *status = OK;
  return OK;
}
struct fabric { unsigned char cluster[16]; u32 status, clique, state; };
int nvmlDeviceGetGpuFabricInfo(device_t d, struct fabric *out) {
  u32 status, state;
  int code = fabric(d, &status, &state);
  if (code) return code;
  memset(out, 0, sizeof *out);
  out->status = status, out->state = state;
  return OK;
}
struct fabric_v3 { u32 version; unsigned char cluster[16]; u32 status, clique, state, health, summary; };
int nvmlDeviceGetGpuFabricInfoV(device_t d, struct fabric_v3 *out) {
  u32 status, state;
  if (out->version != 0x2000024 && out->version != 0x3000028) return ARGUMENT_VERSION_MISMATCH;
  int code = fabric(d, &status, &state);
  if (code) return code;
  memset(out->cluster, 0, sizeof out->cluster);
  out->status = status, out->clique = 0, out->state = state;
  /* pairs of bits, 2 is no: bandwidth degraded, route recovers, route unhealthy, access timeout;
   * from bit 8 the configuration, 1 is right */
  out->health = (u32)number(d, "fabric_health", 0x1aa);
  if (out->version == 0x3000028) out->summary = (u32)number(d, "fabric_summary", 1); /* healthy */
  return OK;
}
