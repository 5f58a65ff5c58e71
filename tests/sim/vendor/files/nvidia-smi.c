/* A simulated nvidia-smi over whatever libnvidia-ml.so.1 the loader finds, as the real one is.
 *
 * Knows: no arguments (table), -L, -q, --query-gpu=, --query-compute-apps=, --format=csv[,noheader]
 * [,nounits], -i INDEX, -pm 0|1, and what smi-settings.h sets. Anything else: exit status 2.
 * Exit statuses and texts: NVIDIA's nvidia-smi manual page, RETURN VALUE (2 invalid argument, 6 query
 * found nothing, 9 driver not loaded, 12 library missing, 15 GPU lost, 18 as NVML codes go). */
#include "sim.h"
#include <dlfcn.h>

typedef void *device_t;
typedef unsigned int u32;
typedef unsigned long long u64;
static void *library;
static int only = -1, header = 1, units = 1;

static void *symbol(const char *name) {
  void *found = dlsym(library, name);
  if (!found) {
    printf("Function Not Found: %s\n", name);
    exit(13);
  }
  return found;
}
#define CALL(name, ...) (((int (*)())symbol(name))(__VA_ARGS__))

static void start(void) {
  library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
  if (!library) {
    puts("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the "
         "NVIDIA Display Driver is properly installed and present in your system.\n"
         "Please also try adding directory that contains libnvidia-ml.so to your system PATH.");
    exit(12);
  }
  int code = CALL("nvmlInitWithFlags", 0);
  if (code == 9) {
    puts("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure "
         "that the latest NVIDIA driver is installed and running.\n");
    exit(9);
  }
  if (code) {
    char version[80] = "";
    CALL("nvmlSystemGetNVMLVersion", version, (u32)sizeof version);
    char *major = strchr(version, '.');
    printf("Failed to initialize NVML: %s\nNVML library version: %s\n",
           ((const char *(*)(int))symbol("nvmlErrorString"))(code), major ? major + 1 : version);
    exit(code);
  }
}

static device_t device(u32 index) {
  device_t found;
  int code = CALL("nvmlDeviceGetHandleByIndex_v2", index, &found);
  if (code == 15) {
    printf("Unable to determine the device handle for GPU%u: GPU is lost.  Reboot the system to "
           "recover this GPU\n", index);
    exit(15);
  }
  if (code) {
    puts("No devices were found");
    exit(6);
  }
  return found;
}

/* ---- one value ----------------------------------------------------------------------------- */

enum kind { TEXT, COUNT, INDEX, DRIVER, NUMBER, PAIR_FIRST, PAIR_SECOND, BUS, MEMORY, ECC, REMAP, ON_OFF,
            MILLIWATT, POWER_MIN, POWER_MAX, CC, FABRIC, COMPUTE };
struct query { const char *name, *function, *unit; enum kind kind; u32 argument; };
static const struct query queries[] = {
    {"index", "", "", INDEX, 0},
    {"count", "", "", COUNT, 0},
    {"name", "nvmlDeviceGetName", "", TEXT, 0},
    {"gpu_name", "nvmlDeviceGetName", "", TEXT, 0},
    {"uuid", "nvmlDeviceGetUUID", "", TEXT, 0},
    {"gpu_uuid", "nvmlDeviceGetUUID", "", TEXT, 0},
    {"serial", "nvmlDeviceGetSerial", "", TEXT, 0},
    {"gpu_serial", "nvmlDeviceGetSerial", "", TEXT, 0},
    {"vbios_version", "nvmlDeviceGetVbiosVersion", "", TEXT, 0},
    {"driver_version", "nvmlSystemGetDriverVersion", "", DRIVER, 0},
    {"pci.bus_id", "nvmlDeviceGetPciInfo_v3", "", BUS, 0},
    {"gpu_bus_id", "nvmlDeviceGetPciInfo_v3", "", BUS, 0},
    {"compute_cap", "nvmlDeviceGetCudaComputeCapability", "", CC, 0},
    {"memory.total", "nvmlDeviceGetMemoryInfo", " MiB", MEMORY, 0},
    {"memory.free", "nvmlDeviceGetMemoryInfo", " MiB", MEMORY, 1},
    {"memory.used", "nvmlDeviceGetMemoryInfo", " MiB", MEMORY, 2},
    {"persistence_mode", "nvmlDeviceGetPersistenceMode", "", ON_OFF, 0},
    {"compute_mode", "nvmlDeviceGetComputeMode", "", COMPUTE, 0},
    {"mig.mode.current", "nvmlDeviceGetMigMode", "", PAIR_FIRST, 0},
    {"mig.mode.pending", "nvmlDeviceGetMigMode", "", PAIR_SECOND, 0},
    {"ecc.mode.current", "nvmlDeviceGetEccMode", "", PAIR_FIRST, 0},
    {"ecc.mode.pending", "nvmlDeviceGetEccMode", "", PAIR_SECOND, 0},
    {"ecc.errors.corrected.volatile.total", "nvmlDeviceGetTotalEccErrors", "", ECC, 0},
    {"ecc.errors.uncorrected.volatile.total", "nvmlDeviceGetTotalEccErrors", "", ECC, 1},
    {"ecc.errors.corrected.aggregate.total", "nvmlDeviceGetTotalEccErrors", "", ECC, 0},
    {"ecc.errors.uncorrected.aggregate.total", "nvmlDeviceGetTotalEccErrors", "", ECC, 1},
    {"remapped_rows.pending", "nvmlDeviceGetRemappedRows", "", REMAP, 2},
    {"remapped_rows.failure", "nvmlDeviceGetRemappedRows", "", REMAP, 3},
    {"pcie.link.gen.current", "nvmlDeviceGetCurrPcieLinkGeneration", "", NUMBER, 0},
    {"pcie.link.gen.gpucurrent", "nvmlDeviceGetCurrPcieLinkGeneration", "", NUMBER, 0},
    {"pcie.link.gen.max", "nvmlDeviceGetMaxPcieLinkGeneration", "", NUMBER, 0},
    {"pcie.link.width.current", "nvmlDeviceGetCurrPcieLinkWidth", "", NUMBER, 0},
    {"pcie.link.width.max", "nvmlDeviceGetMaxPcieLinkWidth", "", NUMBER, 0},
    {"temperature.gpu", "nvmlDeviceGetTemperature", "", NUMBER, 1},
    {"power.draw", "nvmlDeviceGetPowerUsage", " W", MILLIWATT, 0},
    {"power.limit", "nvmlDeviceGetPowerManagementLimit", " W", MILLIWATT, 0},
    {"enforced.power.limit", "nvmlDeviceGetEnforcedPowerLimit", " W", MILLIWATT, 0},
    {"power.default_limit", "nvmlDeviceGetPowerManagementDefaultLimit", " W", MILLIWATT, 0},
    {"power.min_limit", "nvmlDeviceGetPowerManagementLimitConstraints", " W", POWER_MIN, 0},
    {"power.max_limit", "nvmlDeviceGetPowerManagementLimitConstraints", " W", POWER_MAX, 0},
    {"clocks.current.sm", "nvmlDeviceGetClockInfo", " MHz", NUMBER, 2},
    {"clocks.max.sm", "nvmlDeviceGetMaxClockInfo", " MHz", NUMBER, 2},
    {"fabric.state", "nvmlDeviceGetGpuFabricInfo", "", FABRIC, 0},
    {"fabric.status", "nvmlDeviceGetGpuFabricInfo", "", FABRIC, 1},
};

static const struct query *lookup(const char *name) {
  for (size_t i = 0; i < sizeof queries / sizeof *queries; i++)
    if (!strcmp(queries[i].name, name)) return &queries[i];
  return 0;
}

static void show(char *out, size_t size, u32 index, u32 count, device_t d, const struct query *q) {
  char text[128] = "";
  u32 a = 0, b = 0, rows[4] = {0}, fabric[8] = {0}, pci[17] = {0};
  u64 memory[3] = {0}, errors = 0;
  const char *unit = units ? q->unit : "";
  int code = 0;
  switch (q->kind) {
    case INDEX: snprintf(text, sizeof text, "%u", index); break;
    case COUNT: snprintf(text, sizeof text, "%u", count); break;
    case TEXT: code = CALL(q->function, d, text, (u32)sizeof text); break;
    case DRIVER: code = CALL(q->function, text, (u32)sizeof text); break;
    case NUMBER: /* argument n > 0: the call takes n - 1 first */
      code = q->argument ? CALL(q->function, d, q->argument - 1, &a) : CALL(q->function, d, &a);
      snprintf(text, sizeof text, "%u%s", a, unit);
      break;
    case PAIR_FIRST:
      code = CALL(q->function, d, &a, &b);
      snprintf(text, sizeof text, "%s", a ? "Enabled" : "Disabled");
      break;
    case PAIR_SECOND:
      code = CALL(q->function, d, &a, &b);
      snprintf(text, sizeof text, "%s", b ? "Enabled" : "Disabled");
      break;
    case ON_OFF:
      code = CALL(q->function, d, &a);
      snprintf(text, sizeof text, "%s", a ? "Enabled" : "Disabled");
      break;
    case COMPUTE:
      code = CALL(q->function, d, &a);
      snprintf(text, sizeof text, "%s", a == 3 ? "Exclusive_Process" : a == 2 ? "Prohibited" : "Default");
      break;
    case BUS:
      code = CALL(q->function, d, pci);
      snprintf(text, sizeof text, "%s", (char *)pci + 36);
      break;
    case CC:
      code = CALL(q->function, d, &a, &b);
      snprintf(text, sizeof text, "%u.%u", a, b);
      break;
    case MEMORY:
      code = CALL(q->function, d, memory);
      snprintf(text, sizeof text, "%llu%s", memory[q->argument] >> 20, unit);
      break;
    case ECC:
      code = CALL(q->function, d, q->argument, 0, &errors);
      snprintf(text, sizeof text, "%llu", errors);
      break;
    case REMAP:
      code = CALL(q->function, d, rows, rows + 1, rows + 2, rows + 3);
      snprintf(text, sizeof text, "%s", rows[q->argument] ? "Yes" : "No");
      break;
    case MILLIWATT:
      code = CALL(q->function, d, &a);
      snprintf(text, sizeof text, "%u.%02u%s", a / 1000, a % 1000 / 10, unit);
      break;
    case POWER_MIN:
    case POWER_MAX:
      code = CALL(q->function, d, &a, &b);
      if (q->kind == POWER_MAX) a = b;
      snprintf(text, sizeof text, "%u.%02u%s", a / 1000, a % 1000 / 10, unit);
      break;
    case FABRIC:
      code = CALL(q->function, d, fabric);
      snprintf(text, sizeof text, "%s",
               fabric[6] == 3 ? (q->argument ? "Success" : "Completed")
                              : (q->argument ? "N/A" : "In Progress"));
      break;
  }
  if (code == 15) snprintf(text, sizeof text, "[GPU is lost]");
  else if (code == 3) snprintf(text, sizeof text, "[N/A]");
  else if (code) snprintf(text, sizeof text, "[Unknown Error]");
  snprintf(out, size, "%s", text);
}

/* ---- what it prints ------------------------------------------------------------------------ */

static int query_gpu(const char *wanted, u32 count) {
  const struct query *columns[64];
  int used = 0;
  char copy[2048], value[160];
  snprintf(copy, sizeof copy, "%s", wanted);
  for (char *rest = copy, *name; (name = strtok_r(rest, ", ", &rest)) && used < 64;) {
    columns[used] = lookup(name);
    if (!columns[used++]) {
      printf("Field \"%s\" is not a valid field to query.\n\n", name);
      return 2;
    }
  }
  for (int c = 0; header && c < used; c++) {
    printf("%s%s", c ? ", " : "", columns[c]->name);
    if (columns[c]->unit[0]) printf(" [%s]", columns[c]->unit + 1);
  }
  if (header) putchar('\n');
  for (u32 i = 0; i < count; i++) {
    if (only >= 0 && (u32)only != i) continue;
    device_t d = device(i);
    for (int c = 0; c < used; c++) {
      show(value, sizeof value, i, count, d, columns[c]);
      printf("%s%s", c ? ", " : "", value);
    }
    putchar('\n');
  }
  return 0;
}

struct process { u32 pid; u64 memory; u32 instance[2]; };
static int query_apps(const char *wanted, u32 count) {
  static const char *known[] = {"pid", "process_name", "gpu_uuid", "used_memory", "used_gpu_memory"};
  struct process found[64];
  int columns[8], used = 0;
  char copy[512], name[256], uuid[96];
  snprintf(copy, sizeof copy, "%s", wanted);
  for (char *rest = copy, *word; (word = strtok_r(rest, ", ", &rest)) && used < 8; used++) {
    for (columns[used] = 4; columns[used] >= 0 && strcmp(known[columns[used]], word);) columns[used]--;
    if (columns[used] < 0) {
      printf("Field \"%s\" is not a valid field to query.\n\n", word);
      return 2;
    }
  }
  for (int c = 0; header && c < used; c++)
    printf("%s%s%s%s", c ? ", " : "", known[columns[c]], columns[c] > 2 ? " [MiB]" : "",
           c + 1 == used ? "\n" : "");
  for (u32 i = 0; i < count; i++) {
    device_t d = device(i);
    u32 room = 64;
    if (CALL("nvmlDeviceGetComputeRunningProcesses_v3", d, &room, found)) continue;
    CALL("nvmlDeviceGetUUID", d, uuid, (u32)sizeof uuid);
    for (u32 p = 0; p < room; p++) {
      if (CALL("nvmlSystemGetProcessName", found[p].pid, name, (u32)sizeof name))
        strcpy(name, "[Not Found]");
      for (int c = 0; c < used; c++) {
        fputs(c ? ", " : "", stdout);
        if (columns[c] == 0) printf("%u", found[p].pid);
        else if (columns[c] < 3) fputs(columns[c] == 1 ? name : uuid, stdout);
        else printf("%llu%s", found[p].memory >> 20, units ? " MiB" : "");
      }
      putchar('\n');
    }
  }
  return 0;
}

static int table(u32 count) {
  char driver[80], name[96], bus[64], used[64], total[64];
  int cuda;
  CALL("nvmlSystemGetDriverVersion", driver, (u32)sizeof driver);
  CALL("nvmlSystemGetCudaDriverVersion_v2", &cuda);
  printf("NVIDIA-SMI %s   Driver Version: %s   CUDA Version: %d.%d   (simulated by gpufleet)\n", driver,
         driver, cuda / 1000, cuda % 1000 / 10);
  for (u32 i = 0; i < count; i++) {
    device_t d = device(i);
    show(name, sizeof name, i, count, d, lookup("name"));
    show(bus, sizeof bus, i, count, d, lookup("pci.bus_id"));
    show(used, sizeof used, i, count, d, lookup("memory.used"));
    show(total, sizeof total, i, count, d, lookup("memory.total"));
    printf("| %3u  %-28s %-18s %10s / %10s |\n", i, name, bus, used, total);
  }
  return 0;
}

#include "smi-settings.h"

static int list(u32 count) {
  char name[96], uuid[96];
  for (u32 i = 0; i < count; i++) {
    device_t d = device(i);
    show(name, sizeof name, i, count, d, lookup("name"));
    show(uuid, sizeof uuid, i, count, d, lookup("uuid"));
    printf("GPU %u: %s (UUID: %s)\n", i, name, uuid);
    list_devices(i);
  }
  return 0;
}

static int full(u32 count) {
  char value[160];
  printf("\n==============NVSMI LOG==============\n\nAttached GPUs : %u\n", count);
  for (u32 i = 0; i < count; i++) {
    if (only >= 0 && (u32)only != i) continue;
    device_t d = device(i);
    for (size_t q = 0; q < sizeof queries / sizeof *queries; q++) {
      show(value, sizeof value, i, count, d, &queries[q]);
      printf("    %-42s: %s\n", queries[q].name, value);
    }
    putchar('\n');
  }
  return 0;
}

static int persistence(u32 count, u32 mode) {
  for (u32 i = 0; i < count; i++) {
    if (only >= 0 && (u32)only != i) continue;
    int code = CALL("nvmlDeviceSetPersistenceMode", device(i), mode);
    if (code == 4) {
      printf("Unable to set persistence mode for GPU %u: Insufficient Permissions\n"
             "Terminating early due to previous errors.\n", i);
      return 4;
    }
    printf("%s persistence mode for GPU %u.\n", mode ? "Enabled" : "Disabled", i);
  }
  puts("All done.");
  return 0;
}

int main(int argc, char **argv) {
  const char *gpu = 0, *apps = 0;
  int listing = 0, log = 0, mode = -1;
  int (*set)(u32, device_t, const void *) = 0;
  u32 value = 0;
  if (argc > 1 && !strcmp(argv[1], "mig")) return mig_command(argc - 2, argv + 2);
  for (int i = 1; i < argc; i++) {
    const char *a = argv[i];
    if (!strcmp(a, "-L") || !strcmp(a, "--list-gpus")) listing = 1;
    else if (!strcmp(a, "-q") || !strcmp(a, "--query")) log = 1;
    else if (!strncmp(a, "--query-gpu=", 12)) gpu = a + 12;
    else if (!strncmp(a, "--query-compute-apps=", 21)) apps = a + 21;
    else if (!strncmp(a, "--format=csv", 12)) header = !strstr(a, "noheader"), units = !strstr(a, "nounits");
    else if (!strcmp(a, "-i") && i + 1 < argc) only = atoi(argv[++i]);
    else if (!strncmp(a, "--id=", 5)) only = atoi(a + 5);
    else if (!strcmp(a, "-pm") && i + 1 < argc) mode = atoi(argv[++i]);
    else if (!strncmp(a, "--persistence-mode=", 19)) mode = atoi(a + 19);
    else if (!strcmp(a, "-pl") && i + 1 < argc) set = set_power, value = 1000 * (u32)atoi(argv[++i]);
    else if (!strcmp(a, "-e") && i + 1 < argc) set = set_ecc, value = !!atoi(argv[++i]);
    else if (!strcmp(a, "-mig") && i + 1 < argc) set = set_mig, value = !!atoi(argv[++i]);
    else {
      printf("Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n\n");
      return 2;
    }
  }
  start();
  u32 count = 0;
  CALL("nvmlDeviceGetCount_v2", &count);
  if (!count) {
    puts("No devices were found");
    return 6;
  }
  if (mode >= 0) return persistence(count, (u32)mode);
  if (set) {
    int code = each(count, set, &value);
    if (!code) puts("All done.");
    return code;
  }
  if (gpu) return query_gpu(gpu, count);
  if (apps) return query_apps(apps, count);
  if (listing) return list(count);
  return log ? full(count) : table(count);
}
